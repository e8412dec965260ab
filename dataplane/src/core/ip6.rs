//! IPv6 packets: what may pass, and the ICMPv6 errors that say why something did not. Source: RFC 8200, RFC 4443.

use std::net::Ipv6Addr;

/// Size of an IPv6 header, in bytes.
pub const IP6_HEADER_BYTES: usize = 40;
/// Next header of TCP.
pub const TCP: u8 = 6;
/// Next header of UDP.
pub const UDP: u8 = 17;
/// Next header of ICMPv6.
pub const ICMP6: u8 = 58;
/// Largest ICMPv6 error, in bytes: the minimum MTU. Source: RFC 4443 §2.4.
const MAX_ERROR_BYTES: usize = 1280;
const ICMP6_HEADER_BYTES: usize = 8;
const DESTINATION_UNREACHABLE: u8 = 1;
const PACKET_TOO_BIG: u8 = 2;

/// Why a packet did not travel, as an ICMPv6 error says it. Source: RFC 4443 §3.1, §3.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The address is no friend's.
    NoRoute,
    /// A header that does not travel.
    Prohibited,
    /// The friend does not answer.
    Unreachable,
    /// The path carries packets of so many bytes.
    TooBig(u32),
}

impl Reason {
    /// Type, code and the four bytes that follow the checksum.
    fn fields(self) -> (u8, u8, [u8; 4]) {
        match self {
            Self::NoRoute => (DESTINATION_UNREACHABLE, 0, [0; 4]),
            Self::Prohibited => (DESTINATION_UNREACHABLE, 1, [0; 4]),
            Self::Unreachable => (DESTINATION_UNREACHABLE, 3, [0; 4]),
            Self::TooBig(mtu) => (PACKET_TOO_BIG, 0, mtu.to_be_bytes()),
        }
    }
}

/// Say whether packets with this next header travel. Headers that routers act on do not: hop-by-hop options, routing,
/// mobility, and those for experiments.
pub fn may_travel(next_header: u8) -> bool {
    !matches!(next_header, 0 | 43 | 60 | 135 | 139 | 140 | 253 | 254)
}

/// Where the checksum stands in the transport header, for protocols whose checksum may be left partial.
pub fn checksum_offset(next_header: u8) -> Option<usize> {
    match next_header {
        TCP => Some(16),
        UDP => Some(6),
        _ => None,
    }
}

/// The length of the transport header, if the protocol is TCP or UDP and the bytes hold all of it.
pub fn transport_header_bytes(next_header: u8, transport: &[u8]) -> Option<usize> {
    let length = match next_header {
        TCP => usize::from(*transport.get(12)? >> 4) * 4,
        UDP => 8,
        _ => return None,
    };
    let least = if next_header == TCP { 20 } else { 8 };
    (length >= least && length <= transport.len()).then_some(length)
}

/// The source address of a packet of at least 40 bytes.
pub fn source(packet: &[u8]) -> &[u8] {
    &packet[8..24]
}

/// The destination address of a packet of at least 40 bytes.
pub fn destination(packet: &[u8]) -> &[u8] {
    &packet[24..40]
}

fn sum(mut total: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        total += u64::from(u16::from_be_bytes([word[0], word[1]]));
    }
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    total
}

fn fold(mut total: u64) -> u16 {
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The sum over the pseudo-header, folded and not inverted: what a partial checksum field holds. Source: RFC 8200 §8.1.
pub fn pseudo_header_sum(source: &[u8], destination: &[u8], length: usize, next_header: u8) -> u16 {
    fold(sum(sum(length as u64 + u64::from(next_header), source), destination))
}

/// The checksum of bytes whose checksum field already holds the pseudo-header's sum.
pub fn finish_checksum(bytes: &[u8]) -> u16 {
    !fold(sum(0, bytes))
}

/// Make the ICMPv6 error that `own` sends to the source of a packet of at least 40 bytes.
pub fn write_error(own: &Ipv6Addr, reason: Reason, packet: &[u8]) -> Vec<u8> {
    let (kind, code, argument) = reason.fields();
    let quoted = &packet[..packet.len().min(MAX_ERROR_BYTES - IP6_HEADER_BYTES - ICMP6_HEADER_BYTES)];
    let length = ICMP6_HEADER_BYTES + quoted.len();
    let mut error = Vec::with_capacity(IP6_HEADER_BYTES + length);
    error.extend_from_slice(&[0x60, 0, 0, 0]);
    error.extend_from_slice(&(length as u16).to_be_bytes());
    error.extend_from_slice(&[ICMP6, 64]);
    error.extend_from_slice(&own.octets());
    error.extend_from_slice(source(packet));
    error.extend_from_slice(&[kind, code]);
    error.extend_from_slice(&pseudo_header_sum(&own.octets(), source(packet), length, ICMP6).to_be_bytes());
    error.extend_from_slice(&argument);
    error.extend_from_slice(quoted);
    let checksum = finish_checksum(&error[IP6_HEADER_BYTES..]);
    error[IP6_HEADER_BYTES + 2..IP6_HEADER_BYTES + 4].copy_from_slice(&checksum.to_be_bytes());
    error
}

/// Say whether a packet may be answered with an error at all: none is sent about an ICMPv6 error. Source: RFC 4443 §2.4.
pub fn may_be_answered(packet: &[u8]) -> bool {
    packet[6] != ICMP6 || packet.get(IP6_HEADER_BYTES).is_some_and(|kind| kind & 0x80 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_sums_to_zero_and_quotes_its_cause() {
        let own = Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 1);
        let mut packet = vec![0; 2000];
        packet[0] = 0x60;
        packet[8..24].copy_from_slice(&own.octets());
        let error = write_error(&own, Reason::NoRoute, &packet);
        assert_eq!(error.len(), MAX_ERROR_BYTES);
        let length = error.len() - IP6_HEADER_BYTES;
        let total = u64::from(pseudo_header_sum(source(&error), destination(&error), length, ICMP6));
        assert_eq!(fold(sum(total, &error[IP6_HEADER_BYTES..])), 0xffff);
        assert_eq!(error[48..], packet[..MAX_ERROR_BYTES - 48]);
    }

    #[test]
    fn checksum_of_the_rfc() {
        assert_eq!(finish_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }
}
