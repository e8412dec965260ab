//! Keys and the hashes made of them. Source: docs/protocol.md §2, §3.

use blake2::digest::{consts::U16, FixedOutput, Mac, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use ring::digest::{digest, SHA512};
use siphasher::sip::SipHasher24;

use super::message::{KEY_BYTES, MAC_BYTES};

/// 32 bytes: a node key, a private key or a psk.
pub type Key = [u8; KEY_BYTES];

/// The points of low order on Curve25519 and its twist, top bit cleared, and their non-canonical encodings.
/// Source: RFC 7748 §7; the list of libsodium's `has_small_order`.
const LOW_ORDER: [Key; 7] = {
    let mut points = [[0u8; 32]; 7];
    points[1][0] = 1;
    points[2] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ];
    points[3] = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ];
    let mut near = [0xffu8; 32];
    near[31] = 0x7f;
    near[0] = 0xec;
    points[4] = near;
    near[0] = 0xed;
    points[5] = near;
    near[0] = 0xee;
    points[6] = near;
    points
};

/// Say whether a public key has low order, in any encoding.
pub fn is_low_order(key: &Key) -> bool {
    let mut masked = *key;
    masked[31] &= 0x7f;
    LOW_ORDER.contains(&masked)
}

/// The X25519 public key of a private key.
pub fn public_key(private: &Key) -> Key {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*private)).to_bytes()
}

/// The overlay address of a node key: the first 16 bytes of SHA-512 twice. Source: docs/protocol.md §2.
pub fn address_of_key(key: &Key) -> [u8; 16] {
    let twice = digest(&SHA512, digest(&SHA512, key).as_ref());
    let mut address = [0; 16];
    address.copy_from_slice(&twice.as_ref()[..16]);
    address
}

/// HASH(label ‖ key): BLAKE2s, 32 bytes.
pub fn labelled_hash(label: &[u8], key: &[u8]) -> Key {
    Blake2s256::new().chain_update(label).chain_update(key).finalize().into()
}

/// MAC(key, parts): keyed BLAKE2s, 16 bytes. `key` is 16 or 32 bytes.
pub fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_BYTES] {
    let Ok(mut state) = Blake2sMac::<U16>::new_from_slice(key) else {
        return [0; MAC_BYTES];
    };
    for part in parts {
        Update::update(&mut state, part);
    }
    state.finalize_fixed().into()
}

/// The key that mac1 of an initiation to `node_key`, or of a response to the ephemeral `node_key`, is made with.
pub fn mac1_key(node_key: &[u8]) -> Key {
    labelled_hash(b"f2ftun mac1", node_key)
}

/// The key that cookie replies of `node_key` are encrypted with.
pub fn cookie_key(node_key: &Key) -> Key {
    labelled_hash(b"f2ftun cookie", node_key)
}

/// The id by which an initiation names a psk that came from ML-KEM. Source: docs/protocol.md §3.1.
pub fn psk_id(psk: &Key) -> [u8; 4] {
    let hash = labelled_hash(b"f2ftun psk", psk);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// The function that hides counters in one direction of a session. Source: docs/protocol.md §3.3.
pub fn mask_hasher(session_key: &Key) -> SipHasher24 {
    SipHasher24::new_with_key(&mac(session_key, &[b"f2ftun mask"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_order_points_are_known_with_either_top_bit() {
        for point in LOW_ORDER {
            assert!(is_low_order(&point));
            let mut high = point;
            high[31] |= 0x80;
            assert!(is_low_order(&high));
            assert_eq!(x25519_dalek::x25519([0x42; 32], point), [0; 32], "has low order indeed");
        }
        assert!(!is_low_order(&public_key(&[7; 32])));
    }
}
