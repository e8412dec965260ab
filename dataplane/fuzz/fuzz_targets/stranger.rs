//! What anybody may send to the port: nothing comes out that was not earned, nothing breaks, friends stay friends.
#![no_main]

mod common;

use std::cell::RefCell;

use _dataplane::core::node::Node;
use libfuzzer_sys::fuzz_target;

thread_local!(static FRIENDS: RefCell<[Node; 2]> = RefCell::new(common::friends()));

fuzz_target!(|bytes: &[u8]| {
    FRIENDS.with_borrow_mut(|[_, node]| {
        common::deliver(node, common::at(66), bytes.to_vec(), common::START);
        let answer: usize = common::outgoing(node, common::START).iter().map(Vec::len).sum();
        assert_eq!(answer, 0, "a stranger was answered");
        assert!(node.peers().all(|peer| peer.is_live(common::START)));
    });
});
