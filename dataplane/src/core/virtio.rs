//! The header that a TUN with `IFF_VNET_HDR` puts before each packet. Source: virtio 1.2 §5.1.6, little-endian here
//! because every Linux host we build for is.

/// Size of the header, in bytes (without `num_buffers`).
pub const VIRTIO_BYTES: usize = 10;
/// The checksum from `checksum_start` on is to be filled in.
pub const NEEDS_CHECKSUM: u8 = 1;
/// No segmentation.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv6.
pub const GSO_TCP6: u8 = 4;
/// UDP, cut into datagrams.
pub const GSO_UDP_L4: u8 = 5;
/// Flag beside the type: the first TCP segment carries CWR.
pub const GSO_ECN: u8 = 0x80;

/// One header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Virtio {
    /// `NEEDS_CHECKSUM` or 0.
    pub flags: u8,
    /// One of the `GSO_` kinds, perhaps with `GSO_ECN`.
    pub gso: u8,
    /// Bytes of all headers of a superpacket.
    pub header_bytes: u16,
    /// Payload bytes of each segment.
    pub segment_bytes: u16,
    /// Where checksumming starts.
    pub checksum_start: u16,
    /// Where, from there, the checksum stands.
    pub checksum_offset: u16,
}

impl Virtio {
    /// Read the header before a packet; `None` if there is not even one.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        (bytes.len() >= VIRTIO_BYTES).then(|| Self {
            flags: bytes[0],
            gso: bytes[1],
            header_bytes: field(2),
            segment_bytes: field(4),
            checksum_start: field(6),
            checksum_offset: field(8),
        })
    }

    /// Write the header.
    pub fn write(&self) -> [u8; VIRTIO_BYTES] {
        let mut bytes = [0; VIRTIO_BYTES];
        bytes[0] = self.flags;
        bytes[1] = self.gso;
        bytes[2..4].copy_from_slice(&self.header_bytes.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.segment_bytes.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.checksum_start.to_le_bytes());
        bytes[8..].copy_from_slice(&self.checksum_offset.to_le_bytes());
        bytes
    }
}
