//! Answering initiations: what strangers send, so the cheapest checks come first. Source: docs/protocol.md §3.1, §3.4.

use std::time::Duration;

use rand_chacha::rand_core::RngCore;
use subtle::ConstantTimeEq;

use super::cookie;
use super::drops::Drop;
use super::handshake::{Hello, Responder};
use super::key::{mac, mac1_key, Key};
use super::message::{write_cookie_reply, write_response, Initiation, COOKIE_NONCE_BYTES, KEY_BYTES};
use super::node::Node;
use super::peer::{Endpoint, Peer, PeerId};
use super::session::Terms;

/// Least time between two answered initiations of one friend.
const ANSWER_INTERVAL: Duration = Duration::from_millis(50);
/// Datagrams that wait to be sent, above which no cookie reply joins them: a flood may not fill the memory.
const WAITING_COOKIES: usize = 1024;
/// Least time between two answers to a friend's initiations with old timestamps.
const STALE_INTERVAL: Duration = Duration::from_secs(1);

impl Node {
    pub(super) fn answer(&mut self, initiation: &Initiation<'_>, from: Endpoint, now: Duration) {
        if !bool::from(mac(&self.mac1_key, &[initiation.mac1_over]).ct_eq(initiation.mac1)) {
            return self.drops.count(Drop::RxBadMac);
        }
        let is_proven = self.secrets.verify(&from.remote, initiation.mac2_over, initiation.mac2);
        if self.load.count(&mut self.rng, now) && !self.is_served_under_load(is_proven, from) {
            self.drops.count(Drop::RxUnderLoad);
            if !is_proven {
                self.send_cookie(initiation, from, now);
            }
            return;
        }
        match self.judge(initiation, is_proven, now) {
            Ok((responder, id)) => self.respond(responder, id, initiation, from, now),
            Err(Drop::RxStale) => self.answer_stale(initiation, from, now),
            Err(drop) => self.drops.count(drop),
        }
    }

    fn is_served_under_load(&mut self, is_proven: bool, from: Endpoint) -> bool {
        let ip = from.remote.ip();
        if is_proven {
            return self.load.spend_proven(&ip);
        }
        self.expected.contains_key(&ip) && self.load.spend_expected(&ip)
    }

    fn judge(
        &mut self,
        initiation: &Initiation<'_>,
        is_proven: bool,
        now: Duration,
    ) -> Result<(Responder, PeerId), Drop> {
        let responder = Responder::read(&self.private, initiation.noise).ok_or(Drop::RxStranger)?;
        let id = *self.by_key.get(&responder.remote).ok_or(Drop::RxStranger)?;
        let peer = self.peer(id).ok_or(Drop::RxStranger)?;
        peer.psk_named(responder.hello.psk_id).ok_or(Drop::RxUnknownPsk)?;
        if !is_fresh(peer, &responder.hello, is_proven, now) {
            return Err(Drop::RxStale);
        }
        if peer.answered_at.is_some_and(|at| now < at + ANSWER_INTERVAL) {
            return Err(Drop::RxUnderLoad);
        }
        Ok((responder, id))
    }

    fn respond(
        &mut self,
        responder: Responder,
        id: PeerId,
        initiation: &Initiation<'_>,
        from: Endpoint,
        now: Duration,
    ) {
        let local_index = self.draw_index(id);
        let hello = responder.hello;
        let Some((psk, is_hybrid)) = self.peer(id).and_then(|peer| peer.psk_named(hello.psk_id)) else {
            return;
        };
        let terms = Terms { indices: (local_index, initiation.sender_index), is_hybrid, now };
        let features = self.features;
        let Some((noise, session, keys)) = responder.respond(&psk, features, terms) else {
            self.by_index.remove(&local_index);
            return self.drops.count(Drop::RxStranger);
        };
        self.log_keys(&session, &keys);
        let key: Key = mac1_key(&initiation.noise[..KEY_BYTES]);
        let response = write_response(local_index, initiation.sender_index, &noise, |over| mac(&key, &[over]));
        let Some(peer) = self.peer(id) else { return };
        peer.newest_timestamp = Some(hello.timestamp);
        peer.answered_at = Some(now);
        let replaced = peer.next.replace((Box::new(session), from));
        self.retire(replaced.map(|(session, _)| session));
        self.outbox.push_back((from, response, Some(id)));
    }

    fn answer_stale(&mut self, initiation: &Initiation<'_>, from: Endpoint, now: Duration) {
        self.drops.count(Drop::RxStale);
        let known = Responder::read(&self.private, initiation.noise).map(|responder| responder.remote);
        let Some(&id) = known.and_then(|key| self.by_key.get(&key)) else {
            return;
        };
        let Some(peer) = self.peer(id) else { return };
        if peer.stale_at.is_none_or(|at| now >= at + STALE_INTERVAL) {
            peer.stale_at = Some(now);
            self.send_cookie(initiation, from, now);
        }
    }

    fn send_cookie(&mut self, initiation: &Initiation<'_>, from: Endpoint, now: Duration) {
        if self.outbox.len() >= WAITING_COOKIES {
            return;
        }
        let cookie = self.secrets.cookie(&from.remote, &mut self.rng, now);
        let mut nonce = [0; COOKIE_NONCE_BYTES];
        self.rng.fill_bytes(&mut nonce);
        let sealed = cookie::seal(&self.cookie_key, &nonce, &cookie, initiation.mac1);
        self.outbox.push_back((from, write_cookie_reply(initiation.sender_index, &nonce, &sealed), None));
    }
}

/// A timestamp is fresh if it is the highest; or, the sender's clock having gone back, if the sender proves to be there
/// now and it is not the one stored, at most once a second.
fn is_fresh(peer: &mut Peer, hello: &Hello, is_proven: bool, now: Duration) -> bool {
    let Some(newest) = peer.newest_timestamp else {
        return true;
    };
    if hello.timestamp > newest {
        return true;
    }
    let rested = peer.stale_at.is_none_or(|at| now >= at + STALE_INTERVAL / 2);
    let accepted = is_proven && hello.timestamp != newest && rested;
    if accepted {
        peer.stale_at = Some(now);
    }
    accepted
}
