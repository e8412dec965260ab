//! Cookies and load: who is asked to prove their address first. Source: docs/protocol.md §3.4; WireGuard paper §5.3.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::XChaCha20Poly1305;
use rand_chacha::rand_core::RngCore;
use siphasher::sip::SipHasher13;
use subtle::ConstantTimeEq;

use super::key::{mac, Key};
use super::message::{COOKIE_NONCE_BYTES, MAC_BYTES};

/// How long a secret makes cookies, and a cookie held is used.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);
/// Initiations with a valid mac1 in one second above which a node is under load.
pub const LOAD_INITIATIONS: u32 = 200;
/// Initiations a second from an address at which a friend is expected, served whatever the load.
pub const EXPECTED_INITIATIONS: u8 = 4;
/// Initiations a second with a valid mac2 from one IPv4 address or IPv6 /64.
pub const PROVEN_INITIATIONS: u8 = 10;
const BUCKETS: usize = 4096;
const SECOND: Duration = Duration::from_secs(1);

/// A proof of address.
pub type Cookie = [u8; MAC_BYTES];

/// The secrets that cookies are made with: the newest, and the one before.
pub struct Secrets {
    newest: Key,
    before: Key,
    replaced_at: Duration,
}

fn address_bytes(address: &SocketAddr) -> [u8; 18] {
    let mut bytes = [0; 18];
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

impl Secrets {
    /// Draw the first secrets.
    pub fn new(rng: &mut impl RngCore, now: Duration) -> Self {
        let mut secrets = Self { newest: [0; 32], before: [0; 32], replaced_at: now };
        rng.fill_bytes(&mut secrets.newest);
        rng.fill_bytes(&mut secrets.before);
        secrets
    }

    fn renew(&mut self, rng: &mut impl RngCore, now: Duration) {
        if now.saturating_sub(self.replaced_at) >= COOKIE_LIFETIME {
            self.before = self.newest;
            rng.fill_bytes(&mut self.newest);
            self.replaced_at = now;
        }
    }

    /// The cookie for an address.
    pub fn cookie(&mut self, from: &SocketAddr, rng: &mut impl RngCore, now: Duration) -> Cookie {
        self.renew(rng, now);
        mac(&self.newest, &[&address_bytes(from)])
    }

    /// Say whether mac2 was made with a cookie given to this address.
    pub fn verify(&self, from: &SocketAddr, over: &[u8], mac2: &[u8]) -> bool {
        if mac2.iter().all(|&byte| byte == 0) {
            return false;
        }
        let made_with = |secret: &Key| mac(&mac(secret, &[&address_bytes(from)]), &[over]).ct_eq(mac2).into();
        made_with(&self.newest) || made_with(&self.before)
    }
}

/// Encrypt a cookie for the sender of the initiation with this mac1.
pub fn seal(key: &Key, nonce: &[u8; COOKIE_NONCE_BYTES], cookie: &Cookie, mac1: &[u8]) -> Vec<u8> {
    let payload = Payload { msg: cookie, aad: mac1 };
    XChaCha20Poly1305::new(key.into()).encrypt(nonce.into(), payload).unwrap_or_default()
}

/// Read a cookie reply to the initiation with this mac1.
pub fn open(key: &Key, nonce: &[u8], sealed: &[u8], mac1: &[u8]) -> Option<Cookie> {
    let payload = Payload { msg: sealed, aad: mac1 };
    XChaCha20Poly1305::new(key.into()).decrypt(nonce.into(), payload).ok()?.try_into().ok()
}

/// Counts of one second by address, in a table of fixed size whose hash is drawn anew each second: nothing is ever
/// evicted, so nobody's budget reopens early, and no flood makes it grow.
struct Budgets {
    counts: Box<[u8; BUCKETS]>,
    key: [u8; 16],
}

impl Budgets {
    fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), key: [0; 16] }
    }

    fn restart(&mut self, rng: &mut impl RngCore) {
        self.counts.fill(0);
        rng.fill_bytes(&mut self.key);
    }

    fn spend(&mut self, from: &IpAddr, budget: u8) -> bool {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        match from {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()[..8]),
        }
        let count = &mut self.counts[(hasher.finish() % BUCKETS as u64) as usize];
        let within = *count < budget;
        *count = count.saturating_add(1);
        within
    }
}

/// Whether initiations come faster than they can all be answered.
pub struct Load {
    second: Duration,
    count: u32,
    under_load_until: Duration,
    expected: Budgets,
    proven: Budgets,
}

impl Load {
    /// Start without load.
    pub fn new() -> Self {
        let (expected, proven) = (Budgets::new(), Budgets::new());
        Self { second: Duration::ZERO, count: 0, under_load_until: Duration::ZERO, expected, proven }
    }

    /// Count an initiation with a valid mac1; say whether we are under load.
    pub fn count(&mut self, rng: &mut impl RngCore, now: Duration) -> bool {
        if now.saturating_sub(self.second) >= SECOND {
            (self.second, self.count) = (now, 0);
            self.expected.restart(rng);
            self.proven.restart(rng);
        }
        self.count += 1;
        if self.count > LOAD_INITIATIONS {
            self.under_load_until = now + SECOND;
        }
        now < self.under_load_until
    }

    /// Under load: take one of an expected address's budget.
    pub fn spend_expected(&mut self, from: &IpAddr) -> bool {
        self.expected.spend(from, EXPECTED_INITIATIONS)
    }

    /// Under load: take one of the budget of an address that proved itself.
    pub fn spend_proven(&mut self, from: &IpAddr) -> bool {
        self.proven.spend(from, PROVEN_INITIATIONS)
    }
}

impl Default for Load {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn from(last: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, last], port).into()
    }

    #[test]
    fn a_cookie_proves_one_address_for_a_while() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut secrets = Secrets::new(&mut rng, Duration::ZERO);
        let cookie = secrets.cookie(&from(1, 1), &mut rng, Duration::ZERO);
        let mac2 = mac(&cookie, &[b"over"]);
        assert!(secrets.verify(&from(1, 1), b"over", &mac2));
        assert!(!secrets.verify(&from(2, 1), b"over", &mac2) && !secrets.verify(&from(1, 2), b"over", &mac2));
        secrets.renew(&mut rng, COOKIE_LIFETIME);
        assert!(secrets.verify(&from(1, 1), b"over", &mac2));
        secrets.renew(&mut rng, 2 * COOKIE_LIFETIME);
        assert!(!secrets.verify(&from(1, 1), b"over", &mac2));
    }

    #[test]
    fn only_the_asker_reads_the_reply() {
        let sealed = seal(&[1; 32], &[2; 24], &[3; 16], &[4; 16]);
        assert_eq!(sealed.len(), 32);
        assert_eq!(open(&[1; 32], &[2; 24], &sealed, &[4; 16]), Some([3; 16]));
        assert_eq!(open(&[1; 32], &[2; 24], &sealed, &[5; 16]), None);
    }

    #[test]
    fn load_comes_and_goes_and_expected_addresses_keep_their_budget() {
        let mut rng = ChaCha20Rng::from_seed([1; 32]);
        let mut load = Load::new();
        let loaded = (0..=LOAD_INITIATIONS).map(|_| load.count(&mut rng, SECOND)).filter(|&loaded| loaded).count();
        assert_eq!(loaded, 1);
        let served = (0..10).filter(|_| load.spend_expected(&from(1, 1).ip())).count();
        assert_eq!(served, usize::from(EXPECTED_INITIATIONS));
        assert!(!load.count(&mut rng, 3 * SECOND));
    }

    #[test]
    fn one_ipv6_network_has_one_budget() {
        let mut load = Load::new();
        let address = |last: u16| IpAddr::from([0x2001, 0xdb8, 0, 1, 0, 0, 0, last]);
        let served = (0..1000).filter(|&last| load.spend_proven(&address(last))).count();
        assert_eq!(served, usize::from(PROVEN_INITIATIONS));
    }
}
