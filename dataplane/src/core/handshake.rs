//! Noise IKpsk2 as initiator and responder, around snow. Source: docs/protocol.md §3; Noise rev. 34.

use snow::params::NoiseParams;
use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, Zeroizing};

use super::key::{is_low_order, Key};
use super::message::{
    INITIATION_PAYLOAD_BYTES, KEY_BYTES, NOISE_1_BYTES, NOISE_2_BYTES, RESPONSE_PAYLOAD_BYTES, TIMESTAMP_BYTES,
};
use super::session::{Cipher, Session, Terms};

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"f2ftun v1";
const PSK_PLACE: u8 = 2;

/// Feature bit: hybrid post-quantum keys. Source: docs/protocol.md §9.
pub const FEATURE_HYBRID: u32 = 1;
/// Feature bit: AES-256-GCM for data, offered where the hardware has it. Source: docs/protocol.md §3.1.
pub const FEATURE_AES: u32 = 2;
/// Every feature that this protocol version knows.
pub const FEATURES: u32 = FEATURE_HYBRID | FEATURE_AES;

/// The cipher that shared features mean.
fn cipher_of(features: u32) -> Cipher {
    if features & FEATURE_AES != 0 {
        Cipher::Aes256Gcm
    } else {
        Cipher::ChaCha20Poly1305
    }
}

/// The sender's clock as it travels; compared only with others of the same sender.
pub type Timestamp = [u8; TIMESTAMP_BYTES];

/// What an initiation says, encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Rises from one initiation of a sender to the next.
    pub timestamp: Timestamp,
    /// Zero, or the id of a psk that came from ML-KEM.
    pub psk_id: [u8; 4],
    /// Feature bits.
    pub features: u32,
}

impl Hello {
    fn write(&self) -> [u8; INITIATION_PAYLOAD_BYTES] {
        let mut bytes = [0; INITIATION_PAYLOAD_BYTES];
        bytes[..12].copy_from_slice(&self.timestamp);
        bytes[12..16].copy_from_slice(&self.psk_id);
        bytes[16..].copy_from_slice(&self.features.to_be_bytes());
        bytes
    }

    fn parse(bytes: &[u8; INITIATION_PAYLOAD_BYTES]) -> Self {
        let mut hello = Self { timestamp: [0; 12], psk_id: [0; 4], features: 0 };
        hello.timestamp.copy_from_slice(&bytes[..12]);
        hello.psk_id.copy_from_slice(&bytes[12..16]);
        hello.features = u32::from_be_bytes([bytes[16], bytes[17], bytes[18], bytes[19]]);
        hello
    }
}

fn builder(private: &Key) -> Option<Builder<'_>> {
    let params: NoiseParams = PATTERN.parse().ok()?;
    Builder::new(params).prologue(PROLOGUE).ok()?.local_private_key(private).ok()
}

/// The receive and send keys of a session, for a key log; erased when dropped.
pub type SessionKeys = Zeroizing<[Key; 2]>;

fn split(state: &mut HandshakeState, is_initiator: bool, cipher: Cipher, terms: Terms) -> (Session, SessionKeys) {
    let (mut first, mut second) = state.dangerously_get_raw_split();
    let keys = Zeroizing::new(if is_initiator { [second, first] } else { [first, second] });
    first.zeroize();
    second.zeroize();
    (Session::new(&keys, is_initiator, cipher, terms), keys)
}

/// An initiation sent and not yet answered.
pub struct Initiator {
    state: HandshakeState,
    offered: u32,
    /// Noise message 1.
    pub noise: [u8; NOISE_1_BYTES],
}

impl Initiator {
    /// Begin: `None` if a key is unusable. The ephemeral key is drawn from the system's entropy by snow.
    pub fn new(private: &Key, remote: &Key, psk: &Key, hello: &Hello) -> Option<Self> {
        let built = builder(private)?.remote_public_key(remote).ok()?.psk(PSK_PLACE, psk).ok()?;
        let mut state = built.build_initiator().ok()?;
        let mut noise = [0; NOISE_1_BYTES];
        let written = state.write_message(&hello.write(), &mut noise).ok()?;
        (written == NOISE_1_BYTES).then_some(Self { state, offered: hello.features, noise })
    }

    /// Our ephemeral public key, with which the response's mac1 is made.
    pub fn ephemeral(&self) -> &[u8] {
        &self.noise[..KEY_BYTES]
    }

    /// Read Noise message 2, and give the session and its keys. After a failure the initiation goes on waiting: a forged response
    /// must not end it, and snow restores its state when a message does not verify.
    pub fn finish(&mut self, noise: &[u8], terms: Terms) -> Option<(Session, SessionKeys)> {
        let mut ephemeral = [0; KEY_BYTES];
        ephemeral.copy_from_slice(noise.get(..KEY_BYTES)?);
        let mut payload = [0; RESPONSE_PAYLOAD_BYTES];
        if is_low_order(&ephemeral) || self.state.read_message(noise, &mut payload) != Ok(RESPONSE_PAYLOAD_BYTES) {
            return None;
        }
        let cipher = cipher_of(u32::from_be_bytes(payload) & self.offered);
        Some(split(&mut self.state, true, cipher, terms))
    }
}

/// An initiation read and not yet answered.
pub struct Responder {
    state: HandshakeState,
    /// The initiator's node key.
    pub remote: Key,
    /// What the initiation said.
    pub hello: Hello,
}

impl Responder {
    /// Read Noise message 1; `None` if it does not verify under our key or its keys have low order.
    pub fn read(private: &Key, noise: &[u8]) -> Option<Self> {
        let mut ephemeral = [0; KEY_BYTES];
        ephemeral.copy_from_slice(noise.get(..KEY_BYTES)?);
        if is_low_order(&ephemeral) {
            return None;
        }
        let mut state = builder(private)?.build_responder().ok()?;
        let mut payload = [0; INITIATION_PAYLOAD_BYTES];
        let read = state.read_message(noise, &mut payload).ok()?;
        let mut remote = [0; KEY_BYTES];
        remote.copy_from_slice(state.get_remote_static()?);
        (read == INITIATION_PAYLOAD_BYTES && !is_low_order(&remote)).then(|| Self {
            state,
            remote,
            hello: Hello::parse(&payload),
        })
    }

    /// Write Noise message 2 with those of our features that the initiator has, and give the session and its keys.
    pub fn respond(
        mut self,
        psk: &Key,
        features: u32,
        terms: Terms,
    ) -> Option<([u8; NOISE_2_BYTES], Session, SessionKeys)> {
        self.state.set_psk(PSK_PLACE.into(), psk).ok()?;
        let mut noise = [0; NOISE_2_BYTES];
        let shared = self.hello.features & features;
        let written = self.state.write_message(&shared.to_be_bytes(), &mut noise).ok()?;
        let (session, keys) = split(&mut self.state, false, cipher_of(shared), terms);
        (written == NOISE_2_BYTES).then_some((noise, session, keys))
    }
}
