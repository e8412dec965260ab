//! Changes of the tables, as the control plane asks for them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use zeroize::Zeroize;

use super::key::{is_low_order, Key};
use super::message::DATA;
use super::node::{is_overlay, Node};
use super::peer::{OwnKey, Peer, PeerId};

/// Most endpoints of one peer. Source: docs/protocol.md §8.
pub const MAX_ENDPOINTS: usize = 16;

/// Why a peer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The key has low order, or is our own.
    Key,
    /// An endpoint lies in the overlay, or has port 0, or there are too many.
    Endpoint,
    /// Another peer has that address.
    Address,
}

/// What the control plane says of a peer.
#[derive(Clone, Debug)]
pub struct PeerTable {
    /// Its overlay address; none for an invite peer.
    pub address: Option<[u8; 16]>,
    /// The friendship's psk.
    pub psk: Key,
    /// Where to dial.
    pub endpoints: Vec<SocketAddr>,
    /// How long nothing may be sent; zero: for ever.
    pub keepalive: Duration,
    /// A key to dial as, if not the node's.
    pub own_private: Option<Key>,
}

impl Node {
    /// Add a peer or change it. A changed psk, own key or address ends its sessions.
    pub fn set_peer(&mut self, key: Key, table: PeerTable, now: Duration) -> Result<(), Refused> {
        self.check_peer(&key, &table)?;
        if self.by_key.get(&key).is_some_and(|&id| self.is_other_peer(id, &table)) {
            self.remove_peer(&key);
        }
        let id = self.by_key.get(&key).copied().unwrap_or_else(|| self.insert(Peer::new(key, table.psk, now)));
        if let Some(address) = table.address {
            self.by_address.insert(address, id);
        }
        self.expect(id, &table.endpoints);
        if let Some(peer) = self.peer(id) {
            peer.address = table.address;
            peer.keepalive = table.keepalive;
            peer.own = table.own_private.map(|private| OwnKey { private });
            peer.endpoints = table.endpoints;
        }
        self.dial_if_wanted(id, now);
        Ok(())
    }

    fn check_peer(&self, key: &Key, table: &PeerTable) -> Result<(), Refused> {
        let bad = |endpoint: &SocketAddr| is_overlay(&endpoint.ip()) || endpoint.port() == 0;
        if is_low_order(key) || *key == super::key::public_key(&self.private) {
            return Err(Refused::Key);
        }
        if table.endpoints.len() > MAX_ENDPOINTS || table.endpoints.iter().any(bad) {
            return Err(Refused::Endpoint);
        }
        let holder = table.address.and_then(|address| self.by_address.get(&address));
        if table.address == Some(self.address) || holder.is_some_and(|id| self.by_key.get(key) != Some(id)) {
            return Err(Refused::Address);
        }
        Ok(())
    }

    fn is_other_peer(&self, id: PeerId, table: &PeerTable) -> bool {
        self.peers[id].as_ref().is_none_or(|peer| {
            peer.psk != table.psk
                || peer.address != table.address
                || peer.own.as_ref().map(|own| own.private) != table.own_private
        })
    }

    fn insert(&mut self, peer: Peer) -> PeerId {
        let key = peer.key;
        let id = self.peers.iter().position(Option::is_none).unwrap_or(self.peers.len());
        if id == self.peers.len() {
            self.peers.push(None);
        }
        self.peers[id] = Some(Box::new(peer));
        self.by_key.insert(key, id);
        id
    }

    /// Remember from which addresses a friend's initiation may come, whatever the load.
    fn expect(&mut self, id: PeerId, endpoints: &[SocketAddr]) {
        let before = self.peer(id).map(|peer| std::mem::take(&mut peer.endpoints)).unwrap_or_default();
        for ip in before.iter().map(SocketAddr::ip) {
            self.unexpect(ip);
        }
        for endpoint in endpoints {
            *self.expected.entry(endpoint.ip()).or_insert(0) += 1;
        }
    }

    fn unexpect(&mut self, ip: IpAddr) {
        if let Some(count) = self.expected.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                self.expected.remove(&ip);
            }
        }
    }

    fn dial_if_wanted(&mut self, id: PeerId, now: Duration) {
        let wanted = self.peer(id).is_some_and(|peer| {
            !peer.is_live(now) && peer.can_be_dialled() && (!peer.keepalive.is_zero() || peer.own.is_some())
        });
        if wanted {
            self.start_dial(id, now);
        }
        self.schedule(id, now);
    }

    /// Forget a peer, its keys and its packets; say whether there was one.
    pub fn remove_peer(&mut self, key: &Key) -> bool {
        let Some(id) = self.by_key.remove(key) else {
            return false;
        };
        self.expect(id, &[]);
        let Some(mut peer) = self.peers[id].take() else {
            return false;
        };
        for index in peer.indices() {
            self.by_index.remove(&index);
        }
        if let Some(address) = peer.address {
            self.by_address.remove(&address);
        }
        self.has_erased = true;
        self.unschedule(id, &peer);
        self.active.retain(|&active| active != id);
        // A control message that was sent before still goes, such as a goodbye.
        self.outbox.retain(|(_, datagram, whose)| *whose != Some(id) || datagram.first() == Some(&DATA));
        peer.psk.zeroize();
        peer.hybrid_psk.zeroize();
        self.spent.extend(peer.queue.drain().map(super::packet::Packet::into_buffer));
        true
    }

    /// Accept a psk that came from ML-KEM beside the friendship's own; say whether there is such a peer.
    pub fn set_hybrid_psk(&mut self, key: &Key, psk: Key, initiate: bool, now: Duration) -> bool {
        let Some(&id) = self.by_key.get(key) else {
            return false;
        };
        if let Some(peer) = self.peer(id) {
            peer.hybrid_psk = Some(psk);
        }
        if initiate {
            self.start_dial(id, now);
        }
        true
    }

    /// Dial a peer now, whatever its back-off; say whether there is such a peer.
    pub fn dial(&mut self, key: &Key, now: Duration) -> bool {
        let Some(&id) = self.by_key.get(key) else {
            return false;
        };
        self.start_dial(id, now);
        true
    }

    /// Every peer's key and record.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> + '_ {
        self.peers.iter().flatten().map(|peer| &**peer)
    }
}
