//! Frames of a hostile friend, who holds a session: each input is cut into frames, sealed and received in one batch.
#![no_main]

mod common;

use std::cell::RefCell;
use std::time::Duration;

use _dataplane::core::node::Node;
use _dataplane::core::session::{Cipher, Session, Terms};
use libfuzzer_sys::fuzz_target;

struct Link {
    node: Node,
    hostile: Session,
    now: Duration,
}

thread_local!(static LINK: RefCell<Link> = RefCell::new(link()));

/// What a hostile friend has: the session's keys, which the node's key log tells us. Its first few counters were used already.
fn link() -> Link {
    let [_, mut node] = common::friends();
    let lines = node.poll_keylog();
    let fields: Vec<&str> = lines.last().map(|line| line.split(' ').collect()).unwrap_or_default();
    let index = |at: usize| u32::from_str_radix(fields[at], 16).unwrap_or_default();
    let key = |at: usize| {
        let mut key = [0; 32];
        for (byte, place) in key.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&fields[at][place..place + 2], 16).unwrap_or_default();
        }
        key
    };
    let terms = Terms { indices: (index(2), index(1)), is_hybrid: false, now: common::START };
    Link { node, hostile: Session::new(&[key(4), key(3)], true, Cipher::Aes256Gcm, terms), now: common::START }
}

fuzz_target!(|bytes: &[u8]| {
    LINK.with_borrow_mut(|link| {
        if link.now > common::START + Duration::from_secs(150) {
            *link = self::link();
        }
        link.now += Duration::from_micros(10);
        let (mut arena, mut places, mut rest) = (Vec::new(), Vec::new(), bytes);
        while let Some((&size, tail)) = rest.split_first() {
            let (frame, tail) = tail.split_at(usize::from(size).min(tail.len()));
            let mut datagram = vec![0; 13];
            datagram.extend_from_slice(frame);
            datagram.resize(13 + frame.len().next_multiple_of(16) + 16, 0);
            link.hostile.seal(&mut datagram);
            places.push(arena.len()..arena.len() + datagram.len());
            arena.extend(datagram);
            rest = tail;
        }
        link.node.packets().clear();
        for place in places {
            link.node.handle_datagram(common::at(1), &mut arena, place, link.now);
        }
        link.node.packets().finish();
        for (head, pieces, owned) in link.node.packets().runs() {
            let from = owned.unwrap_or(&arena);
            let length = head.len() + pieces.iter().map(|piece| from[piece.clone()].len()).sum::<usize>();
            assert_eq!(usize::from(u16::from_be_bytes([head[14], head[15]])) + 50, length);
            assert_eq!(head[18..34], common::address(1), "only the friend's own address");
        }
        while link.node.poll_event().is_some() {}
        common::outgoing(&mut link.node, link.now);
    });
});
