//! The four datagrams, as bytes. Sizes and offsets are those of docs/protocol.md §3 and §4; nothing here decides.

/// First byte of an initiation.
pub const INITIATION: u8 = 1;
/// First byte of a response.
pub const RESPONSE: u8 = 2;
/// First byte of a cookie reply.
pub const COOKIE_REPLY: u8 = 3;
/// First byte of a data datagram.
pub const DATA: u8 = 4;

/// Size of keys, public, private and pre-shared, in bytes.
pub const KEY_BYTES: usize = 32;
/// Size of a Poly1305 tag, in bytes. Source: RFC 8439 §2.5.
pub const TAG_BYTES: usize = 16;
/// Size of mac1, mac2 and cookies, in bytes.
pub const MAC_BYTES: usize = 16;
/// Size of a TAI64N timestamp, in bytes.
pub const TIMESTAMP_BYTES: usize = 12;

const INDEX_BYTES: usize = 4;
const ENCRYPTED_KEY_BYTES: usize = KEY_BYTES + TAG_BYTES;
/// Plaintext size of an initiation's payload: timestamp, psk id, features.
pub const INITIATION_PAYLOAD_BYTES: usize = TIMESTAMP_BYTES + 4 + 4;
/// Plaintext size of a response's payload: features.
pub const RESPONSE_PAYLOAD_BYTES: usize = 4;
/// Size of Noise message 1.
pub const NOISE_1_BYTES: usize = KEY_BYTES + ENCRYPTED_KEY_BYTES + INITIATION_PAYLOAD_BYTES + TAG_BYTES;
/// Size of Noise message 2.
pub const NOISE_2_BYTES: usize = KEY_BYTES + RESPONSE_PAYLOAD_BYTES + TAG_BYTES;

const INITIATION_NOISE: usize = 1 + INDEX_BYTES;
const INITIATION_MAC1: usize = INITIATION_NOISE + NOISE_1_BYTES;
const INITIATION_MAC2: usize = INITIATION_MAC1 + MAC_BYTES;
/// Size of an initiation, 153 bytes.
pub const INITIATION_BYTES: usize = INITIATION_MAC2 + MAC_BYTES;

const RESPONSE_NOISE: usize = 1 + 2 * INDEX_BYTES;
const RESPONSE_MAC1: usize = RESPONSE_NOISE + NOISE_2_BYTES;
const RESPONSE_MAC2: usize = RESPONSE_MAC1 + MAC_BYTES;
/// Size of a response, 93 bytes.
pub const RESPONSE_BYTES: usize = RESPONSE_MAC2 + MAC_BYTES;

/// Size of the nonce of a cookie reply, in bytes (XChaCha20-Poly1305).
pub const COOKIE_NONCE_BYTES: usize = 24;
const COOKIE_NONCE: usize = 1 + INDEX_BYTES;
const COOKIE_BOX: usize = COOKIE_NONCE + COOKIE_NONCE_BYTES;
/// Size of a cookie reply, 61 bytes.
pub const COOKIE_REPLY_BYTES: usize = COOKIE_BOX + MAC_BYTES + TAG_BYTES;

/// Size of what stands before the ciphertext of a data datagram: type, receiver index, masked counter.
pub const DATA_HEADER_BYTES: usize = 1 + INDEX_BYTES + 8;
/// What a data datagram adds to its frame, in bytes.
pub const DATA_OVERHEAD_BYTES: usize = DATA_HEADER_BYTES + TAG_BYTES;

/// An initiation, borrowed from the datagram.
pub struct Initiation<'a> {
    /// The sender's name for the session.
    pub sender_index: u32,
    /// Noise message 1.
    pub noise: &'a [u8],
    /// The bytes that mac1 covers.
    pub mac1_over: &'a [u8],
    /// MAC under a key anyone can derive who knows the receiver's node key.
    pub mac1: &'a [u8],
    /// The bytes that mac2 covers.
    pub mac2_over: &'a [u8],
    /// MAC under a cookie, or zero.
    pub mac2: &'a [u8],
}

/// A response, borrowed from the datagram.
pub struct Response<'a> {
    /// The sender's name for the session.
    pub sender_index: u32,
    /// The index of the initiation that this answers.
    pub receiver_index: u32,
    /// Noise message 2.
    pub noise: &'a [u8],
    /// The bytes that mac1 covers.
    pub mac1_over: &'a [u8],
    /// MAC under a key derived from the initiation's ephemeral key.
    pub mac1: &'a [u8],
    /// Zero; anything else is refused, so that no bit can be flipped unseen.
    pub mac2: &'a [u8],
}

/// A cookie reply, borrowed from the datagram.
pub struct CookieReply<'a> {
    /// The index of the initiation that this answers.
    pub receiver_index: u32,
    /// XChaCha20-Poly1305 nonce, 24 bytes.
    pub nonce: &'a [u8],
    /// The encrypted cookie with its tag, 32 bytes.
    pub sealed: &'a [u8],
}

/// What a datagram is, by its first byte and length.
pub enum Datagram<'a> {
    /// Type 1.
    Initiation(Initiation<'a>),
    /// Type 2.
    Response(Response<'a>),
    /// Type 3.
    CookieReply(CookieReply<'a>),
    /// Type 4, with the receiver's index; the rest is for the session to read.
    Data(u32),
}

fn index_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Tell what a datagram is; `None` for what is of no known type or of a wrong length.
pub fn parse(bytes: &[u8]) -> Option<Datagram<'_>> {
    match (*bytes.first()?, bytes.len()) {
        (DATA, DATA_OVERHEAD_BYTES..) => Some(Datagram::Data(index_at(bytes, 1))),
        (INITIATION, INITIATION_BYTES) => Some(Datagram::Initiation(Initiation {
            sender_index: index_at(bytes, 1),
            noise: &bytes[INITIATION_NOISE..INITIATION_MAC1],
            mac1_over: &bytes[..INITIATION_MAC1],
            mac1: &bytes[INITIATION_MAC1..INITIATION_MAC2],
            mac2_over: &bytes[..INITIATION_MAC2],
            mac2: &bytes[INITIATION_MAC2..],
        })),
        (RESPONSE, RESPONSE_BYTES) => Some(Datagram::Response(Response {
            sender_index: index_at(bytes, 1),
            receiver_index: index_at(bytes, 1 + INDEX_BYTES),
            noise: &bytes[RESPONSE_NOISE..RESPONSE_MAC1],
            mac1_over: &bytes[..RESPONSE_MAC1],
            mac1: &bytes[RESPONSE_MAC1..RESPONSE_MAC2],
            mac2: &bytes[RESPONSE_MAC2..],
        })),
        (COOKIE_REPLY, COOKIE_REPLY_BYTES) => Some(Datagram::CookieReply(CookieReply {
            receiver_index: index_at(bytes, 1),
            nonce: &bytes[COOKIE_NONCE..COOKIE_BOX],
            sealed: &bytes[COOKIE_BOX..],
        })),
        _ => None,
    }
}

/// Write an initiation around its Noise message; `mac1` and `mac2` are asked for over the bytes they cover.
pub fn write_initiation(
    sender_index: u32,
    noise: &[u8],
    mac1: impl FnOnce(&[u8]) -> [u8; MAC_BYTES],
    mac2: impl FnOnce(&[u8]) -> [u8; MAC_BYTES],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(INITIATION_BYTES);
    bytes.push(INITIATION);
    bytes.extend_from_slice(&sender_index.to_be_bytes());
    bytes.extend_from_slice(noise);
    let mac1 = mac1(&bytes);
    bytes.extend_from_slice(&mac1);
    let mac2 = mac2(&bytes);
    bytes.extend_from_slice(&mac2);
    bytes
}

/// Write a response around its Noise message.
pub fn write_response(
    sender_index: u32,
    receiver_index: u32,
    noise: &[u8],
    mac1: impl FnOnce(&[u8]) -> [u8; MAC_BYTES],
) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(RESPONSE_BYTES);
    bytes.push(RESPONSE);
    bytes.extend_from_slice(&sender_index.to_be_bytes());
    bytes.extend_from_slice(&receiver_index.to_be_bytes());
    bytes.extend_from_slice(noise);
    let mac1 = mac1(&bytes);
    bytes.extend_from_slice(&mac1);
    bytes.extend_from_slice(&[0; MAC_BYTES]);
    bytes
}

/// Write a cookie reply.
pub fn write_cookie_reply(receiver_index: u32, nonce: &[u8; COOKIE_NONCE_BYTES], sealed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(COOKIE_REPLY_BYTES);
    bytes.push(COOKIE_REPLY);
    bytes.extend_from_slice(&receiver_index.to_be_bytes());
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(sealed);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_those_of_the_protocol_page() {
        assert_eq!(INITIATION_BYTES, 153);
        assert_eq!(RESPONSE_BYTES, 93);
        assert_eq!(COOKIE_REPLY_BYTES, 61);
        assert_eq!(DATA_OVERHEAD_BYTES, 29);
    }

    #[test]
    fn initiation_reads_back() {
        let bytes = write_initiation(7, &[9; NOISE_1_BYTES], |_| [1; 16], |_| [2; 16]);
        let Some(Datagram::Initiation(read)) = parse(&bytes) else { panic!("not an initiation") };
        assert_eq!((read.sender_index, read.mac1, read.mac2), (7, &[1; 16][..], &[2; 16][..]));
        assert_eq!(read.noise, &[9; NOISE_1_BYTES]);
    }

    #[test]
    fn response_reads_back() {
        let bytes = write_response(7, 8, &[9; NOISE_2_BYTES], |_| [1; 16]);
        let Some(Datagram::Response(read)) = parse(&bytes) else { panic!("not a response") };
        assert_eq!((read.sender_index, read.receiver_index, read.mac1), (7, 8, &[1; 16][..]));
    }

    proptest! {
        #[test]
        fn only_exact_lengths_parse(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let known = match bytes.first() {
                Some(1) => bytes.len() == INITIATION_BYTES,
                Some(2) => bytes.len() == RESPONSE_BYTES,
                Some(3) => bytes.len() == COOKIE_REPLY_BYTES,
                Some(4) => bytes.len() >= DATA_OVERHEAD_BYTES,
                _ => false,
            };
            prop_assert_eq!(parse(&bytes).is_some(), known);
        }
    }
}
