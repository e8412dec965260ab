//! Two nodes and a network of the test's own, under a virtual clock: what the protocol page promises, end to end.

use std::net::SocketAddr;
use std::time::Duration;

use _dataplane::core::drops::Drop;
use _dataplane::core::key::{mac, mac1_key, public_key, Key};
use _dataplane::core::node::{Event, Node, Settings};
use _dataplane::core::peer::Endpoint;
use _dataplane::core::tables::PeerTable;
use _dataplane::core::train::TRAIN_BYTES;
use _dataplane::core::virtio::{Virtio, GSO_TCP6, NEEDS_CHECKSUM};

const MS: Duration = Duration::from_millis(1);

/// A datagram under way.
#[derive(Clone)]
struct Datagram {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
}

struct Host {
    node: Node,
    key: Key,
    address: [u8; 16],
    at: SocketAddr,
    packets: Vec<Vec<u8>>,
    events: Vec<Event>,
}

impl Host {
    fn new(seed: u8, at: SocketAddr) -> Self {
        let private = [seed; 32];
        let mut address = [seed; 16];
        address[0] = 0xfc;
        let settings = Settings {
            private,
            address,
            mtu: 1400,
            underlay_mtu: 1500,
            rejoin_udp: true,
            keylog: true,
            features: if seed == 3 { 3 } else { 1 | u32::from(seed & 2) },
            seed: [seed; 32],
        };
        let node = Node::new(&settings, Duration::ZERO);
        Self { node, key: public_key(&private), address, at, packets: Vec::new(), events: Vec::new() }
    }

    fn befriend(&mut self, other: &Host, endpoints: Vec<SocketAddr>, psk: u8, now: Duration) {
        let table = PeerTable {
            address: Some(other.address),
            psk: [psk; 32],
            endpoints,
            keepalive: Duration::from_secs(25),
            own_private: None,
        };
        assert_eq!(self.node.set_peer(other.key, table, now), Ok(()));
    }

    fn receive(&mut self, datagram: Datagram, now: Duration) {
        let from = Endpoint { remote: datagram.from, local: None };
        let mut arena = datagram.bytes;
        let end = arena.len();
        self.node.packets().clear();
        self.node.handle_datagram(from, &mut arena, 0..end, now);
        self.node.packets().finish();
        for (head, pieces, owned) in self.node.packets().runs() {
            let from = owned.unwrap_or(&arena);
            let mut packet = head.to_vec();
            pieces.iter().for_each(|piece| packet.extend(&from[piece.clone()]));
            self.packets.push(packet);
        }
    }

    fn outgoing(&mut self, now: Duration) -> Vec<Datagram> {
        let (mut buffer, mut sent) = (vec![0; TRAIN_BYTES], Vec::new());
        while let Some(train) = self.node.poll_transmit(&mut buffer, now) {
            for bytes in buffer[..train.bytes].chunks(train.segment_bytes) {
                sent.push(Datagram { from: self.at, to: train.to.remote, bytes: bytes.to_vec() });
            }
        }
        while let Some(event) = self.node.poll_event() {
            self.events.push(event);
        }
        sent
    }

    fn send(&mut self, other: [u8; 16], next_header: u8, transport: &[u8], now: Duration) {
        let packet = ip6(self.address, other, next_header, transport);
        let end = packet.len();
        self.node.handle_packet(packet.into(), end, now);
    }

    fn sessions(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Session(..))).count()
    }

    fn dropped(&self, reason: Drop) -> u64 {
        self.node.drops().of(reason)
    }
}

fn ip6(from: [u8; 16], to: [u8; 16], next_header: u8, transport: &[u8]) -> Vec<u8> {
    let mut bytes = Virtio::default().write().to_vec();
    bytes.extend([0x60, 0, 0, 0]);
    bytes.extend((transport.len() as u16).to_be_bytes());
    bytes.extend([next_header, 64]);
    bytes.extend(from);
    bytes.extend(to);
    bytes.extend(transport);
    bytes
}

/// Two hosts, and what the network does with each datagram.
struct Net {
    hosts: [Host; 2],
    now: Duration,
    seen: Vec<Datagram>,
}

impl Net {
    fn strangers() -> Self {
        let hosts = [Host::new(3, ([192, 0, 2, 1], 4242).into()), Host::new(5, ([192, 0, 2, 2], 4242).into())];
        Self { hosts, now: Duration::from_secs(1000), seen: Vec::new() }
    }

    fn friends() -> Self {
        let mut net = Self::strangers();
        let [alice, bob] = &mut net.hosts;
        alice.befriend(bob, vec![bob.at], 9, net.now);
        bob.befriend(alice, vec![], 9, net.now);
        net
    }

    fn connected() -> Self {
        let mut net = Self::friends();
        net.run(50);
        assert_eq!((net.hosts[0].sessions(), net.hosts[1].sessions()), (1, 1));
        net
    }

    fn run(&mut self, milliseconds: u32) {
        self.run_through(milliseconds, |_| true);
    }

    /// Let time pass; a datagram arrives within the millisecond if `passes` says so.
    fn run_through(&mut self, milliseconds: u32, mut passes: impl FnMut(&mut Datagram) -> bool) {
        for _ in 0..milliseconds {
            self.now += MS;
            self.step(&mut passes);
        }
    }

    fn step(&mut self, passes: &mut impl FnMut(&mut Datagram) -> bool) {
        for at in 0..2 {
            self.hosts[at].node.handle_timeout(self.now);
        }
        for _ in 0..4 {
            let mut moving = self.hosts[0].outgoing(self.now);
            moving.extend(self.hosts[1].outgoing(self.now));
            for mut datagram in moving {
                self.seen.push(datagram.clone());
                if passes(&mut datagram) {
                    self.deliver(datagram);
                }
            }
        }
    }

    fn deliver(&mut self, datagram: Datagram) {
        let now = self.now;
        if let Some(host) = self.hosts.iter_mut().find(|host| host.at == datagram.to) {
            host.receive(datagram, now);
        }
    }

    fn ping(&mut self) -> bool {
        let before = self.hosts[1].packets.len();
        let to = self.hosts[1].address;
        let now = self.now;
        self.hosts[0].send(to, 58, &[128, 0, 0, 0, 1, 2, 3, 4], now);
        self.run(20);
        self.hosts[1].packets.len() == before + 1
    }
}

#[test]
fn a_packet_makes_the_journey_whole() {
    let mut net = Net::connected();
    assert!(net.ping());
    let [alice, bob] = &net.hosts;
    assert_eq!(bob.packets[0], ip6(alice.address, bob.address, 58, &[128, 0, 0, 0, 1, 2, 3, 4]));
}

#[test]
fn the_first_packet_waits_for_the_handshake() {
    let mut net = Net::friends();
    assert!(net.ping());
}

#[test]
fn both_may_dial_at_once() {
    let mut net = Net::strangers();
    let now = net.now;
    let [alice, bob] = &mut net.hosts;
    alice.befriend(bob, vec![bob.at], 9, now);
    bob.befriend(alice, vec![alice.at], 9, now);
    net.run(100);
    assert!(net.ping());
    net.hosts.swap(0, 1);
    assert!(net.ping());
}

#[test]
fn a_large_superpacket_crosses_whole() {
    let mut net = Net::connected();
    net.run(100);
    let [alice, bob] = &mut net.hosts;
    let mut transport = vec![0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0, 0, 0, 0, 0, 0];
    transport.extend((0..40_000).map(|at| at as u8));
    let mut packet = ip6(alice.address, bob.address, 6, &transport);
    let virtio = Virtio {
        flags: NEEDS_CHECKSUM,
        gso: GSO_TCP6,
        header_bytes: 60,
        segment_bytes: 1340,
        checksum_start: 40,
        checksum_offset: 16,
    };
    packet[..10].copy_from_slice(&virtio.write());
    let end = packet.len();
    alice.node.handle_packet(packet.into(), end, net.now);
    net.run(2);
    let payload: Vec<u8> = net.hosts[1].packets.iter().flat_map(|packet| packet[70..].to_vec()).collect();
    assert_eq!(payload, transport[20..]);
    assert!(net.seen.iter().all(|datagram| datagram.bytes.len() <= 1472));
}

#[test]
fn equal_datagrams_of_one_flow_arrive_as_one_superpacket() {
    let mut net = Net::connected();
    let [alice, bob] = &mut net.hosts;
    let virtio = Virtio { flags: NEEDS_CHECKSUM, checksum_start: 40, checksum_offset: 6, ..Virtio::default() };
    for (port, payload) in [(1, 30), (1, 30), (1, 30), (2, 30), (1, 20)] {
        let mut transport = vec![0, port, 0, 9, 0, payload + 8, 0, 0];
        transport.extend(vec![port; payload.into()]);
        let mut packet = ip6(alice.address, bob.address, 17, &transport);
        packet[..10].copy_from_slice(&virtio.write());
        let end = packet.len();
        alice.node.handle_packet(packet.into(), end, net.now);
    }
    let now = net.now;
    let moving = net.hosts[0].outgoing(now);
    let (mut arena, mut places) = (Vec::new(), Vec::new());
    for datagram in &moving {
        places.push(arena.len()..arena.len() + datagram.bytes.len());
        arena.extend(&datagram.bytes);
    }
    let bob = &mut net.hosts[1];
    for place in places {
        bob.node.handle_datagram(Endpoint { remote: moving[0].from, local: None }, &mut arena, place, now);
    }
    bob.node.packets().finish();
    let lengths: Vec<usize> =
        bob.node.packets().runs().map(|(_, pieces, _)| pieces.iter().map(ExactSizeIterator::len).sum()).collect();
    assert_eq!(lengths, [90, 20, 30]);
}

#[test]
fn a_full_packet_crosses_a_narrow_path_in_two() {
    let mut net = Net::friends();
    let narrow = |datagram: &mut Datagram| datagram.bytes.len() <= 1252;
    net.run_through(2000, narrow);
    let to = net.hosts[1].address;
    let now = net.now;
    net.hosts[0].send(to, 17, &[7; 1360], now);
    net.run_through(5, narrow);
    assert_eq!(net.hosts[1].packets.len(), 1);
    assert_eq!(net.hosts[1].packets[0][50..], [7; 1360]);
}

#[test]
fn a_path_that_narrows_is_noticed_while_full_datagrams_flow() {
    let mut net = Net::connected();
    let narrow = |datagram: &mut Datagram| datagram.bytes.len() <= 1252;
    let to = net.hosts[1].address;
    for _ in 0..50 {
        let now = net.now;
        net.hosts[0].send(to, 17, &[7; 1360], now);
        net.run_through(100, narrow);
    }
    let arrived = net.hosts[1].packets.len();
    assert!((5..50).contains(&arrived), "{arrived} of 50 in 5 s");
    assert_eq!(net.hosts[0].sessions(), 1);
}

#[test]
fn a_stranger_gets_nothing() {
    let mut net = Net::strangers();
    let now = net.now;
    let [alice, bob] = &mut net.hosts;
    alice.befriend(bob, vec![bob.at], 9, now);
    net.run(3000);
    assert!(net.seen.iter().all(|datagram| datagram.from == net.hosts[0].at));
    assert!(net.hosts[1].dropped(Drop::RxStranger) >= 3);
}

#[test]
fn another_psk_makes_no_session() {
    let mut net = Net::strangers();
    let now = net.now;
    let [alice, bob] = &mut net.hosts;
    alice.befriend(bob, vec![bob.at], 9, now);
    bob.befriend(alice, vec![], 10, now);
    net.run(3000);
    assert_eq!(net.hosts[0].sessions() + net.hosts[1].sessions(), 0);
    assert!(net.hosts[0].dropped(Drop::RxUnexpected) > 0);
}

#[test]
fn a_forged_response_does_not_end_a_handshake() {
    let mut net = Net::friends();
    let mut held = None;
    net.run_through(2, |datagram| {
        let is_response = datagram.bytes[0] == 2;
        if is_response {
            held = Some(datagram.clone());
        }
        !is_response
    });
    let Some(real) = held else { panic!("no response") };
    let initiation = net.seen.iter().find(|datagram| datagram.bytes[0] == 1).map(|datagram| datagram.bytes.clone());
    let key = mac1_key(&initiation.unwrap_or_default()[5..37]);
    for at in [9, 40, 41, 60] {
        let mut forged = real.clone();
        forged.bytes[at] ^= 1;
        let made = mac(&key, &[&forged.bytes[..61]]);
        forged.bytes[61..77].copy_from_slice(&made);
        net.deliver(forged);
    }
    assert_eq!(net.hosts[0].dropped(Drop::RxUnexpected), 4);
    net.deliver(real);
    net.run(2);
    assert_eq!(net.hosts[0].sessions(), 1);
    assert!(net.ping());
}

#[test]
fn what_was_recorded_and_sent_again_changes_nothing() {
    let mut net = Net::connected();
    assert!(net.ping());
    let recorded = net.seen.clone();
    let (before, delivered) = (net.seen.len(), net.hosts[1].packets.len());
    net.run(2000);
    let quiet = net.seen.len() - before;
    for datagram in recorded.iter().chain(recorded.iter().rev()) {
        net.deliver(datagram.clone());
        let mut moved = datagram.clone();
        moved.from = ([198, 51, 100, 9], 9).into();
        net.deliver(moved);
    }
    let before = net.seen.len();
    net.run(1000);
    assert!(net.seen.len() - before <= quiet + 1, "at most one cookie reply");
    assert_eq!(net.hosts[1].packets.len(), delivered);
    assert_eq!(net.hosts[1].sessions(), 1);
    assert!(net.ping());
}

#[test]
fn sessions_are_renewed_and_nothing_is_lost() {
    let mut net = Net::connected();
    for _ in 0..30 {
        assert!(net.ping());
        net.run(10_000);
    }
    assert!((3..=4).contains(&net.hosts[0].sessions()), "{}", net.hosts[0].sessions());
    assert_eq!(net.hosts[0].sessions(), net.hosts[1].sessions());
}

#[test]
fn an_address_is_believed_after_it_answered() {
    let mut net = Net::connected();
    let moved: SocketAddr = ([203, 0, 113, 7], 555).into();
    net.hosts[0].at = moved;
    let before = net.seen.len();
    assert!(net.ping());
    net.run(50);
    assert!(net.hosts[1].events.contains(&Event::Roamed(net.hosts[0].key, Endpoint { remote: moved, local: None })));
    let (from, to): (Vec<_>, Vec<_>) = net.seen[before..].iter().partition(|datagram| datagram.from == moved);
    assert!(!from.is_empty() && !to.is_empty());
    net.hosts.swap(0, 1);
    assert!(net.ping());
}

#[test]
fn an_address_that_does_not_answer_is_not_believed() {
    let mut net = Net::connected();
    let forged: SocketAddr = ([203, 0, 113, 7], 555).into();
    let real = net.hosts[0].at;
    let mut out = 0;
    let mut back = 0;
    for _ in 0..20 {
        let to = net.hosts[1].address;
        let now = net.now;
        net.hosts[0].send(to, 58, &[128, 0, 0, 0, 1, 2, 3, 4], now);
        net.run_through(100, |datagram| {
            if datagram.from == real {
                datagram.from = forged;
                out += datagram.bytes.len();
            }
            if datagram.to == forged {
                back += datagram.bytes.len();
            }
            true
        });
    }
    assert!(back <= out, "{back} bytes to an address that sent {out}");
    assert!(!net.hosts[1].events.iter().any(|event| matches!(event, Event::Roamed(..))));
}

#[test]
fn a_dead_friend_is_noticed_and_found_again_within_three_seconds() {
    let mut net = Net::connected();
    assert!(net.ping());
    // Bob restarts and has forgotten everything but his friend.
    let mut bob = Host::new(5, net.hosts[1].at);
    bob.befriend(&net.hosts[0], vec![], 9, net.now);
    net.hosts[1] = bob;
    let mut answered_after = None;
    for step in 0..30 {
        if net.ping() {
            answered_after = Some(step * 120);
            break;
        }
        net.run(100);
    }
    assert!(answered_after.is_some_and(|after| after <= 3000), "{answered_after:?}");
    assert!(net.hosts[0].events.contains(&Event::Lost(net.hosts[1].key)));
}

#[test]
fn a_clock_that_went_back_does_not_lock_a_friend_out() {
    let mut net = Net::strangers();
    let now = net.now;
    let [alice, bob] = &mut net.hosts;
    alice.node.handle_clock(Duration::from_secs(2_000_000_000), now);
    alice.befriend(bob, vec![bob.at], 9, now);
    bob.befriend(alice, vec![], 9, now);
    net.run(100);
    assert_eq!(net.hosts[1].sessions(), 1);
    let mut alice = Host::new(3, net.hosts[0].at);
    alice.node.handle_clock(Duration::from_secs(1_000_000_000), net.now);
    alice.befriend(&net.hosts[1], vec![net.hosts[1].at], 9, net.now);
    net.hosts[0] = alice;
    net.run(3000);
    assert_eq!(net.hosts[0].sessions(), 1);
    assert!(net.ping());
}

#[test]
fn under_load_an_address_is_proved_first() {
    let mut net = Net::strangers();
    let now = net.now;
    let [alice, bob] = &mut net.hosts;
    let mut stranger = Host::new(77, ([198, 51, 100, 1], 1).into());
    bob.befriend(alice, vec![], 9, now);
    let flood = |host: &mut Host, bob: &Host, now: Duration| {
        let one = |count: u32| {
            let then = now + MS * 5 * count;
            host.node.remove_peer(&bob.key);
            host.befriend(bob, vec![bob.at], 9, then);
            host.node.handle_timeout(then + MS);
            host.outgoing(then)
        };
        (0..300).flat_map(one).collect::<Vec<_>>()
    };
    let junk = flood(&mut stranger, bob, now);
    alice.befriend(bob, vec![bob.at], 9, now);
    for step in 0..40 {
        for datagram in &junk {
            net.deliver(datagram.clone());
        }
        net.run(100);
        if net.hosts[0].sessions() > 0 {
            assert!(net.hosts[1].dropped(Drop::RxUnderLoad) > 0);
            assert!(step * 100 < 6000);
            return;
        }
    }
    panic!("no session under load");
}

#[test]
fn thousands_who_are_away_are_dialled_at_a_pace_and_who_is_waited_for_goes_first() {
    let mut net = Net::strangers();
    let now = net.now;
    let away: SocketAddr = ([198, 51, 100, 1], 4242).into();
    for seed in 0..2000u16 {
        let mut private = [7; 32];
        private[..2].copy_from_slice(&seed.to_be_bytes());
        let mut address = [0xfc; 16];
        address[14..].copy_from_slice(&seed.to_be_bytes());
        let table = PeerTable {
            address: Some(address),
            psk: [0; 32],
            endpoints: vec![away],
            keepalive: Duration::from_secs(25),
            own_private: None,
        };
        assert_eq!(net.hosts[0].node.set_peer(public_key(&private), table, now), Ok(()));
    }
    net.run(20);
    assert!(net.seen.len() <= 6, "{} initiations in 20 ms", net.seen.len());
    let [alice, bob] = &mut net.hosts;
    alice.befriend(bob, vec![bob.at], 9, net.now);
    bob.befriend(alice, vec![], 9, net.now);
    assert!(net.ping(), "a packet waits for bob");
}

#[test]
fn a_goodbye_goes_out_before_the_friend_is_forgotten() {
    let mut net = Net::connected();
    let (key, now) = (net.hosts[1].key, net.now);
    assert!(net.hosts[0].node.send_control(&key, b"goodbye", now));
    assert!(net.hosts[0].node.remove_peer(&key));
    net.run(2);
    assert!(net.hosts[1].events.contains(&Event::Control(net.hosts[0].key, b"goodbye".to_vec())));
}

#[test]
fn removed_means_gone() {
    let mut net = Net::connected();
    let key = net.hosts[0].key;
    assert!(net.hosts[1].node.remove_peer(&key));
    assert!(!net.ping());
    let before = net.seen.len();
    net.run(3000);
    assert!(net.seen[before..].iter().all(|datagram| datagram.from == net.hosts[0].at), "bob is silent");
}

#[test]
fn control_messages_cross_in_either_size() {
    let mut net = Net::connected();
    let (key, now) = (net.hosts[1].key, net.now);
    for size in [1, 100, 2300] {
        assert!(net.hosts[0].node.send_control(&key, &vec![size as u8; size], now));
    }
    assert!(!net.hosts[0].node.send_control(&key, &[0; 2301], now));
    net.run(5);
    let sizes: Vec<usize> = net.hosts[1]
        .events
        .iter()
        .filter_map(|event| match event {
            Event::Control(_, message) => Some(message.len()),
            _ => None,
        })
        .collect();
    assert_eq!(sizes, [1, 100, 2300]);
}

#[test]
fn what_no_two_fragments_carry_is_refused_with_the_size_that_they_do() {
    let mut net = Net::connected();
    let (to, now) = (net.hosts[1].address, net.now);
    net.hosts[0].send(to, 17, &[7; 4000], now);
    let error = net.hosts[0].node.poll_error().unwrap_or_default();
    assert_eq!((error[6], error[40], error[41]), (58, 2, 0));
    let said = u32::from_be_bytes([error[44], error[45], error[46], error[47]]) as usize;
    net.hosts[0].send(to, 17, &vec![7; said - 40], now);
    net.run(5);
    assert_eq!(net.hosts[0].dropped(Drop::TxTooBig), 1);
    assert_eq!(net.hosts[1].dropped(Drop::RxTooLarge), 1, "it arrived, larger than bob's TUN takes");
}

#[test]
fn to_nobody_an_error_says_so() {
    let mut net = Net::connected();
    let now = net.now;
    net.hosts[0].send([0xfc; 16], 17, &[0; 8], now);
    let error = net.hosts[0].node.poll_error().unwrap_or_default();
    assert_eq!((error[6], error[40], error[41]), (58, 1, 0));
    assert_eq!(net.hosts[0].dropped(Drop::TxNoFriend), 1);
}

#[test]
fn a_hybrid_psk_is_taken_up_and_a_forgotten_one_given_up() {
    let mut net = Net::connected();
    let (alice, bob, now) = (net.hosts[0].key, net.hosts[1].key, net.now);
    assert!(net.hosts[1].node.set_hybrid_psk(&alice, [42; 32], false, now));
    assert!(net.hosts[0].node.set_hybrid_psk(&bob, [42; 32], true, now));
    net.run(100);
    assert_eq!(net.hosts[0].sessions(), 2);
    let hybrid =
        |host: &Host| host.node.peers().all(|peer| peer.current.as_ref().is_some_and(|session| session.is_hybrid));
    assert!(hybrid(&net.hosts[0]) && net.ping() && hybrid(&net.hosts[1]));
    let mut forgetful = Host::new(5, net.hosts[1].at);
    forgetful.befriend(&net.hosts[0], vec![], 9, net.now);
    net.hosts[1] = forgetful;
    net.ping();
    net.run(5000);
    assert!(net.ping(), "back to the friendship's own psk");
}
