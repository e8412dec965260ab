//! Dialling: initiations out, responses and cookie replies in. Source: docs/protocol.md §3.

use std::net::SocketAddr;
use std::time::Duration;

use rand_chacha::rand_core::RngCore;
use subtle::ConstantTimeEq;

use super::cookie;
use super::drops::Drop;
use super::handshake::{Hello, Initiator};
use super::key::{cookie_key, mac, mac1_key, psk_id, public_key};
use super::message::{write_initiation, CookieReply, Response, MAC_BYTES};
use super::node::{Event, Node};
use super::peer::{Dial, Endpoint, Peer, PeerId, Pending, Purpose};
use super::session::{Session, Terms};

/// How long the first initiation may go unanswered.
pub const DIAL_TIMEOUT: Duration = Duration::from_millis(250);
/// To what that doubles, while there is traffic or the peer was there lately.
pub const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(4);
/// To what it doubles when nobody waits.
pub const DIAL_TIMEOUT_IDLE: Duration = Duration::from_secs(60);
/// Time between two initiations for which nobody waits: one costs 0.2 ms, and thousands of friends may be away at once.
const DIAL_SPACING: Duration = Duration::from_millis(4);
/// Attempts after which a peer counts as away, and the control plane is asked for better endpoints.
pub const ATTEMPTS: u32 = 6;
/// Attempts that go to the way in use only, when a session is alive.
const QUIET_ATTEMPTS: u32 = 2;
/// Attempts with the psk from ML-KEM before the friendship's own is tried.
const HYBRID_ATTEMPTS: u32 = 2;
const MAX_COOKIES: usize = 16;

impl Node {
    /// Begin to dial, or dial again at once; a peer that cannot be dialled stays as it is.
    pub(super) fn start_dial(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        if peer.can_be_dialled() {
            peer.dial = Some(Dial { attempts: 0, last_at: None, next_at: now, has_slot: false });
            self.schedule(id, now);
        }
    }

    /// Send the next initiation of a dial that is due.
    pub(super) fn dial_on(&mut self, id: PeerId, now: Duration) {
        let jitter = self.rng.next_u32() % 256;
        if !self.has_turn(id, now) {
            return;
        }
        let Some(peer) = self.peer(id) else { return };
        let Some(dial) = peer.dial else { return };
        let next_at = now + patience(dial.attempts, peer.queue.is_empty()) * (1024 + jitter) / 1024;
        peer.dial = Some(Dial { attempts: dial.attempts + 1, last_at: Some(now), next_at, has_slot: false });
        let key = peer.key;
        if (dial.attempts + 1) % ATTEMPTS == 0 {
            self.push_event(Event::Unreachable(key));
        }
        self.initiate(id, dial.attempts, now);
    }

    /// Say whether a peer's dial is due and may go out now. One for which somebody waits may at once; the others go at a pace, each in a slot
    /// that is given to it here.
    fn has_turn(&mut self, id: PeerId, now: Duration) -> bool {
        let slot = self.dial_slot;
        let Some(peer) = self.peer(id) else { return false };
        let is_urgent = peer.is_lost || !peer.queue.is_empty();
        let Some(dial) = peer.dial.as_mut().filter(|dial| now >= dial.next_at) else { return false };
        if is_urgent || dial.has_slot {
            return true;
        }
        if slot > now {
            (dial.next_at, dial.has_slot) = (slot, true);
        }
        self.dial_slot = slot.max(now) + DIAL_SPACING;
        slot <= now
    }

    fn initiate(&mut self, id: PeerId, attempt: u32, now: Duration) {
        let local_index = self.draw_index(id);
        let timestamp = self.timestamp(now);
        let (private, features) = (self.private, self.features);
        let Some(peer) = self.peers[id].as_deref_mut() else {
            return;
        };
        let private = peer.own.as_ref().map_or(private, |own| own.private);
        let hybrid = peer.hybrid_psk.filter(|_| attempt < HYBRID_ATTEMPTS);
        let named = hybrid.as_ref().map_or([0; 4], psk_id);
        let hello = Hello { timestamp, psk_id: named, features };
        let psk = hybrid.unwrap_or(peer.psk);
        let Some(initiator) = Initiator::new(&private, &peer.key, &psk, &hello) else {
            return;
        };
        let key = mac1_key(&peer.key);
        let targets = targets(peer, attempt, now);
        let mut mac1 = [0; MAC_BYTES];
        for to in targets {
            let cookie = peer.cookie_for(&to.remote, now);
            let datagram = write_initiation(
                local_index,
                &initiator.noise,
                |over| {
                    mac1 = mac(&key, &[over]);
                    mac1
                },
                |over| cookie.map_or([0; MAC_BYTES], |cookie| mac(&cookie, &[over])),
            );
            self.outbox.push_back((to, datagram, Some(id)));
        }
        let pending = Pending { initiator, local_index, mac1, is_hybrid: hybrid.is_some() };
        let replaced = self.peer(id).and_then(|peer| peer.pending.replace(Box::new(pending)));
        if let Some(replaced) = replaced {
            self.by_index.remove(&replaced.local_index);
        }
    }

    pub(super) fn finish_dial(&mut self, response: &Response<'_>, from: Endpoint, now: Duration) {
        let finished = self.by_index.get(&response.receiver_index).copied().and_then(|id| {
            let pending = self.peer(id)?.pending.as_mut().filter(|pending| is_answered(pending, response))?;
            let indices = (pending.local_index, response.sender_index);
            let terms = Terms { indices, is_hybrid: pending.is_hybrid, now };
            Some((id, pending.initiator.finish(response.noise, terms)?))
        });
        let Some((id, (session, keys))) = finished else {
            return self.drops.count(Drop::RxUnexpected);
        };
        self.log_keys(&session, &keys);
        if let Some(peer) = self.peer(id) {
            peer.pending = None;
        }
        self.establish(id, Box::new(session), from, now);
    }

    pub(super) fn keep_cookie(&mut self, reply: &CookieReply<'_>, from: Endpoint, now: Duration) {
        let opened = self.by_index.get(&reply.receiver_index).copied().and_then(|id| {
            let peer = self.peer(id)?;
            let pending = peer.pending.as_ref().filter(|pending| pending.local_index == reply.receiver_index)?;
            let cookie = cookie::open(&cookie_key(&peer.key), reply.nonce, reply.sealed, &pending.mac1)?;
            Some((id, cookie))
        });
        let Some((id, cookie)) = opened else {
            return self.drops.count(Drop::RxUnexpected);
        };
        let Some(peer) = self.peer(id) else { return };
        peer.cookies.retain(|(address, ..)| *address != from.remote);
        if peer.cookies.len() >= MAX_COOKIES {
            peer.cookies.remove(0);
        }
        peer.cookies.push((from.remote, cookie, now));
    }

    /// Make a session whose handshake we finished, or that the peer has first used, the current one.
    pub(super) fn establish(&mut self, id: PeerId, session: Box<Session>, from: Endpoint, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        let by_us = session.is_initiator;
        let oldest = std::mem::replace(&mut peer.previous, peer.current.replace(session));
        let key = peer.key;
        peer.dial = None;
        let pending = peer.pending.take();
        self.retire(oldest);
        if let Some(pending) = pending {
            self.by_index.remove(&pending.local_index);
        }
        self.move_to(id, from, now);
        self.heard(id, now);
        self.push_event(Event::Session(key, from));
        if by_us {
            self.probe(id, Purpose::Life, now);
        }
        self.activate(id, now);
        self.schedule(id, now);
    }

    /// The node key that a peer sees us as.
    pub fn public_key(&self) -> super::key::Key {
        public_key(&self.private)
    }
}

/// Say whether a response is to this initiation, by what anybody can check who saw it.
fn is_answered(pending: &Pending, response: &Response<'_>) -> bool {
    let key = mac1_key(pending.initiator.ephemeral());
    let is_ours = pending.local_index == response.receiver_index && response.mac2 == [0; MAC_BYTES];
    is_ours && bool::from(mac(&key, &[response.mac1_over]).ct_eq(response.mac1))
}

/// How long the initiation of this attempt is waited for.
fn patience(attempt: u32, is_idle: bool) -> Duration {
    let longest = if is_idle && attempt >= ATTEMPTS { DIAL_TIMEOUT_IDLE } else { DIAL_TIMEOUT_MAX };
    (DIAL_TIMEOUT * 2u32.saturating_pow(attempt.min(10))).min(longest)
}

/// Where an initiation goes: to the way in use while that may still work, else everywhere at once.
fn targets(peer: &Peer, attempt: u32, now: Duration) -> Vec<Endpoint> {
    if let Some(endpoint) = peer.endpoint.filter(|_| peer.is_live(now) && !peer.is_lost && attempt < QUIET_ATTEMPTS) {
        return vec![endpoint];
    }
    let in_use = peer.endpoint.map(|endpoint| endpoint.remote);
    let others = peer.endpoints.iter().copied().filter(|&address| Some(address) != in_use);
    let anywhere = |remote: SocketAddr| Endpoint { remote, local: None };
    in_use.into_iter().chain(others).map(anywhere).collect()
}
