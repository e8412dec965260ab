//! Handshakes of somebody who knows the node's public key, so that their mac1 is right: initiations, and answers to ours.
#![no_main]

mod common;

use std::cell::RefCell;
use std::time::Duration;

use _dataplane::core::key::{mac, mac1_key};
use _dataplane::core::node::Node;
use libfuzzer_sys::fuzz_target;

struct Dialling {
    node: Node,
    initiation: Vec<u8>,
    now: Duration,
}

thread_local!(static NODE: RefCell<Dialling> = RefCell::new(dialling()));

fn dialling() -> Dialling {
    let mut node = common::node(1, 2, true);
    let now = common::START + Duration::from_millis(1);
    node.handle_timeout(now);
    let initiation = common::outgoing(&mut node, now).pop().unwrap_or_default();
    Dialling { node, initiation, now }
}

fuzz_target!(|bytes: &[u8]| {
    NODE.with_borrow_mut(|dialling| {
        let Some((&kind, rest)) = bytes.split_first() else { return };
        let own_index = dialling.initiation[1..5].to_vec();
        let (size, covered) = match kind % 3 {
            0 => (153, 121),
            1 => (93, 61),
            _ => (61, 61),
        };
        let mut datagram = vec![kind % 3 + 1];
        datagram.extend(rest.iter().chain(std::iter::repeat(&0)).take(size - 1));
        let own_key = mac1_key(&common::key(1));
        let their_key = mac1_key(&dialling.initiation[5..37]);
        if kind % 3 == 1 {
            datagram[5..9].copy_from_slice(&own_index);
            datagram[77..].fill(0);
        }
        if kind % 3 == 2 {
            datagram[1..5].copy_from_slice(&own_index);
        } else {
            let made = mac(if kind % 3 == 0 { &own_key } else { &their_key }, &[&datagram[..covered]]);
            datagram[covered..covered + 16].copy_from_slice(&made);
        }
        // Time passes, so that it is not only the load limit that is tested.
        dialling.now += Duration::from_millis(20);
        let length = datagram.len();
        common::deliver(&mut dialling.node, common::at(66), datagram, dialling.now);
        let answer: usize = common::outgoing(&mut dialling.node, dialling.now).iter().map(Vec::len).sum();
        assert!(answer <= length);
    });
});
