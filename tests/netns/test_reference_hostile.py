"""A friend who is an enemy, and those who listen on the way: the real data plane loses nothing by them.

Source: docs/security.md, classes A, B and C. `F2FTUN_FULL=1` runs ten times as many mutations.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator

import pytest

from f2ftun.dataplane import EventKind
from tests.netns.conftest import FULL
from tests.netns.device import LOOPBACK, Inbox, RealNode, resident_bytes, text
from tests.netns.lab import Lab
from tests.reference import crypto
from tests.reference.datagram import InitiationPayload
from tests.reference.event import Kind
from tests.reference.frame import Control, Packet, elide, fill_checksum
from tests.reference.hostile import (
    LOW_ORDER_POINTS,
    HostileNode,
    Mutator,
    low_order_initiation,
    stranger_initiations,
)
from tests.reference.identity import device_from
from tests.reference.node import Node
from tests.reference.superpacket import udp_packet
from tests.reference.udp import UdpNode, bind

PSK = crypto.hash32(b"hostile psk")
PORT, FRIEND_PORT = 5000, 40000
CASES = 1_000_000 if FULL else 100_000
BURST = 64
MEMORY_SLACK_BYTES = 24 << 20
TAI64_2040 = (2**62 + 2_208_988_800).to_bytes(8, "big")


@pytest.fixture
def real(lab: Lab) -> Iterator[RealNode]:
    with RealNode(lab.namespace("real"), device_from("real")) as node:
        yield node


@pytest.fixture
def hostile(real: RealNode) -> Iterator[UdpNode]:
    with real.reference(HostileNode, device_from("mallory")) as node:
        yield node


@pytest.fixture
def honest(real: RealNode) -> Iterator[UdpNode]:
    with real.reference(Node, device_from("honest")) as node:
        yield node


def enemy(friend: UdpNode) -> HostileNode:
    """Give the node that bends what it sends."""
    assert isinstance(friend.node, HostileNode)
    return friend.node


def meet(real: RealNode, friend: UdpNode) -> None:
    """Let a reference dial and wait until a session stands."""
    if friend.node.peers.get(real.key) is None:
        real.befriend(friend, psk=PSK)
    before = len(real.happened(EventKind.SESSION, friend.node.key))
    friend.node.dial(real.key, friend.now)
    friend.run_until(lambda: len(real.happened(EventKind.SESSION, friend.node.key)) > before)


def seal(real: RealNode, friend: UdpNode, frame: bytes) -> bytes:
    """Seal a frame on the friend's current session."""
    session = friend.node.peers[real.key].current
    assert session is not None
    return session.seal(frame)


def packet_to(real: RealNode, friend: UdpNode, body: bytes) -> bytes:
    packet = udp_packet(friend.node.address, real.address, body)
    return packet[:40] + fill_checksum(17, packet[40:], friend.node.address, real.address)


def assert_talks(real: RealNode, friend: UdpNode, mark: bytes) -> None:
    """See a packet go each way."""
    with real.inbox(PORT) as udp:
        udp.sock.sendto(mark, (text(friend.node.address), FRIEND_PORT))
        friend.run_until(lambda: any(e.payload.endswith(mark) for e in friend.happened(Kind.PACKET)))
        friend.node.send_packet(real.key, packet_to(real, friend, mark), friend.now)
        friend.run_until(lambda: udp.came() == [mark])


def assert_still_serves(real: RealNode, honest: UdpNode) -> None:
    """Another friend's packets still go both ways."""
    assert_talks(real, honest, b"%d" % time.monotonic_ns())


def settle(real: RealNode, friend: UdpNode) -> None:
    """Wait until the real node has read all that was sent before: it answers a probe of a friend."""
    token = friend.node.probe(real.key, friend.now)
    friend.run_until(lambda: any(event.payload == token for event in friend.happened(Kind.PROBE_REPLY)))


def spray(friend: UdpNode, real: RealNode, datagrams: Iterator[bytes], count: int) -> None:
    """Send many datagrams, in bursts that the real node has time for; take what comes back."""
    for number, datagram in enumerate(itertools.islice(datagrams, count)):
        friend.send_raw(datagram, real.endpoint)
        if number % BURST == 0:
            friend.step(0.0)
            friend.received.clear()
            friend.events.clear()


# C12: mutation of every message, by structure, in every state


def sealed_frames(real: RealNode, friend: UdpNode, mutator: Mutator) -> Iterator[bytes]:
    while True:
        yield seal(real, friend, mutator.aligned_frame())


def bent_datagrams(recorded: list[bytes], mutator: Mutator) -> Iterator[bytes]:
    while True:
        yield mutator.datagram(recorded)


def bent_initiations(real: RealNode, friend: UdpNode, mutator: Mutator) -> Iterator[bytes]:
    while True:
        yield mutator.initiation(friend.node, real.key)


def in_young_session(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)


def in_previous_session(real: RealNode, hostile: UdpNode) -> None:
    """Go on sending on the session before."""
    meet(real, hostile)
    meet(real, hostile)
    peer = hostile.node.peers[real.key]
    peer.current = peer.previous


def in_handshake(real: RealNode, hostile: UdpNode) -> None:
    """Go on sending while an initiation of the real node stays unanswered."""
    meet(real, hostile)
    real.device.dial(hostile.node.key)
    hostile.node.pending.clear()


def after_removal(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    real.device.remove_peer(hostile.node.key)


def from_elsewhere(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    with real.namespace.entered():
        hostile.move(bind("127.0.0.9"))


STATES = (in_young_session, in_previous_session, in_handshake, after_removal, from_elsewhere)


@pytest.mark.parametrize("state", STATES)
def test_mutated_frames_do_no_harm(
    real: RealNode, hostile: UdpNode, honest: UdpNode, state: Callable[[RealNode, UdpNode], None]
) -> None:
    meet(real, honest)
    state(real, hostile)
    before = resident_bytes()
    with real.watch() as tun:
        spray(hostile, real, sealed_frames(real, hostile, Mutator(1)), CASES * 7 // 10 // len(STATES))
        assert_still_serves(real, honest)
        sources = {packet[8:40] for packet in tun.came() if packet[8:24] != honest.node.address}
    assert sources <= {hostile.node.address + real.address}
    assert resident_bytes() - before < MEMORY_SLACK_BYTES


def test_bent_datagrams_do_no_harm(real: RealNode, hostile: UdpNode, honest: UdpNode) -> None:
    meet(real, honest)
    meet(real, hostile)
    recorded = enemy(hostile).recorded + [datagram for datagram, _ in hostile.received]
    spray(hostile, real, bent_datagrams(recorded, Mutator(2)), CASES * 29 // 100)
    assert_still_serves(real, honest)
    assert_talks(real, hostile, b"the session itself is unharmed")


def test_bent_initiations_do_no_harm(real: RealNode, hostile: UdpNode, honest: UdpNode) -> None:
    meet(real, honest)
    meet(real, hostile)
    spray(hostile, real, bent_initiations(real, hostile, Mutator(3)), CASES // 100)
    assert_still_serves(real, honest)


# C1, C3: what a friend sends has the friend's address and is for us alone


def test_no_frame_has_a_foreign_source_or_destination(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    victim, inner = device_from("victim").address, Packet(b"\x60\0\0\0", 59, 64, b"").restore
    with real.watch() as tun:
        for next_header, payload in (
            (41, inner(victim, real.address)),
            (4, b"\x45" + bytes(39)),
            (43, b"\x3b\x02\x00\x01\0\0\0\0" + victim),
            (0, b"\x3b\x00\x05\x02\x00\x00\x01\x00"),
            (44, b"\x3b\0\0\1\0\0\0\7" + bytes(16)),
        ):
            hostile.node.send_frame(real.key, Packet(b"\x60\0\0\0", next_header, 64, payload).write(), hostile.now)
        settle(real, hostile)
        assert {packet[8:40] for packet in tun.came()} <= {hostile.node.address + real.address}


# C14: keys of low order


@pytest.mark.parametrize("point", LOW_ORDER_POINTS, ids=range(len(LOW_ORDER_POINTS)))
def test_low_order_keys_and_ephemerals_are_refused(real: RealNode, hostile: UdpNode, point: bytes) -> None:
    real.befriend(hostile)
    with pytest.raises(ValueError, match=r".+"):
        real.device.set_peer(point, address=bytes([0xFC]) * 16, psk=bytes(32), endpoints=[hostile.where])
    payload = InitiationPayload(TAI64_2040 + bytes(4))
    hostile.send_raw(low_order_initiation(hostile.node, real.key, point, payload), real.endpoint)
    hostile.received.clear()
    meet(real, hostile)
    assert [datagram[0] for datagram, _ in hostile.received][:1] == [2]


# A3, A4: replay and forgery change nothing


def test_replays_are_delivered_once_and_draw_no_more_than_they_bring(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    with real.inbox(PORT) as udp, real.namespace.entered(), Inbox(bind("127.0.0.7")) as elsewhere:
        bodies = [b"number %d" % number for number in range(2000)]
        for body in bodies:
            hostile.node.send_packet(real.key, packet_to(real, hostile, body), hostile.now)
            hostile.step(0.0)
        hostile.run_until(lambda: len(udp.came()) == len(bodies))
        recorded = list(enemy(hostile).recorded)
        for datagram in [*recorded, *reversed(recorded)]:
            hostile.send_raw(datagram, real.endpoint)
        for datagram in recorded:
            elsewhere.sock.sendto(datagram, real.endpoint)
        settle(real, hostile)
        assert sorted(udp.came()) == sorted(bodies)
        assert sum(map(len, elsewhere.came())) <= sum(map(len, recorded))
    assert real.state(hostile.node.key).endpoint == hostile.where
    assert_talks(real, hostile, b"the same session")


def test_every_flipped_bit_of_data_is_refused(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    good = seal(real, hostile, Control(b"intact").write())
    before = real.state(hostile.node.key)
    for bit in range(len(good) * 8):
        forged = bytearray(good)
        forged[bit // 8] ^= 1 << bit % 8
        hostile.send_raw(bytes(forged), real.endpoint)
    settle(real, hostile)
    assert real.happened(EventKind.CONTROL, hostile.node.key) == []
    hostile.send_raw(good, real.endpoint)
    hostile.run_until(lambda: real.happened(EventKind.CONTROL, hostile.node.key) == [b"intact"])
    assert real.state(hostile.node.key).endpoint == before.endpoint


def test_every_flipped_bit_of_an_initiation_draws_no_response(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    hostile.node.dial(real.key, hostile.now)
    transmit = hostile.node.poll_transmit()
    assert transmit is not None
    hostile.received.clear()
    for bit in range(137 * 8):
        forged = bytearray(transmit.datagram)
        forged[bit // 8] ^= 1 << bit % 8
        hostile.send_raw(bytes(forged), real.endpoint)
    settle(real, hostile)
    assert [datagram[0] for datagram, _ in hostile.received if datagram[0] != 4] == []


def test_every_flipped_bit_of_a_response_is_refused(real: RealNode, hostile: UdpNode) -> None:
    """Answer the real node's initiation with forgeries first, then truly: the forgeries have spent nothing."""
    sent: list[bytes] = []

    def forge(datagram: bytes) -> bytes:
        if datagram[0] == 2 and not sent:
            for bit in range(77 * 8):
                forged = bytearray(datagram)
                forged[bit // 8] ^= 1 << bit % 8
                hostile.send_raw(bytes(forged), real.endpoint)
            sent.append(datagram)
        return datagram

    enemy(hostile).datagram_hook = forge
    real.befriend(hostile, psk=PSK, dial=True, known=False)
    hostile.run_until(lambda: real.happened(EventKind.SESSION, hostile.node.key) != [])
    assert len(hostile.node.log) == 1
    assert sent != []


# B1, B3: strangers


def test_strangers_get_no_byte(real: RealNode) -> None:
    noise = random.Random(4)
    with real.namespace.entered(), Inbox(bind(LOOPBACK)) as stranger:
        for first, size in itertools.product((0, 1, 2, 3, 4, 5, 255), range(301)):
            stranger.sock.sendto((bytes([first]) + noise.randbytes(size))[:size], real.endpoint)
        flood = stranger_initiations(real.key, noise.randbytes)
        for _ in range(150):
            stranger.sock.sendto(next(flood), real.endpoint)
        with real.reference(Node, device_from("witness")) as witness:
            meet(real, witness)
        assert stranger.came() == []


def test_flood_of_initiations_draws_half_its_bytes_at_most(real: RealNode, honest: UdpNode) -> None:
    meet(real, honest)
    with real.namespace.entered(), Inbox(bind("127.0.0.5")) as stranger:
        flood = stranger_initiations(real.key, random.Random(5).randbytes)
        sent = 0
        for _ in range(3000):
            sent += stranger.sock.sendto(next(flood), real.endpoint)
        settle(real, honest)
        assert 0 < sum(map(len, stranger.came())) <= sent / 2
    meet(real, honest)


# Offload: runs that lie


def test_packet_frames_that_claim_too_much_are_dropped(real: RealNode, hostile: UdpNode) -> None:
    meet(real, hostile)
    packet = packet_to(real, hostile, b"x" * 8)
    with real.inbox(PORT) as udp:
        for pad in range(1, 16):
            frame = bytearray(elide(packet).write())
            frame[4] = pad << 4
            hostile.send_raw(seal(real, hostile, bytes(frame)), real.endpoint)
        settle(real, hostile)
        assert all(len(body) <= 8 for body in udp.came())
