//! Two friends with a session between them, made once and cloned by being made alike: the start of every target.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use _dataplane::core::key::{public_key, Key};
use _dataplane::core::node::{Node, Settings};
use _dataplane::core::peer::Endpoint;
use _dataplane::core::tables::PeerTable;
use _dataplane::core::train::TRAIN_BYTES;

thread_local!(static TRAIN: RefCell<Vec<u8>> = RefCell::new(vec![0; TRAIN_BYTES]));

pub const START: Duration = Duration::from_secs(1000);

pub fn address(seed: u8) -> [u8; 16] {
    let mut address = [seed; 16];
    address[0] = 0xfc;
    address
}

pub fn at(seed: u8) -> Endpoint {
    Endpoint { remote: SocketAddr::from(([192, 0, 2, seed], 4242)), local: None }
}

pub fn key(seed: u8) -> Key {
    public_key(&[seed; 32])
}

pub fn node(seed: u8, friend: u8, dials: bool) -> Node {
    let settings = Settings {
        private: [seed; 32],
        address: address(seed),
        mtu: 1400,
        underlay_mtu: 1500,
        rejoin_udp: true,
        keylog: true,
        features: 3,
        seed: [seed; 32],
    };
    let mut node = Node::new(&settings, START);
    let table = PeerTable {
        address: Some(address(friend)),
        psk: [9; 32],
        endpoints: if dials { vec![at(friend).remote] } else { Vec::new() },
        keepalive: Duration::from_secs(25),
        own_private: None,
    };
    assert!(node.set_peer(key(friend), table, START).is_ok());
    node
}

/// Everything that a node wants to send now.
pub fn outgoing(node: &mut Node, now: Duration) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    TRAIN.with_borrow_mut(|buffer| {
        while let Some(train) = node.poll_transmit(buffer, now) {
            sent.extend(buffer[..train.bytes].chunks(train.segment_bytes).map(<[u8]>::to_vec));
        }
    });
    sent
}

/// Give a node one datagram, and check that what it has for the TUN is well formed.
pub fn deliver(node: &mut Node, from: Endpoint, mut datagram: Vec<u8>, now: Duration) {
    let end = datagram.len();
    node.packets().clear();
    node.handle_datagram(from, &mut datagram, 0..end, now);
    node.packets().finish();
    for (head, pieces, owned) in node.packets().runs() {
        let arena = owned.unwrap_or(&datagram);
        let length = head.len() + pieces.iter().map(|piece| arena[piece.clone()].len()).sum::<usize>();
        let said = u16::from_be_bytes([head[14], head[15]]);
        assert_eq!(usize::from(said) + 50, length);
        assert_eq!(head[10] >> 4, 6);
    }
}

/// Two friends, 1 and 2, with a session.
#[allow(dead_code)]
pub fn friends() -> [Node; 2] {
    let mut nodes = [node(1, 2, true), node(2, 1, false)];
    nodes[0].handle_timeout(START + Duration::from_millis(1));
    for _ in 0..4 {
        for side in 0..2 {
            let moving = outgoing(&mut nodes[side], START);
            for datagram in moving {
                deliver(&mut nodes[1 - side], at(side as u8 + 1), datagram, START);
            }
        }
    }
    assert!(nodes.iter().all(|node| node.peers().all(|peer| peer.is_live(START))));
    nodes
}
