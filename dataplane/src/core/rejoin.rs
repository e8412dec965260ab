//! Packets on their way in: frames of one batch become packets, and runs of segments become superpackets again.
//!
//! The sender said which segments follow one another, so no TCP is parsed to find out; what is checked is that the kernel
//! gets a well-formed superpacket whatever a hostile friend said. Payloads stay where they were decrypted: a
//! run is a head of at most 110 bytes and a list of ranges, written with one call.

use std::ops::Range;

use super::drops::Drop;
use super::frame::{Shape, PACKET_HEADER_BYTES};
use super::ip6::{checksum_offset, may_travel, pseudo_header_sum, transport_header_bytes, IP6_HEADER_BYTES, TCP, UDP};
use super::virtio::{Virtio, GSO_ECN, GSO_TCP6, GSO_UDP_L4, NEEDS_CHECKSUM, VIRTIO_BYTES};

const TRANSPORT: usize = VIRTIO_BYTES + IP6_HEADER_BYTES;
const MAX_TCP_HEADER_BYTES: usize = 60;
const HEAD_BYTES: usize = TRANSPORT + MAX_TCP_HEADER_BYTES;
const MAX_PAYLOAD_BYTES: usize = 65_535;
/// Most segments in one superpacket: as many as the kernel's own GSO makes at 64 KB and the least MSS we meet.
const MAX_SEGMENTS: usize = 64;
const TCP_FLAGS: usize = 13;
const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;

/// Where a frame came from: only frames with the same origin and following counters are rejoined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Our index of the session.
    pub session: u32,
    /// The datagram's counter.
    pub counter: u64,
    /// The peer's address.
    pub source: &'a [u8; 16],
    /// Ours.
    pub destination: &'a [u8; 16],
}

/// One packet or superpacket for the TUN: `head`, then the ranges of `pieces`.
pub struct Run {
    head: [u8; HEAD_BYTES],
    head_bytes: usize,
    pieces: Range<usize>,
    owned: Option<Vec<u8>>,
    transport_bytes: usize,
    payload: usize,
    segment: usize,
    session: u32,
    counter: u64,
    is_open: bool,
}

/// The packets of one batch.
pub struct Rejoin {
    runs: Vec<Run>,
    pieces: Vec<Range<usize>>,
    largest: usize,
    with_udp: bool,
}

impl Rejoin {
    /// `largest`: bytes of the largest packet that a friend may send (the TUN's MTU). `with_udp`: the kernel takes UDP superpackets.
    pub fn new(largest: usize, with_udp: bool) -> Self {
        Self { runs: Vec::new(), pieces: Vec::new(), largest, with_udp }
    }

    /// Forget the batch.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.pieces.clear();
    }

    /// Say whether the batch has nothing for the TUN.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Add the packet of a frame that lies at `at` in the batch's arena. Gives the bytes of the packet.
    pub fn add(&mut self, frame: &[u8], at: usize, shape: Shape, origin: Origin<'_>) -> Result<usize, Drop> {
        let body = self.check(frame, shape)?;
        let bytes = IP6_HEADER_BYTES + body.len();
        if !(shape.joined && self.join(frame, body.clone(), at, origin)) {
            self.begin(frame, body, at, shape, origin);
        }
        Ok(bytes)
    }

    /// Add the packet of a frame that was put together from fragments, and lies in no arena.
    pub fn add_owned(&mut self, frame: Vec<u8>, shape: Shape, origin: Origin<'_>) -> Result<usize, Drop> {
        let body = self.check(&frame, shape)?;
        let bytes = IP6_HEADER_BYTES + body.len();
        self.begin(&frame, body, 0, shape, origin);
        if let Some(run) = self.runs.last_mut() {
            run.owned = Some(frame);
            run.is_open = false;
        }
        Ok(bytes)
    }

    fn check(&self, frame: &[u8], shape: Shape) -> Result<Range<usize>, Drop> {
        let body = PACKET_HEADER_BYTES..frame.len() - usize::from(shape.pad);
        if IP6_HEADER_BYTES + body.len() > self.largest {
            return Err(Drop::RxTooLarge);
        }
        let next_header = frame[6];
        let transport = &frame[body.clone()];
        let is_cut_off = shape.partial && transport_header_bytes(next_header, transport).is_none();
        if is_cut_off || !may_travel(next_header) {
            return Err(Drop::RxBadHeader);
        }
        Ok(body)
    }

    fn begin(&mut self, frame: &[u8], body: Range<usize>, at: usize, shape: Shape, origin: Origin<'_>) {
        let transport = &frame[body.clone()];
        // A segment's own header travels in the head only where it may have to change.
        let transport_bytes =
            if shape.partial { transport_header_bytes(frame[6], transport).unwrap_or_default() } else { 0 };
        let mut head = [0; HEAD_BYTES];
        let ip6 = &mut head[VIRTIO_BYTES..];
        ip6[..4].copy_from_slice(&frame[..4]);
        ip6[6..8].copy_from_slice(&frame[6..8]);
        ip6[8..24].copy_from_slice(origin.source);
        ip6[24..40].copy_from_slice(origin.destination);
        ip6[40..40 + transport_bytes].copy_from_slice(&transport[..transport_bytes]);
        let payload = at + body.start + transport_bytes..at + body.end;
        self.runs.push(Run {
            head,
            head_bytes: TRANSPORT + transport_bytes,
            pieces: self.pieces.len()..self.pieces.len() + 1,
            owned: None,
            transport_bytes,
            payload: payload.len(),
            segment: payload.len(),
            session: origin.session,
            counter: origin.counter,
            is_open: shape.partial && !payload.is_empty() && (frame[6] == TCP || frame[6] == UDP && self.with_udp),
        });
        self.pieces.push(payload);
    }

    fn join(&mut self, frame: &[u8], body: Range<usize>, at: usize, origin: Origin<'_>) -> bool {
        let Some(run) = self.runs.last_mut() else {
            return false;
        };
        let transport = &frame[body.clone()];
        let header = transport_header_bytes(frame[6], transport).unwrap_or_default();
        let payload = at + body.start + header..at + body.end;
        if !run.takes(frame, header, payload.len(), origin) {
            return false;
        }
        if frame[6] == TCP {
            run.head[TRANSPORT + TCP_FLAGS] |= transport[TCP_FLAGS] & TCP_FIN_PSH;
        }
        run.is_open = payload.len() == run.segment;
        run.counter = origin.counter;
        run.payload += payload.len();
        run.pieces.end += 1;
        self.pieces.push(payload);
        true
    }

    /// Finish every run's head. Call once, before `runs`.
    pub fn finish(&mut self) {
        for run in &mut self.runs {
            run.finish();
        }
    }

    /// The packets: head with virtio header, the ranges that follow it, and what these are ranges of if not of the arena.
    pub fn runs(&self) -> impl Iterator<Item = (&[u8], &[Range<usize>], Option<&[u8]>)> + '_ {
        self.runs
            .iter()
            .map(|run| (&run.head[..run.head_bytes], &self.pieces[run.pieces.clone()], run.owned.as_deref()))
    }
}

impl Run {
    fn takes(&self, frame: &[u8], header: usize, payload: usize, origin: Origin<'_>) -> bool {
        let ip6 = &self.head[VIRTIO_BYTES..];
        self.is_open
            && self.session == origin.session
            && self.counter.checked_add(1) == Some(origin.counter)
            && ip6[..4] == frame[..4]
            && ip6[6..8] == frame[6..8]
            && header == self.transport_bytes
            && (1..=self.segment).contains(&payload)
            && self.pieces.len() < MAX_SEGMENTS
            && self.transport_bytes + self.payload + payload <= MAX_PAYLOAD_BYTES
    }

    fn finish(&mut self) {
        let length = self.owned_length();
        let next_header = self.head[VIRTIO_BYTES + 6];
        self.head[VIRTIO_BYTES + 4..VIRTIO_BYTES + 6].copy_from_slice(&(length as u16).to_be_bytes());
        let (1.., Some(offset)) = (self.transport_bytes, checksum_offset(next_header)) else {
            return;
        };
        let ip6 = &self.head[VIRTIO_BYTES..];
        let sum = pseudo_header_sum(&ip6[8..24], &ip6[24..40], length, next_header);
        let transport = &mut self.head[TRANSPORT..];
        if next_header == UDP {
            transport[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        }
        transport[offset..offset + 2].copy_from_slice(&sum.to_be_bytes());
        let virtio = self.virtio(next_header, offset);
        self.head[..VIRTIO_BYTES].copy_from_slice(&virtio.write());
    }

    fn owned_length(&self) -> usize {
        self.transport_bytes + self.payload
    }

    fn virtio(&self, next_header: u8, checksum_offset: usize) -> Virtio {
        let mut virtio = Virtio {
            flags: NEEDS_CHECKSUM,
            checksum_start: IP6_HEADER_BYTES as u16,
            checksum_offset: checksum_offset as u16,
            ..Virtio::default()
        };
        if self.pieces.len() > 1 {
            let ecn = next_header == TCP && self.head[TRANSPORT + TCP_FLAGS] & TCP_CWR != 0;
            virtio.gso = if next_header == TCP { GSO_TCP6 } else { GSO_UDP_L4 } | if ecn { GSO_ECN } else { 0 };
            virtio.header_bytes = (IP6_HEADER_BYTES + self.transport_bytes) as u16;
            virtio.segment_bytes = self.segment as u16;
        }
        virtio
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{parse, Frame};
    use super::super::packet::Packet;
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const ALICE: [u8; 16] = [0xfc; 16];
    const BOB: [u8; 16] = [0xfc, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];

    fn superpacket(next_header: u8, transport: &[u8], payload: usize, segment: u16) -> Vec<u8> {
        let length = transport.len() + payload;
        let virtio = Virtio {
            flags: NEEDS_CHECKSUM,
            gso: if next_header == TCP { GSO_TCP6 } else { GSO_UDP_L4 },
            header_bytes: (40 + transport.len()) as u16,
            segment_bytes: segment,
            checksum_start: 40,
            checksum_offset: if next_header == TCP { 16 } else { 6 },
        };
        let mut bytes = virtio.write().to_vec();
        bytes.extend([0x60, 1, 2, 3]);
        bytes.extend((length as u16).to_be_bytes());
        bytes.extend([next_header, 64]);
        bytes.extend(ALICE);
        bytes.extend(BOB);
        bytes.extend(transport);
        bytes.extend((0..payload).map(|at| at as u8));
        bytes
    }

    fn tcp(flags: u8) -> Vec<u8> {
        let mut header = vec![0, 80, 0, 81, 0, 0, 1, 0, 0, 0, 2, 0, 0x80, flags, 1, 1, 0, 0, 0, 0];
        header.extend([1; 12]);
        header
    }

    /// Cut a superpacket into frames of at most `largest` bytes and lay them in an arena.
    fn cut(bytes: &[u8], largest: usize) -> (Vec<u8>, Vec<Range<usize>>) {
        let Ok(mut packet) = Packet::new(bytes.into(), bytes.len(), &ALICE, Duration::ZERO) else { panic!("refused") };
        let (mut arena, mut places) = (vec![0; 13], Vec::new());
        while !packet.is_done() {
            let (start, size) = (arena.len(), packet.next_frame_bytes(largest));
            arena.resize(start + size, 0xee);
            packet.write_next_frame(&mut arena[start..], largest, false);
            places.push(start..start + size);
            arena.resize(start + size + 29, 0);
        }
        (arena, places)
    }

    fn rejoin(arena: &[u8], places: &[Range<usize>], counters: impl Iterator<Item = u64>) -> Vec<Vec<u8>> {
        let mut rejoin = Rejoin::new(1400, true);
        for (place, counter) in places.iter().zip(counters) {
            let Some(Frame::Packet(shape)) = parse(&arena[place.clone()]) else { panic!("not a packet") };
            let origin = Origin { session: 1, counter, source: &ALICE, destination: &BOB };
            assert!(rejoin.add(&arena[place.clone()], place.start, shape, origin).is_ok());
        }
        rejoin.finish();
        let whole = |(head, pieces, _): (&[u8], &[Range<usize>], Option<&[u8]>)| {
            pieces.iter().fold(head.to_vec(), |mut all, piece| {
                all.extend(&arena[piece.clone()]);
                all
            })
        };
        rejoin.runs().map(whole).collect()
    }

    fn without_checksum(mut packet: Vec<u8>) -> Vec<u8> {
        let at = TRANSPORT + checksum_offset(packet[VIRTIO_BYTES + 6]).unwrap_or_default();
        packet[at..at + 2].fill(0);
        packet
    }

    #[test]
    fn a_superpacket_survives_the_journey() {
        let sent = superpacket(TCP, &tcp(0x99), 30_000, 1328);
        let (arena, places) = cut(&sent, 1376);
        let got = rejoin(&arena, &places, 5..);
        assert_eq!(got.len(), 1);
        let mut expected = sent.clone();
        expected[1] |= GSO_ECN;
        assert_eq!(without_checksum(got[0].clone()), without_checksum(expected));
    }

    #[test]
    fn udp_keeps_its_datagrams() {
        let sent = superpacket(UDP, &[0, 80, 0, 81, 0x0f, 0xa8, 0, 0], 4000, 1000);
        let (arena, places) = cut(&sent, 1376);
        assert_eq!(places.len(), 4);
        assert_eq!(without_checksum(rejoin(&arena, &places, 5..)[0].clone()), without_checksum(sent));
    }

    #[test]
    fn a_lost_segment_costs_itself_only() {
        let (arena, mut places) = cut(&superpacket(TCP, &tcp(0x10), 13_280, 1328), 1376);
        places.remove(4);
        let got = rejoin(&arena, &places, [0, 1, 2, 3, 5, 6, 7, 8, 9].into_iter());
        assert_eq!(
            got.iter().map(Vec::len).collect::<Vec<_>>(),
            [TRANSPORT + 32 + 4 * 1328, TRANSPORT + 32 + 5 * 1328]
        );
        assert_eq!(got[1][TRANSPORT + 4..TRANSPORT + 8], (0x100u32 + 5 * 1328).to_be_bytes());
    }

    #[test]
    fn flags_stand_where_tcp_has_them() {
        let (arena, places) = cut(&superpacket(TCP, &tcp(0x99), 4000, 1328), 1376);
        let flags: Vec<u8> = places.iter().map(|place| arena[place.start + 8 + TCP_FLAGS]).collect();
        assert_eq!(flags, [0x90, 0x10, 0x10, 0x19]);
    }

    proptest! {
        #[test]
        fn any_cut_rejoins_to_the_same_bytes(payload in 1usize..60_000, segment in 500u16..1328, path in 1200usize..1420) {
            let sent = superpacket(TCP, &tcp(0x18), payload, segment);
            let (arena, places) = cut(&sent, path / 16 * 16);
            let got = rejoin(&arena, &places, 0..);
            let bytes: Vec<u8> = got.iter().flat_map(|packet| packet[TRANSPORT + 32..].to_vec()).collect();
            prop_assert_eq!(&bytes[..], &sent[TRANSPORT + 32..]);
            prop_assert!(got.iter().all(|packet| packet.len() <= 65_585));
        }

        #[test]
        fn hostile_frames_make_whole_packets_or_none(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 8..100), 1..40)) {
            let mut rejoin = Rejoin::new(1400, true);
            let mut arena: Vec<u8> = Vec::new();
            for (counter, mut frame) in frames.into_iter().enumerate() {
                frame[0] = 0x60;
                frame[4] &= 0x0c;
                frame[5] = 0;
                frame[6] = if frame[6] & 1 == 0 { TCP } else { UDP };
                let at = arena.len();
                arena.extend(&frame);
                let Some(Frame::Packet(shape)) = parse(&frame) else { continue };
                let origin = Origin { session: 1, counter: counter as u64, source: &ALICE, destination: &BOB };
                let _ = rejoin.add(&frame, at, shape, origin);
            }
            rejoin.finish();
            for (head, pieces, _) in rejoin.runs() {
                let length: usize = pieces.iter().map(ExactSizeIterator::len).sum();
                let said = u16::from_be_bytes([head[VIRTIO_BYTES + 4], head[VIRTIO_BYTES + 5]]);
                prop_assert_eq!(usize::from(said), head.len() - TRANSPORT + length);
            }
        }
    }
}
