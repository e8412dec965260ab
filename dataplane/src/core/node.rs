//! The node: its tables, and who handles what. Every case has a file of its own:
//!
//! | input | file |
//! |---|---|
//! | an initiation | `answering` |
//! | a response or a cookie reply | `dialling` |
//! | a data datagram | `receiving` |
//! | a packet from the TUN, room on the socket | `sending` |
//! | time, a probe's reply, a new address | `living` |
//! | a change of the tables | `tables` |

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use rand_chacha::rand_core::{RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::cookie::{Load, Secrets};
use super::drops::{Drop, Drops};
use super::handshake::Timestamp;
use super::key::{cookie_key, mac1_key, public_key, Key};
use super::message::{parse, Datagram};
use super::peer::{Endpoint, Peer, PeerId};
use super::rejoin::Rejoin;
use super::session::Session;

/// Most events that wait for the control plane.
pub const EVENTS: usize = 4096;
/// ICMPv6 errors a second to our own programs. Source: RFC 4443 §2.4 (f).
pub const ERRORS_PER_SECOND: u32 = 10;

/// Least time until a timer: whatever is overdue is done once a millisecond, not for ever.
const TIMER_GRAIN: Duration = Duration::from_millis(1);
const TAI_OFFSET: u64 = (1 << 62) + 10;
const TIMESTAMP_GRAIN: u64 = 1 << 24;

/// What a node has to say to the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new session stands.
    Session(Key, Endpoint),
    /// A live session fell silent.
    Lost(Key),
    /// The validated address changed.
    Roamed(Key, Endpoint),
    /// A control message came.
    Control(Key, Vec<u8>),
    /// All endpoints were dialled in vain.
    Unreachable(Key),
}

/// A datagram to be sent, or a train of equal ones, the last perhaps shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Endpoint,
    /// How much of the buffer to send.
    pub bytes: usize,
    /// The size of each datagram; `bytes` if there is one.
    pub segment_bytes: usize,
    /// Whose it is, if anyone's.
    pub peer: Option<PeerId>,
}

/// How a node is set up.
pub struct Settings {
    /// X25519 private key of the device.
    pub private: Key,
    /// Its overlay address.
    pub address: [u8; 16],
    /// MTU of the TUN, in bytes.
    pub mtu: usize,
    /// MTU of the underlay, in bytes of IP.
    pub underlay_mtu: usize,
    /// Whether the kernel takes UDP superpackets from us.
    pub rejoin_udp: bool,
    /// Whether session keys are handed out for a key log.
    pub keylog: bool,
    /// Feature bits, see `handshake`.
    pub features: u32,
    /// Entropy.
    pub seed: [u8; 32],
}

/// One node.
pub struct Node {
    pub(super) private: Key,
    pub(super) address: [u8; 16],
    pub(super) underlay_mtu: usize,
    pub(super) features: u32,
    pub(super) mac1_key: Key,
    pub(super) cookie_key: Key,
    pub(super) secrets: Secrets,
    pub(super) load: Load,
    pub(super) peers: Vec<Option<Box<Peer>>>,
    pub(super) by_key: HashMap<Key, PeerId>,
    pub(super) by_address: HashMap<[u8; 16], PeerId>,
    pub(super) by_index: HashMap<u32, PeerId>,
    pub(super) expected: HashMap<IpAddr, usize>,
    pub(super) active: VecDeque<PeerId>,
    pub(super) outbox: VecDeque<(Endpoint, Vec<u8>, Option<PeerId>)>,
    pub(super) errors: Vec<Vec<u8>>,
    pub(super) spent: Vec<Box<[u8]>>,
    pub(super) rng: ChaCha20Rng,
    pub(super) drops: Drops,
    timers: BTreeSet<(Duration, PeerId)>,
    events: VecDeque<Event>,
    keylog: Option<Vec<String>>,
    error_budget: (Duration, u32),
    unix: (Duration, Duration),
    newest_stamp: u64,
    pub(super) rejoin: Rejoin,
    pub(super) has_erased: bool,
    pub(super) dial_slot: Duration,
}

impl Node {
    /// Make a node that knows nobody.
    pub fn new(settings: &Settings, now: Duration) -> Self {
        let mut rng = ChaCha20Rng::from_seed(settings.seed);
        let public = public_key(&settings.private);
        Self {
            private: settings.private,
            address: settings.address,
            underlay_mtu: settings.underlay_mtu,
            features: settings.features,
            mac1_key: mac1_key(&public),
            cookie_key: cookie_key(&public),
            secrets: Secrets::new(&mut rng, now),
            load: Load::new(),
            peers: Vec::new(),
            by_key: HashMap::new(),
            by_address: HashMap::new(),
            by_index: HashMap::new(),
            expected: HashMap::new(),
            active: VecDeque::new(),
            outbox: VecDeque::new(),
            errors: Vec::new(),
            spent: Vec::new(),
            rng,
            drops: Drops::default(),
            timers: BTreeSet::new(),
            events: VecDeque::new(),
            keylog: settings.keylog.then(Vec::new),
            error_budget: (now, 0),
            unix: (Duration::ZERO, now),
            newest_stamp: 0,
            rejoin: Rejoin::new(settings.mtu, settings.rejoin_udp),
            has_erased: false,
            dial_slot: Duration::ZERO,
        }
    }

    /// Take one datagram, `arena[place]`, which is decrypted in place; its packet waits in `packets`.
    pub fn handle_datagram(&mut self, from: Endpoint, arena: &mut [u8], place: std::ops::Range<usize>, now: Duration) {
        if is_overlay(&from.remote.ip()) {
            return self.drops.count(Drop::RxMalformed);
        }
        match parse(&arena[place.clone()]) {
            Some(Datagram::Data(index)) => self.receive(index, from, &mut arena[place.clone()], place.start, now),
            Some(Datagram::Initiation(initiation)) => self.answer(&initiation, from, now),
            Some(Datagram::Response(response)) => self.finish_dial(&response, from, now),
            Some(Datagram::CookieReply(reply)) => self.keep_cookie(&reply, from, now),
            None => self.drops.count(Drop::RxMalformed),
        }
    }

    /// Tell the time of day, for timestamps: they rise whatever it does.
    pub fn handle_clock(&mut self, unix: Duration, now: Duration) {
        self.unix = (unix, now);
    }

    /// Do what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        while let Some(&(due_at, id)) = self.timers.first() {
            if due_at > now {
                break;
            }
            self.timers.pop_first();
            if let Some(peer) = self.peers.get_mut(id).and_then(Option::as_mut) {
                peer.scheduled_at = None;
                self.live(id, now);
                self.schedule(id, now);
            }
        }
    }

    /// When `handle_timeout` is due next.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.timers.first().map(|&(due_at, _)| due_at)
    }

    /// Take the oldest event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Take an ICMPv6 error for our own programs.
    pub fn poll_error(&mut self) -> Option<Vec<u8>> {
        self.errors.pop()
    }

    /// Take a buffer back that a packet came in.
    pub fn poll_buffer(&mut self) -> Option<Box<[u8]>> {
        self.spent.pop()
    }

    /// Take the lines of the key log.
    pub fn poll_keylog(&mut self) -> Vec<String> {
        self.keylog.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether keys were made or erased since the last call, so that copies of them may lie on the stack.
    pub fn poll_erased(&mut self) -> bool {
        std::mem::take(&mut self.has_erased)
    }

    /// The packets of the datagrams handled since `clear`.
    pub fn packets(&mut self) -> &mut Rejoin {
        &mut self.rejoin
    }

    /// The counters.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// Count what the I/O had to drop.
    pub fn count(&mut self, reason: Drop, times: u64) {
        self.drops.add(reason, times);
    }

    pub(super) fn push_event(&mut self, event: Event) {
        if self.events.len() < EVENTS {
            self.events.push_back(event);
        } else {
            self.drops.count(Drop::RxEventsFull);
        }
    }

    pub(super) fn peer(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(id)?.as_deref_mut()
    }

    /// Draw an index that no session of ours has.
    pub(super) fn draw_index(&mut self, id: PeerId) -> u32 {
        loop {
            let index = self.rng.next_u32();
            if let std::collections::hash_map::Entry::Vacant(place) = self.by_index.entry(index) {
                place.insert(id);
                return index;
            }
        }
    }

    /// Erase a session and forget its index.
    pub(super) fn retire(&mut self, session: Option<Box<Session>>) {
        self.has_erased = true;
        if let Some(session) = session {
            self.by_index.remove(&session.local_index);
        }
    }

    pub(super) fn log_keys(&mut self, session: &Session, keys: &[Key; 2]) {
        if let Some(lines) = &mut self.keylog {
            let hex = |key: &Key| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (own, other) = (session.local_index, session.remote_index);
            lines.push(format!(
                "SESSION {own:08x} {other:08x} {} {} {}",
                hex(&keys[0]),
                hex(&keys[1]),
                session.cipher.name()
            ));
        }
    }

    /// The timestamp of the next initiation: the clock's, or just above the last.
    pub(super) fn timestamp(&mut self, now: Duration) -> Timestamp {
        let (unix, at) = self.unix;
        let clock = (unix + now.saturating_sub(at)).as_nanos() as u64;
        self.newest_stamp = clock.max(self.newest_stamp + TIMESTAMP_GRAIN);
        let (seconds, nanos) = (self.newest_stamp / 1_000_000_000, self.newest_stamp % 1_000_000_000);
        let mut stamp = [0; 12];
        stamp[..8].copy_from_slice(&(TAI_OFFSET + seconds).to_be_bytes());
        stamp[8..].copy_from_slice(&((nanos & !(TIMESTAMP_GRAIN - 1)) as u32).to_be_bytes());
        stamp
    }

    pub(super) fn may_send_error(&mut self, now: Duration) -> bool {
        if now.saturating_sub(self.error_budget.0) >= Duration::from_secs(1) {
            self.error_budget = (now, 0);
        }
        self.error_budget.1 += 1;
        self.error_budget.1 <= ERRORS_PER_SECOND
    }

    /// Tell the timer of a peer's next deadline, if it is earlier than what the timer knows; a later one is looked at when
    /// the earlier fires, so that traffic costs no timer.
    pub(super) fn schedule(&mut self, id: PeerId, now: Duration) {
        let Some(peer) = self.peers.get_mut(id).and_then(Option::as_deref_mut) else {
            return;
        };
        let Some(due_at) = peer.due_at(now).map(|due_at| due_at.max(now + TIMER_GRAIN)) else {
            return;
        };
        if peer.scheduled_at.is_some_and(|scheduled_at| scheduled_at <= due_at) {
            return;
        }
        if let Some(scheduled_at) = peer.scheduled_at.replace(due_at) {
            self.timers.remove(&(scheduled_at, id));
        }
        self.timers.insert((due_at, id));
    }

    pub(super) fn unschedule(&mut self, id: PeerId, peer: &Peer) {
        if let Some(scheduled_at) = peer.scheduled_at {
            self.timers.remove(&(scheduled_at, id));
        }
    }
}

/// Say whether an address is of the overlay: such are never endpoints, or the tunnel would run in itself.
pub fn is_overlay(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.octets()[0] == 0xfc)
}
