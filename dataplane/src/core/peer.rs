//! What a node remembers of one peer. The cases that use it are in files of their own.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::cookie::{Cookie, COOKIE_LIFETIME};
use super::frame::Token;
use super::handshake::{Initiator, Timestamp};
use super::key::Key;
use super::message::MAC_BYTES;
use super::queue::Queue;
use super::session::Session;
use super::size::Size;

/// Index of a peer in the node's table.
pub type PeerId = usize;
/// Most probes under way to one peer.
pub const PROBES: usize = 8;
/// Most fragment pairs kept unfinished per peer. Source: docs/protocol.md §5.2.
pub const FRAGMENT_PAIRS: usize = 4;
/// How long an unfinished pair is kept.
pub const FRAGMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Where datagrams go: the peer's address, and which of ours they leave from, if that matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port.
    pub remote: SocketAddr,
    /// Our own address on which the peer's datagrams come in.
    pub local: Option<IpAddr>,
}

/// A key other than the node's, to dial as. Source: docs/protocol.md §8.
pub struct OwnKey {
    /// X25519 private key.
    pub private: Key,
}

/// An initiation sent and not yet answered.
pub struct Pending {
    /// The Noise state.
    pub initiator: Initiator,
    /// The index it goes by.
    pub local_index: u32,
    /// With which cookie replies to it are authenticated.
    pub mac1: [u8; MAC_BYTES],
    /// Whether it was made with the psk from ML-KEM.
    pub is_hybrid: bool,
}

/// The attempts to reach a peer.
#[derive(Clone, Copy, Debug)]
pub struct Dial {
    /// How many initiations went out.
    pub attempts: u32,
    /// When the last did.
    pub last_at: Option<Duration>,
    /// When the next is due.
    pub next_at: Duration,
    /// Whether that is a slot of the node's own pace.
    pub has_slot: bool,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To learn whether the peer is there, and its RTT.
    Life,
    /// To validate a new address.
    Way(Endpoint),
    /// To learn whether a datagram of so many bytes passes.
    Size(usize),
}

/// A probe under way.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Its random value.
    pub token: Token,
    /// When it went out.
    pub sent_at: Duration,
    /// What it is for.
    pub purpose: Purpose,
}

/// An address that the peer may have moved to.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// The address.
    pub endpoint: Endpoint,
    /// Bytes that came from there, less those that went there.
    pub budget: usize,
    /// When it was last challenged.
    pub challenged_at: Option<Duration>,
}

/// The first half to come of a fragmented frame.
pub struct Half {
    /// The pair's id.
    pub id: u16,
    /// Whether this is the second half.
    pub last: bool,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// When it came.
    pub at: Duration,
}

/// Counters of one peer, in bytes and datagrams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// Data datagrams received.
    pub rx_datagrams: u64,
    /// Data datagrams sent.
    pub tx_datagrams: u64,
}

/// One peer.
pub struct Peer {
    /// Its node key.
    pub key: Key,
    /// Its overlay address; none for an invite peer.
    pub address: Option<[u8; 16]>,
    /// The friendship's psk.
    pub psk: Key,
    /// The psk that came from ML-KEM.
    pub hybrid_psk: Option<Key>,
    /// The key to dial as, if not the node's.
    pub own: Option<OwnKey>,
    /// Where it may be dialled.
    pub endpoints: Vec<SocketAddr>,
    /// How long nothing may be sent; zero: for ever.
    pub keepalive: Duration,

    /// The session before the current one.
    pub previous: Option<Box<Session>>,
    /// The session to send on.
    pub current: Option<Box<Session>>,
    /// One that the peer asked for and has not used yet, and where the response to it went.
    pub next: Option<(Box<Session>, Endpoint)>,

    /// The validated way to it.
    pub endpoint: Option<Endpoint>,
    /// An address seen and not yet validated.
    pub candidate: Option<Candidate>,
    /// What the way carries.
    pub size: Option<Size>,
    /// Whether datagrams above the base size were sent since the last look.
    pub size_in_use: bool,

    /// When something authentic last came.
    pub heard_at: Duration,
    /// When something was last sent.
    pub sent_at: Duration,
    /// Since when what was sent goes unanswered.
    pub unanswered_since: Option<Duration>,
    /// How many probes for life went out since.
    pub life_probes: u32,
    /// Whether these went unanswered too.
    pub is_lost: bool,
    /// Probes under way.
    pub probes: Vec<Probe>,
    /// Smoothed round-trip time. Source: RFC 6298 §2.
    pub rtt: Option<Duration>,

    /// The attempts under way.
    pub dial: Option<Dial>,
    /// The initiation under way.
    pub pending: Option<Box<Pending>>,
    /// Cookies held, each for the endpoint that gave it.
    pub cookies: Vec<(SocketAddr, Cookie, Duration)>,
    /// The highest timestamp of its initiations.
    pub newest_timestamp: Option<Timestamp>,
    /// When an initiation of its was last answered.
    pub answered_at: Option<Duration>,
    /// When an initiation with an old timestamp was last answered with a cookie, or let through.
    pub stale_at: Option<Duration>,

    /// What waits to be sent.
    pub queue: Queue,
    /// What it may still send in this round, in bytes.
    pub deficit: i64,
    /// Whether it is in the node's round.
    pub is_active: bool,
    /// Until when the kernel has no room for it.
    pub full_until: Duration,
    /// Halves of frames.
    pub halves: Vec<Half>,
    /// Id of the next frame sent in two.
    pub fragment_id: u16,
    /// The deadline that the node's timer knows of.
    pub scheduled_at: Option<Duration>,
    /// Counters.
    pub traffic: Traffic,
}

impl Peer {
    /// Begin to know a peer.
    pub fn new(key: Key, psk: Key, now: Duration) -> Self {
        Self {
            key,
            address: None,
            psk,
            hybrid_psk: None,
            own: None,
            endpoints: Vec::new(),
            keepalive: Duration::ZERO,
            previous: None,
            current: None,
            next: None,
            endpoint: None,
            candidate: None,
            size: None,
            size_in_use: false,
            heard_at: now,
            sent_at: now,
            unanswered_since: None,
            life_probes: 0,
            is_lost: false,
            probes: Vec::new(),
            rtt: None,
            dial: None,
            pending: None,
            cookies: Vec::new(),
            newest_timestamp: None,
            answered_at: None,
            stale_at: None,
            queue: Queue::default(),
            deficit: 0,
            is_active: false,
            full_until: Duration::ZERO,
            halves: Vec::new(),
            fragment_id: 0,
            scheduled_at: None,
            traffic: Traffic::default(),
        }
    }

    /// The session to send on, if one is alive.
    pub fn live(&mut self, now: Duration) -> Option<&mut Session> {
        self.current.as_deref_mut().filter(|session| session.is_alive(now))
    }

    /// Say whether a session is alive.
    pub fn is_live(&self, now: Duration) -> bool {
        self.current.as_ref().is_some_and(|session| session.is_alive(now))
    }

    /// Say whether there is anywhere to dial.
    pub fn can_be_dialled(&self) -> bool {
        self.endpoint.is_some() || !self.endpoints.is_empty()
    }

    /// The indices by which datagrams of this peer find it.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let sessions = [self.previous.as_deref(), self.current.as_deref(), self.next.as_ref().map(|(next, _)| &**next)];
        let pending = self.pending.as_ref().map(|pending| pending.local_index);
        sessions.into_iter().flatten().map(|session| session.local_index).chain(pending)
    }

    /// The psk that an initiation names by its id, and whether it came from ML-KEM.
    pub fn psk_named(&self, id: [u8; 4]) -> Option<(Key, bool)> {
        if id == [0; 4] {
            return Some((self.psk, false));
        }
        self.hybrid_psk.filter(|psk| super::key::psk_id(psk) == id).map(|psk| (psk, true))
    }

    /// A cookie held for an endpoint.
    pub fn cookie_for(&self, to: &SocketAddr, now: Duration) -> Option<Cookie> {
        let fresh = |&&(ref from, _, at): &&(SocketAddr, Cookie, Duration)| from == to && now < at + COOKIE_LIFETIME;
        self.cookies.iter().find(fresh).map(|&(_, cookie, _)| cookie)
    }

    /// Take a round-trip time into the average.
    pub fn measure(&mut self, sample: Duration) {
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }
}
