//! What local programs and the kernel write to the TUN: virtio headers and packets of any shape, cut and received by the friend.
#![no_main]

mod common;

use std::cell::RefCell;
use std::time::Duration;

use _dataplane::core::node::Node;
use libfuzzer_sys::fuzz_target;

thread_local!(static FRIENDS: RefCell<([Node; 2], Duration)> = RefCell::new((common::friends(), common::START)));

fuzz_target!(|bytes: &[u8]| {
    FRIENDS.with_borrow_mut(|(nodes, now)| {
        if *now > common::START + Duration::from_secs(150) {
            (*nodes, *now) = (common::friends(), common::START);
        }
        *now += Duration::from_micros(10);
        let mut packet = bytes.to_vec();
        // The first byte says which fields are made right, so that the fuzzer gets past the first checks.
        let fixes = packet.first().copied().unwrap_or_default();
        if packet.len() > 51 {
            packet.remove(0);
            if fixes & 1 != 0 {
                packet[10] = 0x60;
                let length = (packet.len() - 50) as u16;
                packet[14..16].copy_from_slice(&length.to_be_bytes());
            }
            if fixes & 2 != 0 {
                packet[18..34].copy_from_slice(&common::address(1));
                packet[34..50].copy_from_slice(&common::address(2));
            }
            if fixes & 4 != 0 {
                packet[16] = if fixes & 8 == 0 { 6 } else { 17 };
                packet[1] = if fixes & 8 == 0 { 4 } else { 5 };
            }
        }
        let end = packet.len();
        nodes[0].handle_packet(packet.into(), end, *now);
        for datagram in common::outgoing(&mut nodes[0], *now) {
            assert!(datagram.len() <= 1472);
            common::deliver(&mut nodes[1], common::at(1), datagram, *now);
        }
        common::outgoing(&mut nodes[1], *now);
        while nodes[0].poll_error().is_some() {}
        while nodes[0].poll_buffer().is_some() {}
    });
});
