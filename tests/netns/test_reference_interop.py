"""The real data plane and the reference implementation are friends: every part of docs/protocol.md, in both roles."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from f2ftun.dataplane import EventKind
from tests.netns.device import LOOPBACK, MTU, Inbox, RealNode, ReferenceHost, text
from tests.netns.lab import Lab
from tests.reference import crypto
from tests.reference.datagram import AES, DATA, DATA_MIN_BYTES, HYBRID, INITIATION, psk_id
from tests.reference.event import Event, Kind
from tests.reference.frame import UDP, Control, Fragment, Nothing, Packet, elide, fill_checksum
from tests.reference.hostile import stranger_initiations
from tests.reference.identity import address_of, device_from
from tests.reference.node import Node
from tests.reference.session import Session
from tests.reference.superpacket import Superpacket, continues, segment, transport_header_bytes, udp_packet
from tests.reference.udp import UdpNode, bind

PSK = crypto.hash32(b"interop psk")
PORT, REFERENCE_PORT = 5000, 40000
SOL_UDP, UDP_SEGMENT = 17, 103
"""Source: Linux udp.h."""


@pytest.fixture
def real(lab: Lab) -> Iterator[RealNode]:
    with RealNode(lab.namespace("real"), device_from("real")) as node:
        yield node


@pytest.fixture
def features() -> int:
    """Offer nothing; tests let the reference offer more by a parameter of this name."""
    return 0


@pytest.fixture
def friend(real: RealNode, features: int) -> Iterator[UdpNode]:
    with real.reference(lambda key: Node(key, features=features), device_from("friend")) as node:
        yield node


def meet(real: RealNode, friend: UdpNode) -> None:
    """Let the reference dial, and wait until both ends know that a session stands."""
    real.befriend(friend, psk=PSK)
    dial_and_wait(real, friend)


def dial_and_wait(real: RealNode, friend: UdpNode) -> None:
    before = len(real.happened(EventKind.SESSION, friend.node.key))
    friend.node.dial(real.key, friend.now)
    friend.run_until(lambda: len(real.happened(EventKind.SESSION, friend.node.key)) > before)


def current(real: RealNode, friend: UdpNode) -> Session:
    """Give the session that the reference sends on."""
    session = friend.node.peers[real.key].current
    assert session is not None
    return session


def packet_to(real: RealNode, friend: UdpNode, body: bytes) -> bytes:
    """Make a UDP packet from the reference's address, its checksum right."""
    packet = udp_packet(friend.node.address, real.address, body)
    return packet[:40] + fill_checksum(17, packet[40:], friend.node.address, real.address)


def bodies(friend: UdpNode) -> list[bytes]:
    """List what UDP carried in the packets that came, whose checksums must be right."""
    packets = [event.payload for event in friend.happened(Kind.PACKET) if event.payload[6] == UDP]
    for packet in packets:
        assert fill_checksum(17, packet[40:], packet[8:24], packet[24:40]) == packet[40:]
    return [packet[48:] for packet in packets]


def send_from(udp: Inbox, friend: UdpNode, body: bytes) -> None:
    """Let the real node's kernel send a packet."""
    udp.sock.sendto(body, (text(friend.node.address), REFERENCE_PORT))


def assert_talks(real: RealNode, friend: UdpNode, mark: bytes) -> None:
    """Send a packet each way and see it arrive."""
    with real.inbox(PORT) as udp:
        send_from(udp, friend, mark)
        friend.run_until(lambda: mark in bodies(friend))
        friend.node.send_packet(real.key, packet_to(real, friend, mark), friend.now)
        friend.run_until(lambda: udp.came() == [mark])


def test_real_node_dials(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, psk=PSK, dial=True, known=False)
    friend.run_until(lambda: friend.node.peers[real.key].endpoint == real.endpoint)
    assert_talks(real, friend, b"the real one dialled")


def test_reference_dials(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    assert_talks(real, friend, b"the reference dialled")
    state = real.state(friend.node.key)
    assert state.endpoint == friend.where
    assert state.rx_datagrams > 0
    assert state.tx_datagrams > 0


def test_first_packet_dials_and_is_not_lost(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, dial=True, known=False)
    with real.inbox() as udp:
        send_from(udp, friend, b"first")
        friend.run_until(lambda: bodies(friend) == [b"first"])


def test_both_dial_at_once(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, psk=PSK, dial=True)
    friend.node.dial(real.key, friend.now)
    real.device.dial(friend.node.key)
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    for number in range(5):
        assert_talks(real, friend, b"at once %d" % number)


@pytest.mark.parametrize("features", [HYBRID, AES, HYBRID | AES])
@pytest.mark.parametrize("dial", [False, True])
def test_features_are_those_that_both_have(real: RealNode, friend: UdpNode, features: int, dial: bool) -> None:
    real.befriend(friend, psk=PSK, dial=dial, known=not dial)
    if not dial:
        friend.node.dial(real.key, friend.now)
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    assert_talks(real, friend, b"with features")
    assert current(real, friend).features == features & (HYBRID | (AES if hardware_has_aes() else 0))


def hardware_has_aes() -> bool:
    return " aes " in Path("/proc/cpuinfo").read_text()


@pytest.mark.parametrize("features", [0, AES])
def test_session_follows_session_without_loss(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    with real.inbox(PORT) as udp:
        sent = [b"packet %d" % number for number in range(60)]
        for number, body in enumerate(sent):
            if number % 20 == 5:
                friend.node.dial(real.key, friend.now)
            if number % 20 == 15:
                real.device.dial(friend.node.key)
            friend.node.send_packet(real.key, packet_to(real, friend, body), friend.now)
            friend.run_until(lambda: len(udp.came()) == number + 1)  # noqa: B023
            if number % 10 == 9:
                friend.run_until(lambda: len(friend.node.log) >= 2 + number // 10)  # noqa: B023
        assert udp.came() == sent


@pytest.mark.parametrize("checksum", [b"\0\0", b"\xab\xcd"])
def test_partial_checksum_holds_anything(real: RealNode, friend: UdpNode, checksum: bytes) -> None:
    meet(real, friend)
    packet = packet_to(real, friend, b"partial")
    bent = packet[:46] + checksum + packet[48:]
    with real.inbox(PORT) as udp:
        friend.node.send_frame(real.key, elide(bent, partial=True).write(), friend.now)
        friend.run_until(lambda: udp.came() == [b"partial"])


def test_superpacket_of_the_kernel_arrives_as_a_run(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    body = bytes(range(256)) * 31
    with real.inbox() as udp:
        udp.sock.setsockopt(SOL_UDP, UDP_SEGMENT, 1000)
        send_from(udp, friend, body)
    friend.run_until(lambda: len(b"".join(bodies(friend))) == len(body))
    events = friend.happened(Kind.PACKET)
    assert b"".join(event.payload[48:] for event in events) == body
    if "uso" in real.device.offloads:
        assert count_joined(events) == 7


def count_joined(events: list[Event]) -> int:
    """Count the packets that are joined to the one before, each of which must keep the promises of *joined*."""
    run_bytes, joined = 0, 0
    for before, after in itertools.pairwise(events):
        if not before.joined:
            run_bytes = len(before.payload) - 40 - transport_header_bytes(elide(before.payload))
        if after.joined:
            assert after.counter == before.counter + 1
            assert continues(before.payload, after.payload, run_bytes)
            joined += 1
    return joined


@pytest.mark.parametrize("size", [1, 100, 1000])
def test_equal_datagrams_may_be_joined(real: RealNode, friend: UdpNode, size: int) -> None:
    meet(real, friend)
    bodies_sent = [bytes([number & 0xFF]) * size for number in range(300)]
    with real.inbox() as udp:
        for number, body in enumerate(bodies_sent):
            send_from(udp, friend, body)
            if number % 50 == 49:
                friend.run_until(lambda: len(friend.happened(Kind.PACKET)) == number + 1)  # noqa: B023
    assert bodies(friend) == bodies_sent
    count_joined(friend.happened(Kind.PACKET))


@pytest.mark.parametrize("lost", [None, 0, 3, 7])
def test_run_is_rejoined_or_handed_on_one_by_one(real: RealNode, friend: UdpNode, lost: int | None) -> None:
    meet(real, friend)
    body = bytes(range(256)) * 31
    run = segment(Superpacket(udp_packet(friend.node.address, real.address, body), 1000))
    with real.inbox(PORT) as udp, real.watch() as tun:
        session = current(real, friend)
        datagrams = [session.seal(part.write()) for part in run]
        kept = [datagram for number, datagram in enumerate(datagrams) if number != lost]
        friend.send_train(kept, real.endpoint)
        friend.run_until(lambda: len(udp.came()) == len(kept))
        assert udp.came() == [part.payload[8:] for number, part in enumerate(run) if number != lost]
        packets = tun.came()
        assert all(packet[8:40] == friend.node.address + real.address for packet in packets)
        if "uso" in real.device.offloads:
            assert len(packets) == {None: 1, 0: 1, 3: 2, 7: 1}[lost]


def test_reordered_run_loses_nothing(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    run = segment(Superpacket(udp_packet(friend.node.address, real.address, bytes(8000)), 1000))
    with real.inbox(PORT) as udp:
        session = current(real, friend)
        for datagram in reversed([session.seal(part.write()) for part in run]):
            friend.send_raw(datagram, real.endpoint)
        friend.run_until(lambda: len(udp.came()) == len(run))


@pytest.mark.parametrize("backwards", [False, True])
def test_fragments_are_rejoined(real: RealNode, friend: UdpNode, backwards: bool) -> None:
    meet(real, friend)
    frame = elide(packet_to(real, friend, b"f" * 1352)).write()
    halves = [Fragment(False, 7, frame[:1000]).write(), Fragment(True, 7, frame[1000:]).write()]
    with real.inbox(PORT) as udp:
        for half in reversed(halves) if backwards else halves:
            friend.node.send_frame(real.key, half, friend.now)
        friend.run_until(lambda: udp.came() == [b"f" * 1352])


def test_packet_too_large_for_the_path_comes_in_two(real: RealNode, friend: UdpNode) -> None:
    friend.path_bytes = 1252
    meet(real, friend)
    with real.inbox() as udp:
        send_from(udp, friend, b"l" * 1352)
        friend.run_until(lambda: bodies(friend) == [b"l" * 1352])
    assert real.state(friend.node.key).datagram_bytes <= 1252


@pytest.fixture
def host(lab: Lab, friend: UdpNode, real: RealNode) -> Iterator[ReferenceHost]:
    with contextlib.closing(ReferenceHost(lab.namespace("reference"), friend, real.key)) as made:
        yield made


@pytest.mark.parametrize("features", [0, AES])
@pytest.mark.parametrize("from_real", [True, False])
def test_tcp_flows_through_both(
    lab: Lab, real: RealNode, friend: UdpNode, host: ReferenceHost, from_real: bool
) -> None:
    """Let two kernels talk TCP: superpackets are cut by one implementation and rejoined by the other."""
    meet(real, friend)
    friend.node.peers[real.key].datagram_bytes = MTU + DATA_MIN_BYTES
    ends = (real.namespace, text(real.address)), (lab.namespaces["reference"], text(friend.node.address))
    (client_space, client_at), (server_space, server_at) = ends if from_real else reversed(ends)
    with (
        server_space.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
        client_space.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as client,
    ):
        listener.bind((server_at, 80))
        listener.listen()
        listener.setblocking(False)
        client.bind((client_at, 0))
        client.setblocking(False)
        client.connect_ex((server_at, 80))
        body = random.Random(1).randbytes(2 << 20)
        with real.watch() as tun:
            assert carry(host, client, listener, body) == body
            longest = max(map(len, tun.came()))
    if "tso" in real.device.offloads:
        assert longest > MTU or from_real
        assert count_joined(host.came) > 100 or not from_real


def carry(host: ReferenceHost, client: socket.socket, listener: socket.socket, body: bytes) -> bytes:
    """Send a body through a TCP connection; give what came within 20 s."""
    server: socket.socket | None = None
    sent, came, deadline = 0, bytearray(), time.monotonic() + 20
    while len(came) < len(body) and time.monotonic() < deadline:
        host.step()
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            sent += client.send(body[sent : sent + (1 << 16)]) if sent < len(body) else 0
        with contextlib.suppress(BlockingIOError):
            server = server or listener.accept()[0]
            server.setblocking(False)
            came += server.recv(1 << 20)
    if server is not None:
        server.close()
    return bytes(came)


def test_path_size_is_found(real: RealNode, friend: UdpNode) -> None:
    friend.path_bytes = 1400
    meet(real, friend)
    friend.run_until(lambda: 1385 <= real.state(friend.node.key).datagram_bytes <= 1400)


def test_probes_are_answered_with_the_size_that_came(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    sizes = (16, 1216, 1408)
    tokens = [friend.node.probe(real.key, friend.now, size) for size in sizes]
    wanted = {(token, size + DATA_MIN_BYTES) for token, size in zip(tokens, sizes, strict=True)}
    friend.run_until(lambda: wanted <= {(e.payload, e.counter) for e in friend.happened(Kind.PROBE_REPLY)})


def test_real_node_measures_round_trips(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, dial=True)
    friend.run_until(lambda: real.state(friend.node.key).rtt_s is not None)


def test_control_goes_both_ways_in_one_piece_or_two(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    messages = [b"m" * size for size in (1, 15, 16, 1200, 2300)]
    for message in messages:
        friend.node.send_frame(real.key, Control(message).write(), friend.now)
        assert real.device.send_control(friend.node.key, message)
    friend.run_until(lambda: len(real.happened(EventKind.CONTROL, friend.node.key)) == len(messages))
    assert real.happened(EventKind.CONTROL, friend.node.key) == messages
    friend.run_until(lambda: len(friend.happened(Kind.CONTROL)) == len(messages))
    assert sorted(event.payload for event in friend.happened(Kind.CONTROL)) == sorted(messages)


def test_loaded_real_node_wants_a_cookie(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend)
    with real.namespace.entered(), bind(LOOPBACK) as crowd:
        flood = stranger_initiations(real.key, friend.node.entropy)
        for _ in range(400):
            crowd.sendto(next(flood), real.endpoint)
    friend.node.dial(real.key, friend.now)
    friend.run_until(lambda: friend.node.peers[real.key].current is not None)
    assert friend.happened(Kind.COOKIE) != []


def test_real_node_brings_the_cookie_it_was_given(real: RealNode, friend: UdpNode) -> None:
    friend.node.load.loaded_until = 1e9
    real.befriend(friend, dial=True, known=False)
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    assert friend.node.drops["cookie asked for"] >= 1


def test_clock_gone_back_is_healed(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    with real.reference(Node, device_from("friend")) as rebooted:
        rebooted.node.epoch -= 1e9
        rebooted.node.add_peer(real.key, psk=PSK, endpoints=[real.endpoint])
        dial_and_wait(real, rebooted)
        assert rebooted.happened(Kind.COOKIE) != []
        assert_talks(real, rebooted, b"from the past")


def test_real_node_heals_its_own_clock(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, dial=True, known=False)
    friend.node.peers[real.key].timestamp_seen = b"\x40" + b"\xff" * 11
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    assert friend.node.drops["old timestamp"] >= 1


def test_real_node_is_an_invite_peer(real: RealNode, friend: UdpNode) -> None:
    invite_private_key = crypto.hash32(b"invite")
    friend.node.add_peer(crypto.public_key(invite_private_key), psk=PSK, has_address=False)
    real.device.set_peer(
        friend.node.key,
        address=None,
        psk=PSK,
        endpoints=[friend.where],
        own_private_key=invite_private_key,
    )
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    assert real.device.send_control(friend.node.key, b"join")
    friend.run_until(lambda: [event.payload for event in friend.happened(Kind.CONTROL)] == [b"join"])
    friend.node.send_frame(crypto.public_key(invite_private_key), Control(b"welcome").write(), friend.now)
    friend.run_until(lambda: real.happened(EventKind.CONTROL, friend.node.key) == [b"welcome"])


def test_real_node_accepts_an_invite_peer_for_control_only(real: RealNode, friend: UdpNode) -> None:
    real.device.set_peer(friend.node.key, address=None, psk=PSK, endpoints=[])
    friend.node.add_peer(real.key, psk=PSK, endpoints=[real.endpoint])
    dial_and_wait(real, friend)
    with real.watch() as tun:
        friend.node.send_packet(real.key, packet_to(real, friend, b"no"), friend.now)
        friend.node.send_frame(real.key, Control(b"join").write(), friend.now)
        friend.run_until(lambda: real.happened(EventKind.CONTROL, friend.node.key) == [b"join"])
        assert tun.came() == []


def test_real_node_starts_with_the_hybrid_psk(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    hybrid = crypto.hash32(b"hybrid")
    friend.node.peers[real.key].hybrid_psk = hybrid
    assert real.device.set_hybrid_psk(friend.node.key, hybrid, initiate=True)
    friend.run_until(lambda: current(real, friend).psk_id == psk_id(hybrid))
    assert real.state(friend.node.key).hybrid
    assert_talks(real, friend, b"hybrid")


def test_real_node_accepts_the_hybrid_psk_and_the_old_one(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    hybrid = crypto.hash32(b"hybrid")
    real.device.set_hybrid_psk(friend.node.key, hybrid, initiate=False)
    friend.node.peers[real.key].hybrid_psk = hybrid
    dial_and_wait(real, friend)
    assert real.state(friend.node.key).hybrid
    friend.node.peers[real.key].hybrid_psk = None
    dial_and_wait(real, friend)
    assert not real.state(friend.node.key).hybrid
    assert_talks(real, friend, b"classical again")


def test_hybrid_psk_unknown_to_the_real_node_is_not_answered(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, psk=PSK)
    friend.node.peers[real.key].hybrid_psk = crypto.hash32(b"hybrid")
    friend.node.dial(real.key, friend.now)
    friend.run_until(lambda: friend.node.peers[real.key].current is not None)
    session = current(real, friend)
    assert session.psk_id == bytes(4)


def test_reference_roams(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    with real.namespace.entered():
        friend.move(bind("127.0.0.2"))
    friend.node.probe(real.key, friend.now)
    friend.run_until(lambda: real.state(friend.node.key).endpoint == friend.where)
    assert real.happened(EventKind.ROAMED, friend.node.key) == [friend.where.encode()]
    assert_talks(real, friend, b"from elsewhere")


def test_address_that_does_not_answer_is_not_moved_to(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    session = current(real, friend)
    with real.namespace.entered(), Inbox(bind("127.0.0.3")) as elsewhere:
        captured = session.seal(Control(b"carried off").write())
        elsewhere.sock.sendto(captured, real.endpoint)
        friend.run_until(lambda: real.happened(EventKind.CONTROL, friend.node.key) == [b"carried off"])
        for number in range(5):
            assert_talks(real, friend, b"still here %d" % number)
        assert sum(map(len, elsewhere.came())) <= len(captured)
    assert real.state(friend.node.key).endpoint == friend.where


def test_held_back_datagram_draws_nothing(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    session = current(real, friend)
    held = session.seal(Control(b"held back").write())
    assert_talks(real, friend, b"newer")
    with real.namespace.entered(), Inbox(bind("127.0.0.3")) as elsewhere:
        elsewhere.sock.sendto(held, real.endpoint)
        friend.run_until(lambda: real.happened(EventKind.CONTROL, friend.node.key) == [b"held back"])
        assert_talks(real, friend, b"newer still")
        assert elsewhere.came() == []


def test_frames_that_say_nothing_are_fine(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    friend.node.send_frame(real.key, Nothing().write(), friend.now)
    friend.node.send_frame(real.key, bytes(16), friend.now)
    assert_talks(real, friend, b"after nothing")
    assert not any(reason.startswith("rx_malformed") and count for reason, count in real.device.drops().items())


@pytest.mark.parametrize("features", [0, AES])
def test_key_log_opens_what_was_captured(real: RealNode, friend: UdpNode) -> None:
    from f2ftun.wire.keylog import open_data, parse_key_log

    meet(real, friend)
    assert_talks(real, friend, b"logged")
    keys = parse_key_log((real.namespace.folder / "keylog").read_text())
    data = [datagram for datagram, _ in friend.received if datagram[0] == DATA]
    assert data != []
    assert all(open_data(keys[int.from_bytes(datagram[1:5], "big")], datagram) for datagram in data)


def test_messages_have_the_documented_sizes(real: RealNode, friend: UdpNode) -> None:
    friend.node.load.loaded_until = 1e9
    real.befriend(friend, dial=True, known=False)
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    sizes = {(datagram[0], len(datagram)) for datagram, _ in friend.received if datagram[0] != DATA}
    assert sizes == {(INITIATION, 153)}


def test_unfriended_peer_is_met_with_silence(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    assert real.device.remove_peer(friend.node.key)
    friend.step(0.0)
    friend.received.clear()
    friend.node.dial(real.key, friend.now)
    friend.node.probe(real.key, friend.now)
    with real.reference(Node, device_from("other")) as other:
        meet(real, other)
        friend.step(0.0)
    assert friend.received == []


def test_only_own_addresses_reach_the_tun(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    with real.watch() as tun:
        for next_header in range(256):
            friend.node.send_frame(real.key, Packet(b"\x60\0\0\0", next_header, 64, bytes(64)).write(), friend.now)
        assert_talks(real, friend, b"last")
        packets = tun.came()
    assert len(packets) > 200
    assert {packet[8:40] for packet in packets} == {friend.node.address + real.address}
    assert address_of(friend.node.key) == friend.node.address
