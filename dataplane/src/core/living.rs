//! What time brings: rekeying, probes for life, for the way and for its size, and what follows when they go unanswered.
//! Source: docs/protocol.md §3.5, §6.

use std::time::Duration;

use rand_chacha::rand_core::RngCore;

use super::drops::Drop;
use super::frame::{write_probe, write_probe_reply, Token, FRAME_ALIGN, TOKEN_BYTES};
use super::ip6::{may_be_answered, write_error, Reason};
use super::message::DATA_OVERHEAD_BYTES;
use super::node::{Event, Node};
use super::peer::{Candidate, Endpoint, Peer, PeerId, Probe, Purpose, PROBES};
use super::sending::HELD_FOR;
use super::session::{ERASE_AFTER, REJECT_AFTER};
use super::size::Size;

/// How long what was sent may go unanswered before a probe asks.
pub const LIFE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long each such probe may take.
pub const LIFE_PROBE_INTERVAL: Duration = Duration::from_millis(300);
/// How many probes ask before the peer counts as lost.
pub const LIFE_PROBES: u32 = 3;
/// Least time between two challenges to one address.
const CHALLENGE_INTERVAL: Duration = Duration::from_millis(500);
/// How long an answer to a probe is waited for at all.
const PROBE_LIFETIME: Duration = Duration::from_secs(10);
/// Size of a probe's reply, and of the least probe.
const SHORT_PROBE_BYTES: usize = DATA_OVERHEAD_BYTES + FRAME_ALIGN;
/// Size of a probe for life: an answer and a challenge together are no longer, should it come from a new address.
const LIFE_PROBE_BYTES: usize = DATA_OVERHEAD_BYTES + 4 * FRAME_ALIGN;

impl Peer {
    /// Something is sent: the keepalive rests.
    pub(super) fn sent(&mut self, datagrams: u64, now: Duration) {
        self.sent_at = now;
        self.traffic.tx_datagrams += datagrams;
    }

    /// What is sent calls for a sign of life.
    pub(super) fn await_life(&mut self, now: Duration) {
        self.unanswered_since.get_or_insert(now);
    }

    fn rekey_due(&self, now: Duration) -> Option<Duration> {
        let session = self.current.as_deref().filter(|_| self.dial.is_none() && self.can_be_dialled())?;
        let is_wanted = !self.keepalive.is_zero() || self.sent_at > session.created_at;
        let rekey_at = if session.is_alive(now) { session.rekey_at() } else { now };
        (is_wanted && (session.is_alive(now) || !self.keepalive.is_zero())).then_some(rekey_at)
    }

    fn life_due(&self, now: Duration) -> Option<Duration> {
        let since = self.unanswered_since.filter(|_| !self.is_lost && self.is_live(now) && self.endpoint.is_some())?;
        Some(since + LIFE_TIMEOUT + LIFE_PROBE_INTERVAL * self.life_probes)
    }

    fn keepalive_due(&self, now: Duration) -> Option<Duration> {
        let is_wanted = !self.keepalive.is_zero() && self.is_live(now) && self.endpoint.is_some();
        is_wanted.then(|| self.sent_at + self.keepalive)
    }

    fn size_due(&self, now: Duration) -> Option<Duration> {
        self.size.as_ref().filter(|_| self.is_live(now) && !self.is_lost)?.due_at(self.size_in_use)
    }

    fn erase_due(&self) -> Option<Duration> {
        let previous = self.previous.as_ref().map(|session| session.created_at + REJECT_AFTER);
        let next = self.next.as_ref().map(|(session, _)| session.created_at + REJECT_AFTER);
        let current = self.current.as_ref().map(|session| session.created_at + ERASE_AFTER);
        [previous, next, current].into_iter().flatten().min()
    }

    fn expire_due(&self, now: Duration) -> Option<Duration> {
        (!self.queue.is_empty() && !self.is_live(now)).then(|| self.held_since() + HELD_FOR)
    }

    fn held_since(&self) -> Duration {
        self.queue.oldest().unwrap_or(Duration::MAX - HELD_FOR)
    }

    fn resume_due(&self, now: Duration) -> Option<Duration> {
        (!self.queue.is_empty() && !self.is_active && self.is_live(now)).then_some(self.full_until)
    }

    /// When something is to be done for this peer, if ever.
    pub(super) fn due_at(&self, now: Duration) -> Option<Duration> {
        let dues = [
            self.dial.map(|dial| dial.next_at),
            self.rekey_due(now),
            self.life_due(now),
            self.keepalive_due(now),
            self.size_due(now),
            self.erase_due(),
            self.expire_due(now),
            self.resume_due(now),
        ];
        dues.into_iter().flatten().min()
    }
}

fn is_due(due_at: Option<Duration>, now: Duration) -> bool {
    due_at.is_some_and(|due_at| due_at <= now)
}

impl Node {
    /// Do what is due for one peer.
    pub(super) fn live(&mut self, id: PeerId, now: Duration) {
        self.erase(id, now);
        if self.peer(id).is_some_and(|peer| is_due(peer.rekey_due(now), now)) {
            self.start_dial(id, now);
        }
        self.dial_on(id, now);
        self.ask_for_life(id, now);
        self.keep_alive(id, now);
        self.ask_for_size(id, now);
        self.expire_held(id, now);
        self.activate(id, now);
    }

    fn erase(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        let previous = peer.previous.take_if(|session| now >= session.created_at + REJECT_AFTER);
        let next =
            peer.next.take_if(|(session, _)| now >= session.created_at + REJECT_AFTER).map(|(session, _)| session);
        let current = peer.current.take_if(|session| now >= session.created_at + ERASE_AFTER);
        for session in [previous, next, current] {
            self.retire(session);
        }
    }

    fn ask_for_life(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        if !is_due(peer.life_due(now), now) {
            return;
        }
        if peer.life_probes < LIFE_PROBES {
            peer.life_probes += 1;
            return self.probe(id, Purpose::Life, now);
        }
        peer.is_lost = true;
        let key = peer.key;
        self.push_event(Event::Lost(key));
        self.start_dial(id, now);
    }

    fn keep_alive(&mut self, id: PeerId, now: Duration) {
        if self.peer(id).is_some_and(|peer| is_due(peer.keepalive_due(now), now)) {
            self.probe(id, Purpose::Life, now);
        }
    }

    fn ask_for_size(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        if !is_due(peer.size_due(now), now) {
            return;
        }
        let in_use = std::mem::take(&mut peer.size_in_use);
        if let Some(bytes) = peer.size.as_mut().and_then(|size| size.poll(in_use, now)) {
            self.probe(id, Purpose::Size(bytes), now);
        }
    }

    fn expire_held(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        if !is_due(peer.expire_due(now), now) {
            return;
        }
        for packet in peer.queue.expire(now.saturating_sub(HELD_FOR)) {
            self.drops.count(Drop::TxUnreachable);
            if may_be_answered(packet.ip6()) && self.may_send_error(now) {
                self.errors.push(write_error(&self.address.into(), Reason::Unreachable, packet.ip6()));
            }
            self.spent.push(packet.into_buffer());
        }
    }

    /// Send a probe.
    pub(super) fn probe(&mut self, id: PeerId, purpose: Purpose, now: Duration) {
        let mut token: Token = [0; TOKEN_BYTES];
        self.rng.fill_bytes(&mut token);
        let Some(peer) = self.peer(id) else { return };
        let way = if let Purpose::Way(endpoint) = purpose { Some(endpoint) } else { peer.endpoint };
        let Some(to) = way else { return };
        peer.probes.retain(|probe| now < probe.sent_at + PROBE_LIFETIME);
        if peer.probes.len() >= PROBES {
            peer.probes.remove(0);
        }
        peer.probes.push(Probe { token, sent_at: now, purpose });
        let bytes = match purpose {
            Purpose::Life => LIFE_PROBE_BYTES,
            Purpose::Way(_) => SHORT_PROBE_BYTES,
            Purpose::Size(bytes) => bytes,
        };
        peer.await_life(now);
        self.seal_to(id, write_probe(&token, bytes), to, now);
    }

    pub(super) fn answer_probe(
        &mut self,
        id: PeerId,
        token: Token,
        from: Endpoint,
        datagram_bytes: usize,
        now: Duration,
    ) {
        if self.spend(id, from, SHORT_PROBE_BYTES) {
            self.seal_to(id, write_probe_reply(&token, datagram_bytes), from, now);
        }
    }

    /// Say whether so many bytes may go to an address: any to the validated one, to another no more than came from it.
    fn spend(&mut self, id: PeerId, to: Endpoint, bytes: usize) -> bool {
        let Some(peer) = self.peer(id) else {
            return false;
        };
        if peer.endpoint.is_some_and(|endpoint| endpoint.remote == to.remote) {
            return true;
        }
        let candidate = peer.candidate.as_mut().filter(|candidate| candidate.endpoint.remote == to.remote);
        let Some(candidate) = candidate.filter(|candidate| candidate.budget >= bytes) else {
            return false;
        };
        candidate.budget -= bytes;
        true
    }

    pub(super) fn probe_answered(&mut self, id: PeerId, token: Token, length: usize, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        let Some(place) = peer.probes.iter().position(|probe| probe.token == token) else {
            return;
        };
        let probe = peer.probes.swap_remove(place);
        peer.measure(now.saturating_sub(probe.sent_at));
        match probe.purpose {
            Purpose::Life => {}
            Purpose::Size(bytes) if length + FRAME_ALIGN > bytes => {
                peer.size.iter_mut().for_each(|size| size.confirm(bytes, now));
            }
            Purpose::Size(_) => {}
            Purpose::Way(endpoint) => self.way_proved(id, endpoint, now),
        }
    }

    fn way_proved(&mut self, id: PeerId, endpoint: Endpoint, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        let is_wanted = peer.candidate.take_if(|candidate| candidate.endpoint.remote == endpoint.remote).is_some();
        let key = peer.key;
        if is_wanted {
            self.move_to(id, endpoint, now);
            self.push_event(Event::Roamed(key, endpoint));
        }
    }

    /// Use this way from now on; what is known of another way's size is forgotten.
    pub(super) fn move_to(&mut self, id: PeerId, endpoint: Endpoint, now: Duration) {
        let underlay_mtu = self.underlay_mtu;
        let Some(peer) = self.peer(id) else { return };
        if peer.size.is_none() || peer.endpoint.is_none_or(|known| known.remote != endpoint.remote) {
            peer.size = Some(Size::new(&endpoint.remote, underlay_mtu, now));
        }
        peer.endpoint = Some(endpoint);
        peer.candidate = None;
    }

    /// The newest authentic datagram came from another address: challenge that one, and stay here until it answers.
    pub(super) fn came_from(&mut self, id: PeerId, from: Endpoint, datagram_bytes: usize, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        if let Some(known) = peer.endpoint.as_mut().filter(|known| known.remote == from.remote) {
            known.local = from.local;
            return;
        }
        let known = peer.candidate.take().filter(|candidate| candidate.endpoint.remote == from.remote);
        let mut candidate = known.unwrap_or(Candidate { endpoint: from, budget: 0, challenged_at: None });
        candidate.budget += datagram_bytes;
        let rested = candidate.challenged_at.is_none_or(|at| now >= at + CHALLENGE_INTERVAL);
        let challenges = rested && candidate.budget >= SHORT_PROBE_BYTES;
        if challenges {
            candidate.budget -= SHORT_PROBE_BYTES;
            candidate.challenged_at = Some(now);
        }
        peer.candidate = Some(candidate);
        if challenges {
            self.probe(id, Purpose::Way(from), now);
        }
    }

    /// Something authentic came.
    pub(super) fn heard(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        peer.heard_at = now;
        peer.unanswered_since = None;
        peer.life_probes = 0;
        if std::mem::take(&mut peer.is_lost) {
            peer.dial = peer.dial.filter(|_| !peer.is_live(now));
        }
    }

    /// Our own addresses changed: leave from whichever fits, show every live peer the new one, dial the others.
    pub fn handle_network_change(&mut self, underlay_mtu: usize, now: Duration) {
        self.underlay_mtu = underlay_mtu;
        for id in 0..self.peers.len() {
            let Some(peer) = self.peer(id) else { continue };
            let is_live = peer.is_live(now);
            if let Some(endpoint) = &mut peer.endpoint {
                endpoint.local = None;
                peer.size = Some(Size::new(&endpoint.remote, underlay_mtu, now));
            }
            if is_live {
                self.probe(id, Purpose::Life, now);
            } else if peer.dial.is_some() {
                self.start_dial(id, now);
            }
            self.schedule(id, now);
        }
    }

    /// The kernel says that a datagram of so many bytes does not leave the host.
    pub fn handle_too_large(&mut self, id: PeerId, bytes: usize, now: Duration) {
        if let Some(size) = self.peer(id).and_then(|peer| peer.size.as_mut()) {
            size.refuse(bytes, now);
            self.schedule(id, now);
        }
    }
}
