//! Packets from the TUN into the friends' queues, and trains of datagrams out of them: friends take turns by bytes (deficit round
//! robin), and short frames of our own go before all packets.

use std::time::Duration;

use super::drops::Drop;
use super::frame::{largest_frame, write_control, FRAME_ALIGN, MAX_CONTROL_BYTES, PACKET_HEADER_BYTES};
use super::ip6::{destination, may_be_answered, write_error, Reason, IP6_HEADER_BYTES};
use super::key::Key;
use super::message::{DATA_HEADER_BYTES, TAG_BYTES};
use super::node::{Node, Transmit};
use super::packet::Packet;
use super::peer::{Dial, Endpoint, PeerId};
use super::queue::QUEUE_BYTES;
use super::train::{halves, largest_datagram, largest_in_two, Train, TRAIN_BYTES};

/// What waits for a friend while a handshake runs, in bytes.
pub const HELD_BYTES: usize = 128 << 10;
/// How long it waits.
pub const HELD_FOR: Duration = Duration::from_secs(4);
/// How long a friend pauses whose class in the kernel is full.
pub const FULL_PAUSE: Duration = Duration::from_millis(2);
/// What a friend sends before the next has its turn, in bytes: one full train.
const TURN_BYTES: i64 = TRAIN_BYTES as i64;
/// Traffic shortens a back-off longer than this.
const IMPATIENCE: Duration = Duration::from_secs(1);

impl Node {
    /// Take what was read from the TUN: `buffer[..end]`, a virtio header and a packet.
    pub fn handle_packet(&mut self, buffer: Box<[u8]>, end: usize, now: Duration) {
        let packet = match Packet::new(buffer, end, &self.address, now) {
            Ok(packet) => packet,
            Err(((drop, reason), buffer)) => {
                self.refuse(drop, reason, buffer.get(super::virtio::VIRTIO_BYTES..end).unwrap_or_default(), now);
                return self.spent.push(buffer);
            }
        };
        let mut address = [0; 16];
        address.copy_from_slice(destination(packet.ip6()));
        match self.by_address.get(&address) {
            Some(&id) => self.enqueue(id, packet, now),
            None => self.give_up(packet, Drop::TxNoFriend, Reason::NoRoute, now),
        }
    }

    fn give_up(&mut self, packet: Packet, drop: Drop, reason: Reason, now: Duration) {
        self.refuse(drop, Some(reason), packet.ip6(), now);
        self.spent.push(packet.into_buffer());
    }

    fn refuse(&mut self, drop: Drop, reason: Option<Reason>, ip6: &[u8], now: Duration) {
        self.drops.count(drop);
        let Some(reason) = reason.filter(|_| may_be_answered(ip6)) else {
            return;
        };
        if self.may_send_error(now) {
            self.errors.push(write_error(&self.address.into(), reason, ip6));
        }
    }

    fn enqueue(&mut self, id: PeerId, packet: Packet, now: Duration) {
        let Some(peer) = self.peers[id].as_deref_mut() else {
            return;
        };
        let is_live = peer.is_live(now);
        if !is_live && !peer.can_be_dialled() {
            return self.give_up(packet, Drop::TxUnreachable, Reason::Unreachable, now);
        }
        let largest = largest_frame(largest_datagram(peer));
        if packet.next_frame_bytes(largest) > largest_in_two(largest) {
            let mtu = (largest_in_two(largest) - PACKET_HEADER_BYTES - FRAME_ALIGN + IP6_HEADER_BYTES) as u32;
            return self.give_up(packet, Drop::TxTooBig, Reason::TooBig(mtu), now);
        }
        let bound = if is_live { QUEUE_BYTES } else { HELD_BYTES };
        peer.queue.push(packet, bound, |dropped| {
            self.drops.count(Drop::TxQueueFull);
            self.spent.push(dropped.into_buffer());
        });
        if is_live {
            self.activate(id, now);
        } else {
            self.hurry(id, now);
        }
    }

    /// Somebody waits: dial now, unless that was just done.
    fn hurry(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peer(id) else { return };
        match &mut peer.dial {
            None => return self.start_dial(id, now),
            Some(Dial { last_at: Some(last_at), next_at, .. }) if *next_at > now + IMPATIENCE => {
                *next_at = now.max(*last_at + IMPATIENCE);
            }
            Some(_) => {}
        }
        self.schedule(id, now);
    }

    /// Put a peer with packets and a session in the round.
    pub(super) fn activate(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peers[id].as_deref_mut() else {
            return;
        };
        if !peer.is_active && !peer.queue.is_empty() && now >= peer.full_until && peer.is_live(now) {
            peer.is_active = true;
            self.active.push_back(id);
        }
    }

    /// The kernel's class of this peer is full: let it rest, and its queue do the dropping.
    pub fn handle_full(&mut self, id: PeerId, now: Duration) {
        self.drops.count(Drop::TxBackpressure);
        if let Some(peer) = self.peer(id) {
            peer.full_until = now + FULL_PAUSE;
            self.schedule(id, now);
        }
    }

    /// Write the next datagrams to be sent into `buffer`, of `TRAIN_BYTES`.
    pub fn poll_transmit(&mut self, buffer: &mut [u8], now: Duration) -> Option<Transmit> {
        if let Some((to, datagram, peer)) = self.outbox.pop_front() {
            buffer[..datagram.len()].copy_from_slice(&datagram);
            return Some(Transmit { to, bytes: datagram.len(), segment_bytes: datagram.len(), peer });
        }
        while let Some(&id) = self.active.front() {
            let train = self.take_turn(id, buffer, now);
            self.schedule(id, now);
            if train.is_some() {
                return train;
            }
        }
        None
    }

    /// One train of the peer whose turn it is; the turn ends when its deficit is spent or nothing is left.
    fn take_turn(&mut self, id: PeerId, buffer: &mut [u8], now: Duration) -> Option<Transmit> {
        let peer = self.peers[id].as_deref_mut();
        let Some(peer) = peer.filter(|peer| now >= peer.full_until && !peer.queue.is_empty() && peer.is_live(now))
        else {
            self.leave_round(id);
            return None;
        };
        if peer.deficit <= 0 {
            peer.deficit += TURN_BYTES;
            self.active.rotate_left(1);
            return None;
        }
        let Some(train) = Train::new(buffer).fill(peer, &mut self.drops, &mut self.spent, now) else {
            self.leave_round(id);
            return None;
        };
        peer.deficit -= train.bytes as i64;
        peer.sent(train.bytes.div_ceil(train.segment_bytes) as u64, now);
        peer.await_life(now);
        peer.size_in_use |= peer.size.as_ref().is_some_and(|size| train.segment_bytes > size.base());
        Some(Transmit { peer: Some(id), ..train })
    }

    fn leave_round(&mut self, id: PeerId) {
        self.active.pop_front();
        if let Some(peer) = self.peer(id) {
            peer.is_active = false;
            peer.deficit = 0;
        }
    }

    /// Send a control message; say whether a session stands to carry it.
    pub fn send_control(&mut self, key: &Key, message: &[u8], now: Duration) -> bool {
        let Some(&id) = self.by_key.get(key) else {
            return false;
        };
        if message.len() > MAX_CONTROL_BYTES {
            return false;
        }
        self.send_frame(id, write_control(message), now)
    }

    /// Seal a short frame and send it before all packets, in two if it is larger than the path.
    pub(super) fn send_frame(&mut self, id: PeerId, datagram: Vec<u8>, now: Duration) -> bool {
        let Some(peer) = self.peer(id) else {
            return false;
        };
        let Some(to) = peer.endpoint else {
            return false;
        };
        let largest = largest_datagram(peer);
        if datagram.len() <= largest {
            return self.seal_to(id, datagram, to, now);
        }
        peer.fragment_id = peer.fragment_id.wrapping_add(1);
        let halves = halves(peer.fragment_id, &datagram[DATA_HEADER_BYTES..datagram.len() - TAG_BYTES]);
        halves.into_iter().all(|half| self.seal_to(id, half, to, now))
    }

    /// Seal one datagram and queue it before all packets.
    pub(super) fn seal_to(&mut self, id: PeerId, mut datagram: Vec<u8>, to: Endpoint, now: Duration) -> bool {
        let Some(peer) = self.peer(id) else {
            return false;
        };
        let Some(session) = peer.live(now) else {
            return false;
        };
        session.seal(&mut datagram);
        peer.sent(1, now);
        self.outbox.push_back((to, datagram, Some(id)));
        true
    }
}
