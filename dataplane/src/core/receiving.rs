//! Data datagrams: which session, what frame. Nothing changes before the tag is verified. Source: docs/protocol.md §4–§6.

use std::time::Duration;

use super::drops::Drop;
use super::frame::{self, Frame, Shape};
use super::message::DATA_HEADER_BYTES;
use super::node::{Event, Node};
use super::peer::{Endpoint, Half, Peer, PeerId, FRAGMENT_PAIRS, FRAGMENT_TIMEOUT};
use super::rejoin::Origin;

/// Which of a peer's sessions a datagram was for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Slot {
    Previous,
    Current,
    Next,
}

/// What is known of a datagram once its tag is verified.
struct Authentic {
    id: PeerId,
    index: u32,
    counter: u64,
    from: Endpoint,
    datagram_bytes: usize,
}

impl Node {
    pub(super) fn receive(&mut self, index: u32, from: Endpoint, datagram: &mut [u8], at: usize, now: Duration) {
        let Some(&id) = self.by_index.get(&index) else {
            return self.drops.count(Drop::RxUnknownIndex);
        };
        let Some(peer) = self.peers[id].as_deref_mut() else {
            return self.drops.count(Drop::RxUnknownIndex);
        };
        let slot = peer.slot(index);
        let Some((slot, session)) = slot else {
            return self.drops.count(Drop::RxUnknownIndex);
        };
        let datagram_bytes = datagram.len();
        let opened = match session.open(datagram, now) {
            Ok(opened) => opened,
            Err(drop) => return self.drops.count(drop),
        };
        let (counter, highest) = (opened.counter, opened.highest);
        let frame = opened.frame;
        peer.traffic.rx_datagrams += 1;
        let authentic = Authentic { id, index, counter, from, datagram_bytes };
        match slot {
            Slot::Next => self.confirm(&authentic, now),
            Slot::Current if highest && peer.endpoint.is_none_or(|endpoint| endpoint != from) => {
                self.came_from(id, from, datagram_bytes, now);
            }
            _ => {}
        }
        self.heard(id, now);
        self.handle_frame(&authentic, frame, at + DATA_HEADER_BYTES, now);
    }

    /// The peer has used the session it asked for: it becomes the current one.
    fn confirm(&mut self, datagram: &Authentic, now: Duration) {
        let next = self.peer(datagram.id).and_then(|peer| peer.next.take());
        if let Some((session, answered)) = next {
            self.establish(datagram.id, session, answered, now);
            if answered.remote != datagram.from.remote {
                self.came_from(datagram.id, datagram.from, datagram.datagram_bytes, now);
            }
        }
    }

    fn handle_frame(&mut self, datagram: &Authentic, bytes: &[u8], at: usize, now: Duration) {
        match frame::parse(bytes) {
            Some(Frame::Packet(shape)) => self.handle_packet_frame(datagram, bytes, at, shape),
            Some(Frame::Probe(token)) => {
                self.answer_probe(datagram.id, token, datagram.from, datagram.datagram_bytes, now)
            }
            Some(Frame::ProbeReply(token, length)) => self.probe_answered(datagram.id, token, length.into(), now),
            Some(Frame::Control(message)) => self.handle_control(datagram.id, message),
            Some(Frame::Fragment { last, id, bytes }) => self.handle_fragment(datagram, last, id, bytes, now),
            Some(Frame::Nothing) => {}
            None => self.drops.count(Drop::RxBadFrame),
        }
    }

    fn handle_packet_frame(&mut self, datagram: &Authentic, bytes: &[u8], at: usize, shape: Shape) {
        let Some(peer) = self.peers[datagram.id].as_deref_mut() else {
            return;
        };
        let Some(source) = &peer.address else {
            return self.drops.count(Drop::RxBadSource);
        };
        let origin = Origin { session: datagram.index, counter: datagram.counter, source, destination: &self.address };
        match self.rejoin.add(bytes, at, shape, origin) {
            Ok(length) => peer.traffic.rx_bytes += length as u64,
            Err(drop) => self.drops.count(drop),
        }
    }

    fn handle_control(&mut self, id: PeerId, message: &[u8]) {
        if let Some(key) = self.peer(id).map(|peer| peer.key) {
            self.push_event(Event::Control(key, message.to_vec()));
        }
    }

    fn handle_fragment(&mut self, datagram: &Authentic, last: bool, id: u16, bytes: &[u8], now: Duration) {
        let Some(peer) = self.peers[datagram.id].as_deref_mut() else {
            return;
        };
        let lost = peer.expire_halves(now);
        self.drops.add(Drop::RxFragmentLost, lost);
        let Some(peer) = self.peers[datagram.id].as_deref_mut() else {
            return;
        };
        let place = peer.halves.iter().position(|half| half.id == id && half.last != last);
        let Some(place) = place else {
            return self.keep_half(datagram.id, Half { id, last, bytes: bytes.to_vec(), at: now });
        };
        let other = peer.halves.swap_remove(place);
        let whole = if last { [&other.bytes, bytes].concat() } else { [bytes, &other.bytes].concat() };
        self.handle_whole(datagram, whole);
    }

    fn keep_half(&mut self, id: PeerId, half: Half) {
        let Some(peer) = self.peer(id) else { return };
        let full = peer.halves.len() >= FRAGMENT_PAIRS;
        if full {
            peer.halves.remove(0);
        }
        peer.halves.push(half);
        if full {
            self.drops.count(Drop::RxFragmentLost);
        }
    }

    /// A frame put together again: a packet or a control message; nothing else is ever that large.
    fn handle_whole(&mut self, datagram: &Authentic, bytes: Vec<u8>) {
        match frame::parse(&bytes) {
            Some(Frame::Control(message)) => self.handle_control(datagram.id, message),
            Some(Frame::Packet(shape)) => self.handle_whole_packet(datagram, bytes, shape),
            _ => self.drops.count(Drop::RxBadFrame),
        }
    }

    fn handle_whole_packet(&mut self, datagram: &Authentic, bytes: Vec<u8>, shape: Shape) {
        let Some(peer) = self.peers[datagram.id].as_deref_mut() else {
            return;
        };
        let Some(source) = &peer.address else {
            return self.drops.count(Drop::RxBadSource);
        };
        let origin = Origin { session: datagram.index, counter: datagram.counter, source, destination: &self.address };
        match self.rejoin.add_owned(bytes, shape, origin) {
            Ok(length) => peer.traffic.rx_bytes += length as u64,
            Err(drop) => self.drops.count(drop),
        }
    }
}

impl Peer {
    fn slot(&mut self, index: u32) -> Option<(Slot, &mut super::session::Session)> {
        let slots = [
            (Slot::Current, self.current.as_deref_mut()),
            (Slot::Previous, self.previous.as_deref_mut()),
            (Slot::Next, self.next.as_mut().map(|(session, _)| &mut **session)),
        ];
        slots.into_iter().find_map(|(slot, session)| Some((slot, session.filter(|found| found.local_index == index)?)))
    }

    fn expire_halves(&mut self, now: Duration) -> u64 {
        let before = self.halves.len();
        self.halves.retain(|half| now < half.at + FRAGMENT_TIMEOUT);
        (before - self.halves.len()) as u64
    }
}
