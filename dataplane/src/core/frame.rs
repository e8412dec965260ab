//! Frames: what a data datagram says once decrypted. Source: docs/protocol.md §5.

use super::message::{DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES};

/// Frames are padded to a multiple of this, in bytes.
pub const FRAME_ALIGN: usize = 16;
/// Size of a probe's token, in bytes.
pub const TOKEN_BYTES: usize = 8;
/// Size of the header of a fragment: kind, last, id.
pub const FRAGMENT_HEADER_BYTES: usize = 4;
/// Size of what is left of the IPv6 header in a packet frame.
pub const PACKET_HEADER_BYTES: usize = 8;
/// Largest control message, in bytes.
pub const MAX_CONTROL_BYTES: usize = 2300;

const KIND_NOTHING: u8 = 0;
const KIND_FRAGMENT: u8 = 1;
const KIND_CONTROL: u8 = 2;
const KIND_PROBE: u8 = 3;
const KIND_PROBE_REPLY: u8 = 4;
const KIND_PACKET: u8 = 6;

const PARTIAL: u8 = 0x08;
const JOINED: u8 = 0x04;
const RESERVED: u8 = 0x03;
const LAST: u8 = 0x80;

/// A probe's random value, echoed by the reply.
pub type Token = [u8; TOKEN_BYTES];

/// The shape of a packet frame: how to make a packet of it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Zero bytes at the end, 0–15.
    pub pad: u8,
    /// The transport checksum is not filled in.
    pub partial: bool,
    /// Continues the packet with the counter before.
    pub joined: bool,
}

/// A frame, borrowed from the datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A sign of life.
    Nothing,
    /// One of two pieces of a frame.
    Fragment {
        /// Whether it is the second.
        last: bool,
        /// Which pair it belongs to.
        id: u16,
        /// Its part of the frame.
        bytes: &'a [u8],
    },
    /// A message for the control plane.
    Control(&'a [u8]),
    /// To be answered with the token.
    Probe(Token),
    /// The answer, with the size of the datagram that brought the probe.
    ProbeReply(Token, u16),
    /// An IPv6 packet; the bytes are the whole frame with its padding.
    Packet(Shape),
}

/// The number of zero bytes that bring `length` to a multiple of 16.
pub const fn pad_of(length: usize) -> usize {
    length.wrapping_neg() % FRAME_ALIGN
}

/// The size of the frame that a datagram of at most `datagram_bytes` can carry.
pub const fn largest_frame(datagram_bytes: usize) -> usize {
    (datagram_bytes - DATA_OVERHEAD_BYTES) / FRAME_ALIGN * FRAME_ALIGN
}

/// Read a frame; `None` if it is malformed or of an unknown kind.
pub fn parse(frame: &[u8]) -> Option<Frame<'_>> {
    let Some(&first) = frame.first() else {
        return Some(Frame::Nothing);
    };
    if first >> 4 == KIND_PACKET {
        return parse_shape(frame).map(Frame::Packet);
    }
    let body = unpad(frame, first & 0x0f)?;
    match first >> 4 {
        KIND_NOTHING => Some(Frame::Nothing),
        KIND_FRAGMENT => parse_fragment(body),
        KIND_CONTROL if body.len() <= 1 + MAX_CONTROL_BYTES => Some(Frame::Control(&body[1..])),
        KIND_PROBE => token_at(body).map(Frame::Probe),
        KIND_PROBE_REPLY if body.len() == 1 + TOKEN_BYTES + 2 => {
            Some(Frame::ProbeReply(token_at(body)?, u16::from_be_bytes([body[9], body[10]])))
        }
        _ => None,
    }
}

fn unpad(frame: &[u8], pad: u8) -> Option<&[u8]> {
    let body = &frame[..frame.len().checked_sub(pad.into())?];
    (!body.is_empty()).then_some(body)
}

fn token_at(body: &[u8]) -> Option<Token> {
    body.get(1..=TOKEN_BYTES)?.try_into().ok()
}

fn parse_fragment(body: &[u8]) -> Option<Frame<'_>> {
    let (head, bytes) = body.split_at_checked(FRAGMENT_HEADER_BYTES)?;
    let known = head[1] & !LAST == 0;
    known.then(|| Frame::Fragment { last: head[1] & LAST != 0, id: u16::from_be_bytes([head[2], head[3]]), bytes })
}

fn parse_shape(frame: &[u8]) -> Option<Shape> {
    let head: &[u8; PACKET_HEADER_BYTES] = frame.first_chunk()?;
    let flags = head[4];
    let shape = Shape { pad: flags >> 4, partial: flags & PARTIAL != 0, joined: flags & JOINED != 0 };
    let has_room = frame.len() >= PACKET_HEADER_BYTES + usize::from(shape.pad);
    let is_known = flags & RESERVED == 0 && head[5] == 0 && (shape.partial || !shape.joined);
    (has_room && is_known).then_some(shape)
}

/// Write the first 8 bytes of a packet frame from those of the IPv6 header.
pub fn write_packet_header(place: &mut [u8], ip6: &[u8], shape: Shape) {
    place[..4].copy_from_slice(&ip6[..4]);
    let partial = if shape.partial { PARTIAL } else { 0 };
    let joined = if shape.joined { JOINED } else { 0 };
    place[4] = shape.pad << 4 | partial | joined;
    place[5] = 0;
    place[6] = ip6[6];
    place[7] = ip6[7];
}

/// Give the whole datagram of a short frame, with room for the session's header and tag, ready to be sealed.
fn datagram(kind: u8, body: &[&[u8]], least_frame: usize) -> Vec<u8> {
    let length = 1 + body.iter().map(|part| part.len()).sum::<usize>();
    let zeros = least_frame.saturating_sub(length);
    let pad = pad_of(length + zeros);
    let mut bytes = Vec::with_capacity(DATA_OVERHEAD_BYTES + length + zeros + pad);
    bytes.resize(DATA_HEADER_BYTES, 0);
    bytes.push(kind << 4 | pad as u8);
    for part in body {
        bytes.extend_from_slice(part);
    }
    bytes.resize(DATA_OVERHEAD_BYTES + length + zeros + pad, 0);
    bytes
}

/// A control message, to be sealed.
pub fn write_control(message: &[u8]) -> Vec<u8> {
    datagram(KIND_CONTROL, &[message], 0)
}

/// A probe that makes a datagram of at most `datagram_bytes` and less than 16 fewer; to be sealed.
pub fn write_probe(token: &Token, datagram_bytes: usize) -> Vec<u8> {
    datagram(KIND_PROBE, &[token], largest_frame(datagram_bytes.max(DATA_OVERHEAD_BYTES + FRAME_ALIGN)))
}

/// The answer to a probe that came in a datagram of `datagram_bytes`; to be sealed.
pub fn write_probe_reply(token: &Token, datagram_bytes: usize) -> Vec<u8> {
    let length = u16::try_from(datagram_bytes).unwrap_or(u16::MAX);
    datagram(KIND_PROBE_REPLY, &[token, &length.to_be_bytes()], 0)
}

/// One of the two pieces of a frame; to be sealed.
pub fn write_fragment(id: u16, last: bool, bytes: &[u8]) -> Vec<u8> {
    datagram(KIND_FRAGMENT, &[&[if last { LAST } else { 0 }], &id.to_be_bytes(), bytes], 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(datagram: &[u8]) -> &[u8] {
        &datagram[DATA_HEADER_BYTES..datagram.len() - 16]
    }

    #[test]
    fn what_is_written_reads_back() {
        let token = [5; 8];
        assert_eq!(parse(frame(&write_control(b"hello"))), Some(Frame::Control(b"hello")));
        assert_eq!(parse(frame(&write_probe_reply(&token, 1400))), Some(Frame::ProbeReply(token, 1400)));
        let fragment = Frame::Fragment { last: true, id: 258, bytes: b"half" };
        assert_eq!(parse(frame(&write_fragment(258, true, b"half"))), Some(fragment));
        for size in [45, 61, 1232, 1452, 8972] {
            let probe = write_probe(&token, size);
            assert!(probe.len() <= size && probe.len() + 16 > size, "{size} {}", probe.len());
            assert_eq!(parse(frame(&probe)), Some(Frame::Probe(token)));
        }
    }

    #[test]
    fn a_packet_cut_off_anywhere_is_none() {
        for length in 1..PACKET_HEADER_BYTES {
            assert_eq!(parse(&[0x60; 8][..length]), None);
            assert_eq!(parse(&[0x60, 0, 0, 0, 0, 0, 0, 0][..length]), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(Frame::Control(body)) = parse(&bytes) {
                prop_assert_eq!(1 + body.len() + usize::from(bytes[0] & 15), bytes.len());
            }
        }
    }
}
