//! Packets on their way out: judged once when the TUN gives them, then cut into frames of the size that the path carries.
//!
//! A superpacket of TCP may be cut smaller than the kernel asked, since TCP is a stream; one of UDP may not, and a packet
//! that is no superpacket and does not fit goes as two fragments. The headers are written anew for each segment, and the checksum is
//! left to the receiver (docs/protocol.md §5.1).

use std::hash::Hasher;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use super::drops::Drop;
use super::frame::{pad_of, write_packet_header, Shape, PACKET_HEADER_BYTES};
use super::ip6::{
    checksum_offset, destination, finish_checksum, may_travel, source, transport_header_bytes, Reason,
    IP6_HEADER_BYTES, TCP, UDP,
};
use super::virtio::{Virtio, GSO_ECN, GSO_NONE, GSO_TCP6, GSO_UDP_L4, NEEDS_CHECKSUM, VIRTIO_BYTES};

const TCP_FLAGS: usize = 13;
const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;

/// A packet, or a superpacket being cut.
pub struct Packet {
    buffer: Box<[u8]>,
    end: usize,
    partial: bool,
    cut: Option<Cut>,
    sent: usize,
    /// Tells flows apart; equal for all packets of one flow.
    pub flow: u64,
    /// When it was queued.
    pub queued_at: Duration,
}

#[derive(Clone, Copy)]
struct Cut {
    tcp: bool,
    header: usize,
    segment: usize,
}

/// The first 8 bytes of the IPv6 header, and the ports.
pub type DatagramKind = [u8; 12];

/// Why a packet is refused, and what to tell its sender if anything.
pub type Refusal = (Drop, Option<Reason>);

impl Packet {
    /// Judge `buffer[..end]`: a virtio header and what follows. The buffer comes back with a refusal, for the error to quote.
    pub fn new(buffer: Box<[u8]>, end: usize, own: &[u8; 16], now: Duration) -> Result<Self, (Refusal, Box<[u8]>)> {
        let mut packet = Self { buffer, end, partial: false, cut: None, sent: 0, flow: 0, queued_at: now };
        match packet.judge(own) {
            Ok(()) => Ok(packet),
            Err(refusal) => Err((refusal, packet.buffer)),
        }
    }

    fn judge(&mut self, own: &[u8; 16]) -> Result<(), Refusal> {
        let virtio = Virtio::parse(&self.buffer[..self.end]).ok_or((Drop::TxBadLength, None))?;
        judge_ip6(self.ip6(), own)?;
        match virtio.gso & !GSO_ECN {
            GSO_NONE => self.judge_checksum(&virtio),
            kind => self.judge_superpacket(&virtio, kind),
        }?;
        self.flow = self.hash_flow();
        Ok(())
    }

    fn judge_checksum(&mut self, virtio: &Virtio) -> Result<(), Refusal> {
        if virtio.flags & NEEDS_CHECKSUM == 0 {
            return Ok(());
        }
        let (start, offset) = (usize::from(virtio.checksum_start), usize::from(virtio.checksum_offset));
        let ip6 = &mut self.buffer[VIRTIO_BYTES..self.end];
        let next_header = ip6[6];
        let transport = ip6.get_mut(start..).ok_or((Drop::TxBadLength, None))?;
        if start < IP6_HEADER_BYTES || offset + 2 > transport.len() {
            return Err((Drop::TxBadLength, None));
        }
        self.partial = start == IP6_HEADER_BYTES
            && checksum_offset(next_header) == Some(offset)
            && transport_header_bytes(next_header, transport).is_some();
        if !self.partial {
            let checksum = finish_checksum(transport);
            transport[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        Ok(())
    }

    fn judge_superpacket(&mut self, virtio: &Virtio, kind: u8) -> Result<(), Refusal> {
        let wanted = match kind {
            GSO_TCP6 => TCP,
            GSO_UDP_L4 => UDP,
            _ => return Err((Drop::TxBadHeader, None)),
        };
        let ip6 = self.ip6();
        let header = transport_header_bytes(ip6[6], &ip6[IP6_HEADER_BYTES..]);
        let (true, Some(header), 1..) = (ip6[6] == wanted, header, virtio.segment_bytes) else {
            return Err((Drop::TxBadHeader, None));
        };
        let is_cut = ip6.len() > IP6_HEADER_BYTES + header + usize::from(virtio.segment_bytes);
        self.partial = true;
        if is_cut {
            self.cut = Some(Cut { tcp: kind == GSO_TCP6, header, segment: virtio.segment_bytes.into() });
        }
        Ok(())
    }

    fn hash_flow(&self) -> u64 {
        let ip6 = self.ip6();
        let ports = &ip6[IP6_HEADER_BYTES..ip6.len().min(IP6_HEADER_BYTES + 4)];
        let mut hasher = SipHasher13::new();
        hasher.write_u8(ip6[6]);
        if matches!(ip6[6], TCP | UDP) {
            hasher.write(ports);
        }
        hasher.finish()
    }

    /// The IPv6 packet as the kernel gave it.
    pub fn ip6(&self) -> &[u8] {
        &self.buffer[VIRTIO_BYTES..self.end]
    }

    /// Its length in bytes, as a superpacket.
    pub fn bytes(&self) -> usize {
        self.end - VIRTIO_BYTES
    }

    /// Whether some of it was cut off already.
    pub fn is_begun(&self) -> bool {
        self.sent > 0
    }

    /// Whether all of it was.
    pub fn is_done(&self) -> bool {
        self.sent >= self.payload()
    }

    /// Send no more of it.
    pub fn abandon(&mut self) {
        self.sent = self.payload();
    }

    /// Give the buffer back to be read into again.
    pub fn into_buffer(self) -> Box<[u8]> {
        self.buffer
    }

    fn payload(&self) -> usize {
        let header = self.cut.map_or(0, |cut| cut.header);
        (self.bytes() - IP6_HEADER_BYTES - header).max(1)
    }

    /// The payload bytes of the next frame, if a frame may have `largest` bytes.
    fn step(&self, cut: Cut, largest: usize) -> usize {
        let room = if cut.tcp { largest - PACKET_HEADER_BYTES - cut.header } else { cut.segment };
        cut.segment.min(room).min(self.payload() - self.sent)
    }

    /// The size of the next frame, padding included, if a frame may have `largest` bytes. A packet that cannot be cut may
    /// exceed that, and is to be sent as fragments.
    pub fn next_frame_bytes(&self, largest: usize) -> usize {
        let body = match self.cut {
            Some(cut) => cut.header + self.step(cut, largest),
            None => self.bytes() - IP6_HEADER_BYTES,
        };
        let length = PACKET_HEADER_BYTES + body;
        length + pad_of(length)
    }

    /// What a UDP packet has in common with those of its flow that are as long; `None` for what cannot be joined to another.
    pub fn datagram_kind(&self) -> Option<DatagramKind> {
        let ip6 = self.ip6();
        let is_datagram = self.partial && self.cut.is_none() && ip6[6] == UDP && ip6.len() > IP6_HEADER_BYTES + 8;
        is_datagram.then(|| {
            let mut kind = [0; 12];
            kind[..8].copy_from_slice(&ip6[..8]);
            kind[8..].copy_from_slice(&ip6[IP6_HEADER_BYTES..IP6_HEADER_BYTES + 4]);
            kind
        })
    }

    /// Write the next frame, which fills `frame` exactly as `next_frame_bytes` said for the same `largest`. `joined`: it continues the
    /// frame before it, being of the same `datagram_kind`; what was cut knows that by itself.
    pub fn write_next_frame(&mut self, frame: &mut [u8], largest: usize, joined: bool) {
        match self.cut {
            Some(cut) => self.write_segment(frame, cut, largest),
            None => self.write_whole(frame, joined),
        }
    }

    fn write_whole(&mut self, frame: &mut [u8], joined: bool) {
        let ip6 = &self.buffer[VIRTIO_BYTES..self.end];
        let end = PACKET_HEADER_BYTES + ip6.len() - IP6_HEADER_BYTES;
        let shape = Shape { pad: (frame.len() - end) as u8, partial: self.partial, joined };
        write_packet_header(frame, ip6, shape);
        frame[PACKET_HEADER_BYTES..end].copy_from_slice(&ip6[IP6_HEADER_BYTES..]);
        frame[end..].fill(0);
        self.sent = self.payload();
    }

    fn write_segment(&mut self, frame: &mut [u8], cut: Cut, largest: usize) {
        let step = self.step(cut, largest);
        let ip6 = &self.buffer[VIRTIO_BYTES..self.end];
        let transport = &ip6[IP6_HEADER_BYTES..];
        let body = PACKET_HEADER_BYTES + cut.header;
        let shape = Shape { pad: (frame.len() - body - step) as u8, partial: true, joined: self.sent > 0 };
        write_packet_header(frame, ip6, shape);
        frame[PACKET_HEADER_BYTES..body].copy_from_slice(&transport[..cut.header]);
        let payload = &transport[cut.header + self.sent..][..step];
        frame[body..body + step].copy_from_slice(payload);
        frame[body + step..].fill(0);
        self.fix_header(&mut frame[PACKET_HEADER_BYTES..body], cut, step);
        self.sent += step;
    }

    fn fix_header(&self, transport: &mut [u8], cut: Cut, step: usize) {
        if !cut.tcp {
            transport[4..6].copy_from_slice(&((cut.header + step) as u16).to_be_bytes());
            return;
        }
        let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        transport[4..8].copy_from_slice(&sequence.wrapping_add(self.sent as u32).to_be_bytes());
        if self.sent > 0 {
            transport[TCP_FLAGS] &= !TCP_CWR;
        }
        if self.sent + step < self.payload() {
            transport[TCP_FLAGS] &= !TCP_FIN_PSH;
        }
    }
}

fn judge_ip6(ip6: &[u8], own: &[u8; 16]) -> Result<(), Refusal> {
    match ip6.first() {
        Some(first) if first >> 4 == 6 => {}
        Some(_) => return Err((Drop::TxNotIpv6, None)),
        None => return Err((Drop::TxBadLength, None)),
    }
    let length_said = ip6.get(4..6).map(|length| usize::from(u16::from_be_bytes([length[0], length[1]])));
    if length_said.is_none_or(|said| IP6_HEADER_BYTES + said != ip6.len()) {
        return Err((Drop::TxBadLength, None));
    }
    if source(ip6) != own {
        return Err((Drop::TxBadSource, None));
    }
    if destination(ip6)[0] != 0xfc {
        return Err((Drop::TxNotOverlay, None));
    }
    if !may_travel(ip6[6]) {
        return Err((Drop::TxBadHeader, Some(Reason::Prohibited)));
    }
    Ok(())
}
