"""Rules of docs/protocol.md that only a peer which breaks or delays something can see kept by the real data plane."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from f2ftun.dataplane import EventKind
from tests.netns.conftest import FULL
from tests.netns.device import Inbox, RealNode, resident_bytes, text
from tests.netns.lab import Lab
from tests.netns.test_reference_hostile import (
    FRIEND_PORT,
    PORT,
    PSK,
    assert_talks,
    enemy,
    meet,
    seal,
    settle,
)
from tests.reference.datagram import AES, COOKIE_REPLY, DATA, HYBRID, INITIATION, RESPONSE
from tests.reference.event import Kind
from tests.reference.frame import Control, Fragment, Probe, ProbeReply, parse
from tests.reference.hostile import HostileNode, Mutator
from tests.reference.identity import device_from
from tests.reference.node import Node
from tests.reference.session import REJECT_AFTER, REJECT_AFTER_MESSAGES
from tests.reference.superpacket import Superpacket, segment, udp_packet
from tests.reference.udp import UdpNode, bind
from tests.reference.window import BLOCK_BITS, WINDOW_BITS

MEMORY_SLACK_BYTES = 24 << 20
HANDSHAKES = 200
SLOWNESS = 0.6
"""Seconds that a busy machine may be late."""


@pytest.fixture
def real(lab: Lab) -> Iterator[RealNode]:
    with RealNode(lab.namespace("real"), device_from("real")) as node:
        yield node


@pytest.fixture
def friend(real: RealNode) -> Iterator[UdpNode]:
    with real.reference(HostileNode, device_from("friend")) as node:
        yield node


def controls(real: RealNode, friend: UdpNode) -> list[bytes]:
    """List the control messages that came to the real node."""
    return real.happened(EventKind.CONTROL, friend.node.key)


# Addresses


@pytest.mark.parametrize(("listen", "at"), [("[::]:0", "127.0.0.1"), ("[::]:0", "::1"), ("[::1]:0", "::1")])
@pytest.mark.parametrize("loaded", [False, True])
def test_both_address_families(lab: Lab, listen: str, at: str, loaded: bool) -> None:
    with RealNode(lab.namespace("real"), device_from("real"), listen=listen) as real:
        port = real.endpoint[1]
        with real.reference(HostileNode, device_from("friend"), at=at) as friend:
            real.befriend(friend, psk=PSK, dial=True, known=False)
            friend.node.load.loaded_until = 1e9 if loaded else 0.0
            friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
            friend.node.peers[real.key].endpoints = [(at, port)]
            assert real.state(friend.node.key).endpoint == friend.where
            assert_talks(real, friend, b"over " + at.encode())


def test_overlay_addresses_are_no_endpoints(real: RealNode, friend: UdpNode) -> None:
    with pytest.raises(ValueError, match=r".+"):
        real.device.set_peer(friend.node.key, address=friend.node.address, psk=PSK, endpoints=["[fc00::1]:4242"])


def test_a_response_proves_its_address(real: RealNode, friend: UdpNode) -> None:
    """Answer from another address than the one dialled: traffic goes there."""
    real.befriend(friend, psk=PSK, dial=True, known=False)
    with real.namespace.entered():
        moved = bind("127.0.0.2")
    friend.node.datagram_hook = lambda datagram: datagram  # type: ignore[attr-defined]
    received: list[bytes] = []
    friend.sock.setblocking(True)
    datagram, source = friend.sock.recvfrom(2048)
    received.append(datagram)
    friend.move(moved)
    friend.node.handle_datagram(datagram, source, friend.now)
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    assert real.state(friend.node.key).endpoint == friend.where
    assert_talks(real, friend, b"where the answer came from")


def test_captured_probe_draws_no_more_than_it_brings(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    with real.namespace.entered(), Inbox(bind("127.0.0.3")) as elsewhere:
        captured = [seal(real, friend, Probe(bytes([number] * 8)).write()) for number in range(50)]
        for datagram in captured:
            elsewhere.sock.sendto(datagram, real.endpoint)
        settle(real, friend)
        assert sum(map(len, elsewhere.came())) <= sum(map(len, captured))
    with real.namespace.entered(), Inbox(bind("127.0.0.4")) as elsewhere:
        single = seal(real, friend, Probe(b"12345678").write())
        elsewhere.sock.sendto(single, real.endpoint)
        settle(real, friend)
        assert sum(map(len, elsewhere.came())) <= len(single)
    assert real.state(friend.node.key).endpoint == friend.where


def test_the_session_before_does_not_move_the_address_back(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    previous = friend.node.peers[real.key].current
    assert previous is not None
    with real.namespace.entered():
        old_socket, friend.sock = friend.sock, bind("127.0.0.2")
    meet(real, friend)
    assert real.state(friend.node.key).endpoint == friend.where
    with Inbox(old_socket) as old:
        for _ in range(3):
            old.sock.sendto(previous.seal(Probe(bytes(8), 64).write()), real.endpoint)
            for datagram in old.came():
                friend.node.handle_datagram(datagram, real.endpoint, friend.now)
            settle(real, friend)
    assert real.state(friend.node.key).endpoint == friend.where


def test_a_new_address_is_shown_with_a_probe_worth_an_answer_and_a_challenge(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    settle(real, friend)
    friend.received.clear()
    real.device.network_changed()
    friend.run_until(lambda: 93 in {len(datagram) for datagram, _ in friend.received})


# Counters


@pytest.mark.parametrize("counter", [REJECT_AFTER_MESSAGES, 2**64 - 2, 2**64 - 1])
def test_counters_past_the_end_are_refused(real: RealNode, friend: UdpNode, counter: int) -> None:
    meet(real, friend)
    friend.send_raw(enemy(friend).seal_at(real.key, counter, Control(b"too late").write()), real.endpoint)
    assert_talks(real, friend, b"unharmed")
    assert controls(real, friend) == []


def test_window_is_as_wide_as_promised(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    far = 1_000_000
    width = WINDOW_BITS - BLOCK_BITS
    counters = [far, far - 1, far - width + 1, far - WINDOW_BITS, far, far - 1, 2]
    for counter in counters:
        message = Control(b"%d" % counter).write()
        friend.send_raw(enemy(friend).seal_at(real.key, counter, message), real.endpoint)
    friend.send_raw(enemy(friend).seal_at(real.key, far + 1, Control(b"end").write()), real.endpoint)
    friend.run_until(lambda: b"end" in controls(real, friend))
    assert controls(real, friend) == [b"%d" % far, b"%d" % (far - 1), b"%d" % (far - width + 1), b"end"]


def test_the_largest_counter_that_may_be_used(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    last = REJECT_AFTER_MESSAGES - 1
    for counter in (last, last - 8000, last - 9000, 5):
        friend.send_raw(enemy(friend).seal_at(real.key, counter, Control(b"%d" % counter).write()), real.endpoint)
    friend.run_until(lambda: len(controls(real, friend)) == 2)
    assert controls(real, friend) == [b"%d" % last, b"%d" % (last - 8000)]
    meet(real, friend)
    assert_talks(real, friend, b"a new session counts anew")


# Handshakes


def test_wrong_psk_brings_up_nothing(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend, psk=PSK, dial=True)
    friend.node.peers[real.key].psk = bytes(32)
    friend.node.dial(real.key, friend.now)
    friend.run_until(lambda: friend.node.drops["refused response"] > 0 and len(friend.node.log) > 0)
    assert friend.node.peers[real.key].current is None
    assert real.happened(EventKind.SESSION, friend.node.key) == []


def test_old_initiation_at_a_restarted_node_does_no_harm(lab: Lab) -> None:
    """Replay the first initiation ever to a node that forgot its timestamps: the friend is met as ever."""
    namespace = lab.namespace("real")
    with RealNode(namespace, device_from("real")) as real:
        with real.reference(HostileNode, device_from("friend")) as friend:
            meet(real, friend)
            old = next(datagram for datagram in enemy(friend).recorded if datagram[0] == INITIATION)
        real.device.remove_peer(friend.node.key)
        with real.reference(HostileNode, device_from("friend")) as friend:
            meet(real, friend)
            with namespace.entered(), Inbox(bind("127.0.0.3")) as elsewhere:
                for _ in range(20):
                    elsewhere.sock.sendto(old, real.endpoint)
                assert_talks(real, friend, b"still met")
                assert sum(map(len, elsewhere.came())) <= len(old)
            assert real.state(friend.node.key).endpoint == friend.where


def test_one_initiation_in_50_ms_is_answered(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    time_to_forget = time.monotonic() + 0.06
    friend.run_until(lambda: time.monotonic() > time_to_forget)
    friend.received.clear()
    for _ in range(5):
        friend.node.dial(real.key, friend.now)
    settle(real, friend)
    assert [datagram[0] for datagram, _ in friend.received].count(RESPONSE) == 1


def test_replayed_initiations_with_cookies_are_answered_twice_a_second_at_most(real: RealNode, friend: UdpNode) -> None:
    """Alternate recorded initiations whose mac2 is valid."""
    real.befriend(friend, psk=PSK)
    friend.node.peers[real.key].timestamp_sent_ns = int((friend.node.epoch + 1000) * 1e9)
    meet(real, friend)
    friend.node.peers[real.key].timestamp_sent_ns = 0
    for _ in range(2):
        friend.node.dial(real.key, friend.now)
        friend.run_until(lambda: friend.node.peers[real.key].pending is None)
    with_mac2 = [d for d in enemy(friend).recorded if d[0] == INITIATION and d[137:] != bytes(16)]
    assert len(with_mac2) >= 2
    settle(real, friend)
    friend.received.clear()
    for datagram in with_mac2 * 3:
        friend.send_raw(datagram, real.endpoint)
    settle(real, friend)
    assert [datagram[0] for datagram, _ in friend.received].count(RESPONSE) <= 2


def test_many_handshakes_leave_nothing_behind(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    before = resident_bytes()
    for _ in range(HANDSHAKES):
        stood = len(real.happened(EventKind.SESSION, friend.node.key))
        friend.node.peers[real.key].answered_at = -1.0
        real.device.dial(friend.node.key)
        friend.run_until(lambda: len(real.happened(EventKind.SESSION, friend.node.key)) > stood)  # noqa: B023
    indices = [int.from_bytes(datagram[1:5], "big") for datagram, _ in friend.received if datagram[0] == INITIATION]
    assert len(set(indices)) == len(indices) >= HANDSHAKES
    steps = {(right - left) % 2**32 for left, right in itertools.pairwise(indices)}
    assert len(steps) == len(indices) - 1
    assert max(indices) - min(indices) > 2**31
    assert resident_bytes() - before < MEMORY_SLACK_BYTES
    assert_talks(real, friend, b"after so many")


def test_dials_at_the_documented_pace(real: RealNode, friend: UdpNode) -> None:
    """Leave initiations unanswered: the next come 250, 500, 1,000 ms later, each new."""
    friend.node.datagram_hook = lambda datagram: b""  # type: ignore[attr-defined]
    came: list[float] = []
    real.befriend(friend, psk=PSK, dial=True, known=False)
    while len(came) < 4:
        before = len(friend.received)
        friend.run_until(lambda: len(friend.received) > before)  # noqa: B023
        came.append(time.monotonic())
    gaps = [right - left for left, right in itertools.pairwise(came)]
    assert all(wanted * 0.9 < gap < wanted + SLOWNESS for gap, wanted in zip(gaps, (0.25, 0.5, 1.0), strict=True))
    initiations = [datagram for datagram, _ in friend.received]
    assert {datagram[0] for datagram in initiations} == {INITIATION}
    assert len({datagram[5:37] for datagram in initiations}) == len(initiations)


def test_silent_death_is_noticed_and_dialled(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    settle(real, friend)
    friend.node.peers.clear()
    friend.node.sessions.clear()
    friend.received.clear()
    with real.inbox() as udp:
        began = time.monotonic()
        udp.sock.sendto(b"anybody there?", (text(friend.node.address), FRIEND_PORT))
        friend.run_until(lambda: any(datagram[0] == INITIATION for datagram, _ in friend.received))
        took = time.monotonic() - began
    assert 1.3 < took < 1.4 + SLOWNESS
    assert [datagram[0] for datagram, _ in friend.received].count(DATA) >= 4


def test_keepalive_is_a_probe(real: RealNode, friend: UdpNode) -> None:
    real.device.set_peer(friend.node.key, address=friend.node.address, psk=PSK, endpoints=[], keepalive_s=0.5)
    friend.node.add_peer(real.key, psk=PSK, endpoints=[real.endpoint], keepalive=0)
    meet(real, friend)
    friend.run_until(lambda: real.state(friend.node.key).datagram_bytes > 1400)
    friend.events.clear()
    friend.run_until(lambda: len(friend.happened(Kind.PROBE)) >= 3)


def test_only_one_cookie_a_second_for_an_old_timestamp(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    old = next(datagram for datagram in enemy(friend).recorded if datagram[0] == INITIATION)
    settle(real, friend)
    friend.received.clear()
    for _ in range(100):
        friend.send_raw(old, real.endpoint)
    settle(real, friend)
    assert [datagram[0] for datagram, _ in friend.received if datagram[0] != DATA] == [COOKIE_REPLY]


# Quotas


def test_floods_of_control_and_halves_fill_no_memory(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    before = resident_bytes()
    for number in range(40_000):
        half = Fragment(False, number & 0xFFFF, bytes(1100)).write()
        friend.send_raw(seal(real, friend, half if number % 2 else Control(bytes(1100)).write()), real.endpoint)
        if number % 64 == 0:
            friend.step(0.0)
    settle(real, friend)
    assert resident_bytes() - before < MEMORY_SLACK_BYTES
    assert_talks(real, friend, b"unharmed")


def test_runs_longer_than_a_packet_can_be(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    parts = segment(Superpacket(udp_packet(friend.node.address, real.address, bytes(60_000)), 1000))
    with real.inbox(PORT) as udp:
        for _ in range(3):
            for part in parts:
                joined = part.write()[:4] + bytes([part.write()[4] | 0x0C]) + part.write()[5:]
                friend.send_raw(seal(real, friend, joined), real.endpoint)
        friend.run_until(lambda: len(udp.came()) == 3 * len(parts))
        assert set(udp.came()) == {bytes(1000)}


def test_packets_wait_while_a_handshake_runs_but_not_many(real: RealNode, friend: UdpNode) -> None:
    """Send before the friend answers: the first packets arrive in order once the session stands."""
    hold = [True]
    friend.node.datagram_hook = lambda datagram: b"" if hold[0] else datagram  # type: ignore[attr-defined]
    real.befriend(friend, psk=PSK, dial=True, known=False)
    with real.inbox(PORT) as udp:
        for number in range(3):
            udp.sock.sendto(b"waiting %d" % number, (text(friend.node.address), FRIEND_PORT))
        friend.run_until(lambda: len(friend.received) >= 1)
        hold[0] = False
        friend.run_until(lambda: len(friend.happened(Kind.PACKET)) >= 3)
    bodies = [event.payload[48:] for event in friend.happened(Kind.PACKET)]
    assert bodies == [b"waiting 0", b"waiting 1", b"waiting 2"]


def test_two_friends_do_not_hear_each_other(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    with real.reference(Node, device_from("second")) as second:
        meet(real, second)
        stolen = friend.node.peers[real.key].current
        assert stolen is not None
        second.send_raw(stolen.seal(Control(b"of another").write()), real.endpoint)
        friend.run_until(lambda: controls(real, friend) == [b"of another"])
        assert controls(real, second) == []
        assert_talks(real, second, b"own")


# Features


def test_features_nobody_knows_are_passed_over(real: RealNode, friend: UdpNode) -> None:
    friend.node.features = 0xFFFFFFFF
    meet(real, friend)
    session = friend.node.peers[real.key].current
    assert session is not None
    assert session.features & ~(HYBRID | AES) == 0
    assert_talks(real, friend, b"offered too much")


def test_answered_features_count_only_where_they_were_offered(real: RealNode, friend: UdpNode) -> None:
    """Answer an initiation with every bit set: the session has what both know, and works."""
    friend.node.features = AES
    enemy(friend).claimed_features = 0xFFFFFFFF
    real.befriend(friend, psk=PSK, dial=True, known=False)
    friend.run_until(lambda: real.happened(EventKind.SESSION, friend.node.key) != [])
    assert_talks(real, friend, b"claimed too much")


# Endpoints


def test_overlay_addresses_are_no_sources(lab: Lab) -> None:
    namespace = lab.namespace("real")
    namespace.run("ip", "address", "add", "fc00::99/128", "dev", "lo", "nodad")
    with RealNode(namespace, device_from("real"), listen="[::]:0") as real:
        real_at = ("::1", real.endpoint[1])
        with (
            real.reference(HostileNode, device_from("friend"), at="fc00::99") as inside,
            real.reference(HostileNode, device_from("other"), at="::1") as outside,
        ):
            for friend in (inside, outside):
                real.befriend(friend, psk=PSK)
                friend.node.peers[real.key].endpoints = [real_at]
            inside.node.dial(real.key, inside.now)
            inside.step(0.0)
            outside.node.dial(real.key, outside.now)
            outside.run_until(lambda: real.happened(EventKind.SESSION, outside.node.key) != [])
            inside.step(0.0)
            assert inside.received == []


def test_one_initiation_goes_to_all_endpoints(real: RealNode, friend: UdpNode) -> None:
    with real.namespace.entered(), Inbox(bind("127.0.0.2")) as one, Inbox(bind("127.0.0.3")) as two:
        where = ["{}:{}".format(*inbox.sock.getsockname()) for inbox in (one, two)]
        real.device.set_peer(friend.node.key, address=friend.node.address, psk=PSK, endpoints=where)
        friend.run_until(lambda: one.came() != [] and two.came() != [])
        assert one.came()[0][:137] == two.came()[0][:137]


def test_a_friend_may_not_be_oneself_nor_anothers_address(real: RealNode, friend: UdpNode) -> None:
    real.befriend(friend)
    with pytest.raises(ValueError, match=r".+"):
        real.device.set_peer(real.key, address=real.address, psk=PSK, endpoints=[])
    with pytest.raises(ValueError, match=r".+"):
        real.device.set_peer(device_from("x").key, address=friend.node.address, psk=PSK, endpoints=[])


# What is forgotten


def test_removed_and_added_again_knows_nothing_of_before(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    old = friend.node.peers[real.key].current
    assert old is not None
    real.device.remove_peer(friend.node.key)
    real.device.set_peer(friend.node.key, address=friend.node.address, psk=PSK, endpoints=[])
    friend.send_raw(old.seal(Control(b"from before").write()), real.endpoint)
    meet(real, friend)
    settle(real, friend)
    assert controls(real, friend) == []
    assert_talks(real, friend, b"anew")


def test_changed_psk_ends_the_session(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    old = friend.node.peers[real.key].current
    assert old is not None
    real.device.set_peer(friend.node.key, address=friend.node.address, psk=bytes(32), endpoints=[])
    friend.node.peers[real.key].psk = bytes(32)
    friend.send_raw(old.seal(Control(b"under the old psk").write()), real.endpoint)
    meet(real, friend)
    settle(real, friend)
    assert controls(real, friend) == []


# Size


@pytest.mark.parametrize("length", [0, 1, 65535])
def test_a_friend_who_lies_about_sizes_is_not_believed(real: RealNode, friend: UdpNode, length: int) -> None:
    def lie(frame: bytes) -> bytes:
        parsed = parse(frame)
        return ProbeReply(parsed.token, length).write() if isinstance(parsed, ProbeReply) else frame

    friend.node.frame_hook = lie  # type: ignore[attr-defined]
    meet(real, friend)
    with real.inbox() as udp:
        for number in range(20):
            udp.sock.sendto(bytes([number]) * 1352, (text(friend.node.address), FRIEND_PORT))
            friend.run_until(lambda: len(friend.happened(Kind.PACKET)) > number)  # noqa: B023
    assert 1232 <= real.state(friend.node.key).datagram_bytes <= 65507
    assert max(len(datagram) for datagram, _ in friend.received) <= 1472


def test_a_path_that_shrinks_in_silence_is_noticed(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    friend.run_until(lambda: real.state(friend.node.key).datagram_bytes > 1400)
    friend.path_bytes = 1300
    body = b"s" * 1352
    with real.inbox() as udp:
        began = time.monotonic()

        def arrives() -> bool:
            udp.sock.sendto(body, (text(friend.node.address), FRIEND_PORT))
            return any(event.payload.endswith(body) for event in friend.happened(Kind.PACKET))

        friend.events.clear()
        friend.run_until(arrives, timeout=10)
        assert time.monotonic() - began < 5
    friend.run_until(lambda: 1252 <= real.state(friend.node.key).datagram_bytes <= 1300)


def test_a_friend_who_never_answers_takes_no_memory(real: RealNode, friend: UdpNode) -> None:
    with real.namespace.entered(), Inbox(bind("127.0.0.2")) as silent, real.inbox() as udp:
        dead = device_from("dead")
        where = "{}:{}".format(*silent.sock.getsockname())
        real.device.set_peer(dead.key, address=dead.address, psk=PSK, endpoints=[where])
        meet(real, friend)
        before = resident_bytes()
        for _ in range(50_000):
            udp.sock.sendto(bytes(1000), (text(dead.address), FRIEND_PORT))
        assert_talks(real, friend, b"while another is dead")
        assert resident_bytes() - before < MEMORY_SLACK_BYTES
        assert {len(datagram) for datagram in silent.came()} == {153}


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.skipif(not FULL, reason="takes three minutes; F2FTUN_FULL=1 runs it")
def test_nothing_is_accepted_on_a_session_of_more_than_180_seconds(real: RealNode, friend: UdpNode) -> None:
    """Let a session die of age while its data keep coming: it ends at 180 s, and nonsense on it does no harm."""
    meet(real, friend)
    session = friend.node.peers[real.key].current
    assert session is not None
    began, last, number = time.monotonic(), 0.0, 0
    friend.node.peers.clear()
    while time.monotonic() - began < REJECT_AFTER + 5:
        friend.send_raw(session.seal(Control(b"%d" % number).write()), real.endpoint)
        friend.step(0.2)
        number += 1
        if controls(real, friend)[-1:] == [b"%d" % (number - 1)]:
            last = time.monotonic() - began
    assert last == pytest.approx(REJECT_AFTER, abs=2)
    mutator = Mutator(6)
    for _ in range(10_000):
        friend.send_raw(session.seal(mutator.aligned_frame()), real.endpoint)
    friend.node.add_peer(real.key, psk=PSK, endpoints=[real.endpoint])
    meet(real, friend)
    assert_talks(real, friend, b"a new session")
