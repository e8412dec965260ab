//! One session: the two directions' keys, counters and window, and the data datagrams they make.
//!
//! Order on receipt: find by index, unmask the counter, look at the window, decrypt, and only then mark. Nothing changes
//! before the tag is verified. Source: docs/protocol.md §4.

use std::hash::Hasher;
use std::time::Duration;

use ring::aead::{Aad, Algorithm, LessSafeKey, Nonce, UnboundKey, AES_256_GCM, CHACHA20_POLY1305};
use siphasher::sip::SipHasher24;

use super::drops::Drop;
use super::key::{mask_hasher, Key};
use super::message::{DATA, DATA_HEADER_BYTES, DATA_OVERHEAD_BYTES, TAG_BYTES};
use super::replay::Replay;

/// Age at which the initiator starts the next handshake.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// Age at which the responder does, should the initiator not have.
pub const REKEY_AFTER_RESPONDER: Duration = Duration::from_secs(150);
/// Age past which nothing is sent or accepted.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// Age of the newest session at which all keys of a peer are erased.
pub const ERASE_AFTER: Duration = Duration::from_secs(540);
/// Number of datagrams at which a rekey starts.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Number of datagrams past which nothing is sent or accepted.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// Number of datagrams at which a rekey starts under AES-GCM: keeps the advantage of an attacker below 2⁻⁶⁰ for datagrams of 1.5 KB.
/// Source: RFC 9001 §B.1, whose bound this is with its packet length put in.
pub const REKEY_AFTER_MESSAGES_AES: u64 = 1 << 27;

/// The cipher of a session's data, as the handshake's features agreed. Source: docs/protocol.md §3.1, §4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// What every node has. Source: RFC 8439.
    ChaCha20Poly1305,
    /// Where both have it in hardware. Source: NIST SP 800-38D.
    Aes256Gcm,
}

impl Cipher {
    /// The name in a key log.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChaCha20Poly1305 => "chacha20-poly1305",
            Self::Aes256Gcm => "aes-256-gcm",
        }
    }

    fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Self::Aes256Gcm => &AES_256_GCM,
        }
    }

    fn rekey_after_messages(self) -> u64 {
        match self {
            Self::ChaCha20Poly1305 => REKEY_AFTER_MESSAGES,
            Self::Aes256Gcm => REKEY_AFTER_MESSAGES_AES,
        }
    }
}

/// What both ends know of a session besides its keys.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Our index and the peer's.
    pub indices: (u32, u32),
    /// Whether the psk came from ML-KEM.
    pub is_hybrid: bool,
    /// When the handshake ended.
    pub now: Duration,
}

/// What came out of an authentic datagram.
pub struct Opened<'a> {
    /// The frame, decrypted in place.
    pub frame: &'a mut [u8],
    /// Where the frame starts in the datagram.
    pub counter: u64,
    /// Whether no higher counter came before on this session.
    pub highest: bool,
}

/// Keys and counters between two devices, for at most `REJECT_AFTER`.
pub struct Session {
    /// Our name for it: what the peer's datagrams carry.
    pub local_index: u32,
    /// The peer's name for it: what ours carry.
    pub remote_index: u32,
    /// When the handshake ended.
    pub created_at: Duration,
    /// Whether we started the handshake, and so start the next.
    pub is_initiator: bool,
    /// Whether the psk came from ML-KEM.
    pub is_hybrid: bool,
    /// What its data is encrypted with.
    pub cipher: Cipher,
    sealing: Direction,
    opening: Direction,
    sent: u64,
    replay: Replay,
}

struct Direction {
    key: LessSafeKey,
    mask: SipHasher24,
}

impl Direction {
    fn new(key: &Key, cipher: Cipher) -> Self {
        // The key is exactly as long as the algorithm asks, the one reason for which this fails.
        let Ok(unbound) = UnboundKey::new(cipher.algorithm(), key) else { unreachable!("32-byte key") };
        Self { key: LessSafeKey::new(unbound), mask: mask_hasher(key) }
    }

    fn mask(&self, tag: &[u8]) -> u64 {
        let mut hasher = self.mask;
        hasher.write(tag);
        hasher.finish()
    }

    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }
}

impl Session {
    /// Begin a session. `keys`: of the receiving and of the sending direction.
    pub fn new(keys: &[Key; 2], is_initiator: bool, cipher: Cipher, terms: Terms) -> Self {
        Self {
            local_index: terms.indices.0,
            remote_index: terms.indices.1,
            created_at: terms.now,
            is_initiator,
            is_hybrid: terms.is_hybrid,
            cipher,
            sealing: Direction::new(&keys[1], cipher),
            opening: Direction::new(&keys[0], cipher),
            sent: 0,
            replay: Replay::default(),
        }
    }

    /// Say whether the session may still carry anything.
    pub fn is_alive(&self, now: Duration) -> bool {
        now < self.created_at + REJECT_AFTER && self.sent < REJECT_AFTER_MESSAGES
    }

    /// When the next handshake is due on our side.
    pub fn rekey_at(&self) -> Duration {
        if self.sent >= self.cipher.rekey_after_messages() {
            return self.created_at;
        }
        self.created_at + if self.is_initiator { REKEY_AFTER } else { REKEY_AFTER_RESPONDER }
    }

    /// Seal one datagram in place: `datagram[13..n − 16]` holds the frame, a multiple of 16 bytes; the rest is written here.
    pub fn seal(&mut self, datagram: &mut [u8]) {
        let counter = self.sent;
        self.sent += 1;
        let (head, body) = datagram.split_at_mut(DATA_HEADER_BYTES);
        let (frame, tag_place) = body.split_at_mut(body.len() - TAG_BYTES);
        // Sealing fails only above 2³⁸ bytes (RFC 8439 §2.8).
        let Ok(tag) = self.sealing.key.seal_in_place_separate_tag(Direction::nonce(counter), Aad::empty(), frame)
        else {
            unreachable!("frame of datagram size")
        };
        tag_place.copy_from_slice(tag.as_ref());
        head[0] = DATA;
        head[1..5].copy_from_slice(&self.remote_index.to_be_bytes());
        head[5..].copy_from_slice(&(counter ^ self.sealing.mask(tag.as_ref())).to_le_bytes());
    }

    /// Open one datagram in place.
    pub fn open<'a>(&mut self, datagram: &'a mut [u8], now: Duration) -> Result<Opened<'a>, Drop> {
        if now >= self.created_at + REJECT_AFTER {
            return Err(Drop::RxExpired);
        }
        if datagram.len() < DATA_OVERHEAD_BYTES {
            return Err(Drop::RxMalformed);
        }
        let (head, body) = datagram.split_at_mut(DATA_HEADER_BYTES);
        let mut masked = [0; 8];
        masked.copy_from_slice(&head[5..]);
        let counter = u64::from_le_bytes(masked) ^ self.opening.mask(&body[body.len() - TAG_BYTES..]);
        if counter >= REJECT_AFTER_MESSAGES || !self.replay.is_fresh(counter) {
            return Err(Drop::RxReplayed);
        }
        let opened = self.opening.key.open_in_place(Direction::nonce(counter), Aad::empty(), body);
        let frame = opened.map_err(|_| Drop::RxForged)?;
        let highest = self.replay.mark(counter);
        Ok(Opened { frame, counter, highest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair_with(cipher: Cipher) -> (Session, Session) {
        let (one, two) = ([1; 32], [2; 32]);
        let terms = |own, other| Terms { indices: (own, other), is_hybrid: false, now: Duration::ZERO };
        (
            Session::new(&[two, one], true, cipher, terms(10, 20)),
            Session::new(&[one, two], false, cipher, terms(20, 10)),
        )
    }

    fn pair() -> (Session, Session) {
        pair_with(Cipher::ChaCha20Poly1305)
    }

    fn datagram(session: &mut Session, frame: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; frame.len() + DATA_OVERHEAD_BYTES];
        bytes[DATA_HEADER_BYTES..DATA_HEADER_BYTES + frame.len()].copy_from_slice(frame);
        session.seal(&mut bytes);
        bytes
    }

    #[test]
    fn what_is_sealed_opens_once_under_either_cipher() {
        opens_once(Cipher::ChaCha20Poly1305);
        opens_once(Cipher::Aes256Gcm);
    }

    fn opens_once(cipher: Cipher) {
        let (mut alice, mut bob) = pair_with(cipher);
        let sealed = datagram(&mut alice, &[7; 32]);
        let mut first = sealed.clone();
        let opened = bob.open(&mut first, Duration::ZERO).unwrap_or_else(|drop| panic!("{drop:?}"));
        assert_eq!((&*opened.frame, opened.counter, opened.highest), (&[7; 32][..], 0, true));
        assert_eq!(bob.open(&mut sealed.clone(), Duration::ZERO).err(), Some(Drop::RxReplayed));
    }

    #[test]
    fn every_flipped_bit_is_refused_and_changes_nothing() {
        let (mut alice, mut bob) = pair();
        let sealed = datagram(&mut alice, &[7; 16]);
        for bit in 40..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(bob.open(&mut flipped, Duration::ZERO).is_err(), "bit {bit}");
        }
        assert!(bob.open(&mut sealed.clone(), Duration::ZERO).is_ok());
    }

    #[test]
    fn counters_do_not_show() {
        let (mut alice, _) = pair();
        let heads: std::collections::HashSet<_> = (0..100).map(|_| datagram(&mut alice, &[])[5..13].to_vec()).collect();
        assert_eq!(heads.len(), 100);
        assert!(heads.iter().all(|head| head[3..] != [0; 5]));
    }

    #[test]
    fn nothing_opens_after_its_time() {
        let (mut alice, mut bob) = pair();
        let mut sealed = datagram(&mut alice, &[]);
        assert_eq!(bob.open(&mut sealed, REJECT_AFTER).err(), Some(Drop::RxExpired));
        assert!(!alice.is_alive(REJECT_AFTER));
    }
}
