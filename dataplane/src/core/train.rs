//! A train: what one system call sends, filled from one friend's queue. Datagrams of the first one's size, until one is shorter, the
//! kernel's bounds are met, or nothing waits.

use std::time::Duration;

use super::drops::{Drop, Drops};
use super::frame::{largest_frame, write_fragment, FRAGMENT_HEADER_BYTES};
use super::message::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES};
use super::node::Transmit;
use super::packet::{DatagramKind, Packet};
use super::peer::Peer;
use super::session::Session;
use super::size::{IP6_OVERHEAD_BYTES, LEAST_IP_BYTES};

/// Size of the buffer a train is written to: the largest UDP payload over IPv4.
pub const TRAIN_BYTES: usize = 65_507;
/// Most datagrams of a train. Source: Linux `UDP_MAX_SEGMENTS` before 6.9.
pub const TRAIN_DATAGRAMS: usize = 64;

/// What the next packet of a queue does to a train.
enum Step {
    /// Another datagram may follow.
    Open,
    /// It is the last.
    Last,
    /// It did not fit.
    Full,
}

/// A train being filled.
pub struct Train<'a> {
    buffer: &'a mut [u8],
    bytes: usize,
    segment_bytes: usize,
    kind: Option<DatagramKind>,
}

impl<'a> Train<'a> {
    /// Begin an empty train in a buffer of `TRAIN_BYTES`.
    pub fn new(buffer: &'a mut [u8]) -> Self {
        Self { buffer, bytes: 0, segment_bytes: 0, kind: None }
    }

    /// Fill it from a peer's queue; `None` if nothing is to be sent. Buffers of finished packets go to `spent`.
    pub fn fill(
        mut self,
        peer: &mut Peer,
        drops: &mut Drops,
        spent: &mut Vec<Box<[u8]>>,
        now: Duration,
    ) -> Option<Transmit> {
        let to = peer.endpoint?;
        let largest = largest_frame(largest_datagram(peer));
        for _ in 0..TRAIN_DATAGRAMS {
            let spill = |dropped: Packet| {
                drops.count(Drop::TxCodel);
                spent.push(dropped.into_buffer());
            };
            let (Some(packet), Some(session)) = (peer.queue.front(now, spill), peer.current.as_deref_mut()) else {
                break;
            };
            let frame_bytes = packet.next_frame_bytes(largest);
            let step = if frame_bytes <= largest {
                self.push(packet, session, frame_bytes, largest)
            } else if frame_bytes <= largest_in_two(largest) {
                self.push_halves(packet, session, frame_bytes, &mut peer.fragment_id)
            } else {
                // The path shrank while it waited; the next one of its kind gets an error to its sender.
                drops.count(Drop::TxTooBig);
                packet.abandon();
                spent.extend(peer.queue.sent(0).map(Packet::into_buffer));
                continue;
            };
            if matches!(step, Step::Full) {
                break;
            }
            finish(peer, frame_bytes, spent);
            if matches!(step, Step::Last) {
                break;
            }
        }
        (self.bytes > 0).then_some(Transmit { to, bytes: self.bytes, segment_bytes: self.segment_bytes, peer: None })
    }

    /// Add the next frame of a packet as one datagram.
    fn push(&mut self, packet: &mut Packet, session: &mut Session, frame_bytes: usize, largest: usize) -> Step {
        let datagram_bytes = frame_bytes + DATA_OVERHEAD_BYTES;
        let is_longer = self.bytes > 0 && datagram_bytes > self.segment_bytes;
        if is_longer || self.bytes + datagram_bytes > self.buffer.len() {
            return Step::Full;
        }
        let before = std::mem::replace(&mut self.kind, packet.datagram_kind());
        let joined = self.kind.is_some() && self.kind == before;
        let datagram = &mut self.buffer[self.bytes..self.bytes + datagram_bytes];
        packet.write_next_frame(&mut datagram[DATA_HEADER_BYTES..DATA_HEADER_BYTES + frame_bytes], largest, joined);
        session.seal(datagram);
        self.bytes += datagram_bytes;
        self.segment_bytes = self.segment_bytes.max(datagram_bytes);
        if datagram_bytes < self.segment_bytes {
            Step::Last
        } else {
            Step::Open
        }
    }

    /// Add a packet that does not fit the path as two fragments, a train of their own.
    fn push_halves(&mut self, packet: &mut Packet, session: &mut Session, frame_bytes: usize, id: &mut u16) -> Step {
        if self.bytes > 0 {
            return Step::Full;
        }
        let mut frame = vec![0; frame_bytes];
        packet.write_next_frame(&mut frame, usize::MAX, false);
        *id = id.wrapping_add(1);
        for mut half in halves(*id, &frame) {
            session.seal(&mut half);
            self.buffer[self.bytes..self.bytes + half.len()].copy_from_slice(&half);
            self.bytes += half.len();
            self.segment_bytes = self.segment_bytes.max(half.len());
        }
        Step::Last
    }
}

fn finish(peer: &mut Peer, frame_bytes: usize, spent: &mut Vec<Box<[u8]>>) {
    if let Some(done) = peer.queue.sent(frame_bytes) {
        peer.traffic.tx_bytes += done.bytes() as u64;
        spent.push(done.into_buffer());
    }
}

/// The largest datagram that is known to reach a peer, in bytes of UDP payload.
pub fn largest_datagram(peer: &Peer) -> usize {
    peer.size.as_ref().map_or(LEAST_IP_BYTES - IP6_OVERHEAD_BYTES, |size| size.current)
}

/// The largest frame that two fragments carry, each in a frame of `largest` bytes.
pub fn largest_in_two(largest: usize) -> usize {
    2 * (largest - FRAGMENT_HEADER_BYTES)
}

/// The two fragments of a frame, to be sealed; the second is not longer than the first.
pub fn halves(id: u16, frame: &[u8]) -> [Vec<u8>; 2] {
    let (first, second) = frame.split_at(frame.len().div_ceil(2));
    [write_fragment(id, false, first), write_fragment(id, true, second)]
}
