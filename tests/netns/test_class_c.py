"""Class C of security.md, as far as direct links go: a friend who has a key and means harm.

The hostile friend is the reference implementation at host 2 of the victim's wire; what he sends is authentic.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import random
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.netns import flow
from tests.netns.conftest import FULL, Pair
from tests.netns.lab import Lab, LabError, v4, wait_for
from tests.netns.node import INTERFACE, PORT, UDP_PORT, Node, connect, make_nodes, start
from tests.netns.packet import echo_request, ipv6_packet, udp_packet
from tests.netns.stranger import Stranger, draw_device, join
from tests.netns.test_class_a import _held
from tests.reference import frame as frames
from tests.reference.datagram import INITIATION, Initiation, Response
from tests.reference.event import Kind
from tests.reference.frame import Control, Fragment, Packet, Probe, ProbeReply, elide
from tests.reference.identity import Device, Invite, parse_base32, write_key

ETH_P_IPV6 = 0x86DD
ECHO = 128

LOW_ORDER = [
    bytes.fromhex(point)
    for point in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
]
"""Source: WireGuard netns.sh, "Test that low order points"; RFC 7748 §6.1."""


@dataclass
class Duel:
    """The victim, the hostile friend, and a tap on everything that comes out of the victim's TUN toward its host."""

    a: Node
    hostile: Stranger
    key: bytes
    tap: socket.socket

    def taken(self, seconds: float = 0.3) -> list[bytes]:
        """Collect the packets that the victim's host was handed until none has come for a while."""
        self.tap.settimeout(seconds)
        found = []
        try:
            while True:
                found.append(self.tap.recv(65535))
        except TimeoutError:
            return found

    def is_well(self) -> bool:
        """Say whether the session lives and carries packets both ways."""
        before = len(self.hostile.packets())
        self.hostile.send_packet(self.key, echo_request(self.hostile.address, self.a.address))
        wait_for(lambda: len(self.hostile.packets()) > before, "an echo reply", 5)
        return self.hostile.probe(self.key)


@pytest.fixture(scope="module")
def duel(module_lab: Lab) -> Iterator[Duel]:
    spaces = module_lab.namespace("a"), module_lab.namespace("hp")
    module_lab.pair(*spaces)
    (a,) = make_nodes(spaces[0])
    start(a)
    hostile = Stranger(spaces[1])
    module_lab.defer(hostile.stop)
    key = join(hostile, a, 2)
    tap = spaces[0].packet_socket(INTERFACE)
    made = Duel(a, hostile, key, tap)
    assert made.is_well()
    made.taken()
    yield made
    tap.close()


# C1, C2, C3: whose packets


def test_c1_a_friend_speaks_for_himself_only(duel: Duel) -> None:
    """Addresses do not travel, so he tries what carries addresses inside: tunnels, routing headers, options."""
    third = str(ipaddress.IPv6Address(draw_device().address))
    bad = duel.a.drops()["rx_bad_header"]
    for source in (third, duel.a.address, "::1", "fe80::1", "ff02::1", "2001:db8::1"):
        inner = echo_request(source, duel.a.address)
        for next_header in (0, 4, 41, 43, 44, 47, 50, 51, 60, 135, 139, 140):
            duel.hostile.send_packet(
                duel.key, ipv6_packet(duel.hostile.address, duel.a.address, next_header, _options(next_header) + inner)
            )
    for first in (b"\x40\0\0\0", b"\x50\0\0\0", b"\xf0\0\0\0"):
        packet = Packet(b"\x60" + first[1:], 58, 64, bytes(8)).write()
        duel.hostile.send_frame(duel.key, bytes([first[0]]) + packet[1:])
    mine, yours = (ipaddress.IPv6Address(text).packed for text in (duel.hostile.address, duel.a.address))
    taken = duel.taken()
    assert all(packet[8:24] == mine and packet[24:40] == yours for packet in taken)
    assert not [packet for packet in taken if packet[6] in (0, 43, 139, 140)]
    assert duel.a.drops()["rx_bad_header"] > bad
    assert duel.is_well()


def _options(next_header: int) -> bytes:
    """Write an extension header of 8 or 24 bytes that leads on to ICMPv6."""
    router_alert = bytes([58, 0, 5, 2, 0, 0, 1, 0])
    routing = bytes([58, 2, 0, 1]) + bytes(4) + ipaddress.IPv6Address("fc00::9").packed
    return {0: router_alert, 43: routing, 44: bytes([58, 0, 0, 0, 0, 0, 0, 1]), 60: router_alert}.get(next_header, b"")


def test_c1_not_before_the_handshake_either(duel: Duel) -> None:
    stranger_session = os.urandom(4)
    duel.taken()
    packet = elide(echo_request(duel.hostile.address, duel.a.address)).write()
    for payload in (packet, b"\x04" + packet, b"\x04" + stranger_session + os.urandom(8) + packet + os.urandom(16)):
        duel.hostile.send_raw(payload, (v4(0, 1), PORT))
    assert not duel.taken()


def test_c2_only_own_packets_leave(duel: Duel) -> None:
    """A program with root writes anything it likes toward the TUN; only what our address says to a friend leaves."""
    own, friend = duel.a.address, duel.hostile.address
    udp = udp_packet(own, friend, 1, 2, b"x")
    short, long = bytearray(udp), bytearray(udp)
    short[4:6], long[4:6] = b"\x00\x01", b"\x7f\xff"
    jumbo = ipv6_packet(own, friend, 0, bytes([17, 0, 0xC2, 4, 0, 1, 0, 0]) + bytes(100))
    bad = [
        *(udp_packet(source, friend, 1, 2, b"x") for source in ("fc00::1", "::1", "fe80::1", "2001:db8::1", "ff02::1")),
        *(udp_packet(own, to, 1, 2, b"x") for to in ("ff02::1", "2001:db8::1", "fe80::1", "::1", "fc00::dead")),
        *(ipv6_packet(own, friend, number, _options(number) + bytes(16)) for number in (0, 43)),
        *(udp_packet("10.9.0.1", "10.9.0.2", 1, 2, b"x"), b"", b"\x60", udp[:39], bytes(40), bytes(short), bytes(long)),
        jumbo,
    ]
    before, counted = len(duel.hostile.packets()), sum(_outward(duel.a).values())
    with duel.a.namespace.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
        for packet in bad:
            for kind in (ETH_P_IPV6, 0x0800):
                _offer(out, packet, kind)
        assert _wait_for_drops(duel.a, counted, 20)
        assert len(duel.hostile.packets()) == before
        _offer(out, udp, ETH_P_IPV6)
        wait_for(lambda: len(duel.hostile.packets()) == before + 1, "the one good packet", 3)
    assert duel.hostile.packets()[-1] == udp


def _outward(node: Node) -> dict[str, int]:
    return {reason: count for reason, count in node.drops().items() if reason.startswith("tx_")}


def _wait_for_drops(node: Node, before: int, count: int) -> bool:
    wait_for(lambda: sum(_outward(node).values()) >= before + count, "the bad packets to be counted", 3)
    return True


def _offer(out: socket.socket, packet: bytes, kind: int) -> None:
    try:
        out.sendto(packet, (INTERFACE, kind))
    except OSError:
        return  # the kernel itself refuses the shortest


def test_c2_hopeless_packets_are_answered_at_home(duel: Duel) -> None:
    """A program that sends to nobody's address learns so at once."""
    nobody = str(ipaddress.IPv6Address(draw_device().address))
    told = duel.a.namespace.run("ping", "-n", "-c", "1", "-W", "2", nobody, check=False)
    assert "nreachable" in told.stdout or "rohibited" in told.stdout or "No route" in told.stdout, told.stdout


def test_c3_a_friend_is_no_router(duel: Duel, module_lab: Lab) -> None:
    """The victim forwards between its LANs, and a friend's packets still go no further than the victim."""
    a = duel.a.namespace
    other = module_lab.namespace("other")
    module_lab.ipv6 = True
    inside, _ = module_lab.pair(a, other, network=5)
    for setting in ("net.ipv6.conf.all.forwarding", "net.ipv4.ip_forward"):
        a.sysctl(setting, 1)
    ear = other.packet_socket("eth0")
    ear.settimeout(0.5)
    for target in ("2001:db8:9:5::2", "2001:db8:9:5::1", "fc00::1234"):
        inner = echo_request(duel.hostile.address, target)
        routing = bytes([58, 2, 0, 1]) + bytes(4) + ipaddress.IPv6Address(target).packed
        segment = bytes([58, 2, 4, 1, 0, 0, 0, 0]) + ipaddress.IPv6Address(target).packed
        for number, body in ((41, inner), (43, routing + bytes(8)), (43, segment + bytes(8)), (4, inner)):
            duel.hostile.send_packet(duel.key, ipv6_packet(duel.hostile.address, duel.a.address, number, body))
    with a.open_socket(socket.AF_PACKET, socket.SOCK_DGRAM) as out:
        out.sendto(udp_packet(duel.hostile.address, "2001:db8:9:5::2", 1, 2, b"x"), (INTERFACE, ETH_P_IPV6))
    assert not [frame for frame in _until_quiet(ear) if b"\xfc" in (frame[22:23], frame[38:39])]
    ear.close()
    a.run("ip", "link", "set", inside, "down")


def _until_quiet(ear: socket.socket) -> list[bytes]:
    heard = []
    try:
        while True:
            heard.append(ear.recv(65535))
    except TimeoutError:
        return heard


# C10: the end of a friendship


def test_c10_an_unfriended_friend_gets_nothing(lab: Lab) -> None:
    spaces = lab.namespace("a"), lab.namespace("hp")
    lab.pair(*spaces)
    (a,) = make_nodes(spaces[0], keylog="keys.log")
    start(a)
    hostile = Stranger(spaces[1])
    lab.defer(hostile.stop)
    key = join(hostile, a, 2)
    hostile.send_packet(key, echo_request(hostile.address, a.address))
    wait_for(hostile.packets, "an echo reply", 3)
    words = [line.split() for line in (a.config.parent / "keys.log").read_text().splitlines()]
    session_keys = [bytes.fromhex(word) for line in words for word in line[3:5]]
    a.ask("friend", "remove", hostile.name)
    removed = time.monotonic()
    wait_for(lambda: not _held(a.pid, session_keys), "the keys to be erased", 3)
    time.sleep(max(0.0, removed + 1 - time.monotonic()))
    hostile.received.clear()
    for number in range(20):
        hostile.send_packet(key, echo_request(hostile.address, a.address, number))
        hostile.dial(key)
        time.sleep(0.05)
    time.sleep(0.5)
    assert not hostile.received
    assert a.status()["friends"] == []


def test_c10_running_traffic_stops_within_a_second(pair: Pair) -> None:
    a, b = pair.a, pair.b
    with flow.Sink(b.namespace, UDP_PORT) as sink, flow.Source(a.namespace, b.address, UDP_PORT, rate=2000, size=1200):
        wait_for(lambda: len(sink.seen) > 1000, "traffic", 5)
        b.ask("friend", "remove", a.name)
        time.sleep(1.0)
        seen = len(sink.seen)
        time.sleep(1.0)
        assert len(sink.seen) == seen
    assert not a.pings(b.address, timeout_s=0.5)


# C11: invitations


def _invite(node: Node, *options: str) -> str:
    told = node.ask("invite", *options)
    return str(told if isinstance(told, str) else told["invite"])


def _parsed(invite: str) -> Invite:
    body = parse_base32(invite.removeprefix("f2f1:"))
    assert body is not None
    return Invite(body[1:33], body[33:65], int.from_bytes(body[65:73], "big"), ())


@pytest.fixture(scope="module")
def guest(module_lab: Lab) -> Node:
    return make_nodes(module_lab.namespace("guest"))[0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:-1],
        lambda line: line + "0",
        lambda line: line[:40] + ("b" if line[40] != "b" else "c") + line[41:],
        lambda line: line.upper(),
        lambda line: "f2f2:" + line[5:],
        lambda line: line[5:],
        lambda line: line[:5] + "ж" + line[6:],
        lambda line: "f2f1:",
        lambda line: "f2f1:" + "z" * 100_000,
        lambda line: line + "\n" + line,
    ],
)
def test_c11_spoilt_lines_are_refused_with_a_sentence(duel: Duel, guest: Node, spoil: object) -> None:
    assert callable(spoil)
    done = guest.f2ftun("join", spoil(_invite(duel.a)))
    assert done.returncode in (1, 2)
    assert 10 < len(done.stderr) < 600, done.stderr
    assert "Traceback" not in done.stderr


def test_c11_an_invitation_works_once(lab: Lab) -> None:
    spaces = [lab.namespace(label) for label in ("a", "b", "c")]
    lab.lan(*spaces)
    a, b, c = make_nodes(*spaces)
    start(a, b, c)
    invite = _invite(a, b.name)
    b.ask("join", invite)
    wait_for(lambda: a.status()["friends"], "the friend", 10)
    connect(a, b)
    with contextlib.suppress(LabError):
        c.verb("join", invite=invite, wait_s=2)
    assert [friend["key"] for friend in a.status()["friends"]] == [b.key]
    assert not any(friend["state"] == "up" for friend in c.status()["friends"])


def test_c11_an_expired_invitation_is_silence(lab: Lab) -> None:
    spaces = lab.namespace("a"), lab.namespace("hp")
    lab.pair(*spaces)
    (a,) = make_nodes(spaces[0])
    start(a)
    fresh, stale = _parsed(_invite(a)), _parsed(_invite(a, "--expires", "2s"))
    time.sleep(3)
    for invite, answered in ((fresh, True), (stale, False)):
        guest = _guest(spaces[1], invite)
        try:
            guest.dial(invite.inviter)
            time.sleep(1.0)
            assert bool(guest.received) is answered
        finally:
            guest.stop()


def _guest(namespace: object, invite: Invite, *, port: int = PORT) -> Stranger:
    from tests.netns.lab import Namespace

    assert isinstance(namespace, Namespace)
    guest = Stranger(namespace, port=port)
    with guest.lock:
        guest.node.add_peer(
            invite.inviter,
            psk=invite.peer_psk,
            endpoints=[(v4(0, 1), PORT)],
            own_private_key=invite.peer_private_key,
            has_address=False,
        )
    return guest


def test_c11_guessing_is_silence_and_lying_gets_one_answer(lab: Lab) -> None:
    """A guessed secret meets silence; a bad Join meets Refuse, always the same, and after five tries nothing."""
    spaces = lab.namespace("a"), lab.namespace("hp")
    lab.pair(*spaces)
    (a,) = make_nodes(spaces[0])
    start(a)
    invite = _parsed(_invite(a))
    guesser = _guest(spaces[1], Invite(invite.inviter, os.urandom(32), 0, ()), port=5000)
    lab.defer(guesser.stop)
    guesser.dial(invite.inviter)
    liar = _guest(spaces[1], invite)
    lab.defer(liar.stop)
    liar.connect(invite.inviter)
    rng = random.Random(11)
    for number in range(12):
        record = rng.randbytes(rng.choice((0, 1, 138, 139, 150, 201, 202, 1000)))
        liar.send_frame(invite.inviter, Control(_field(1, _field(1, record))).write())
        time.sleep(0.1 if number else 0.3)
    answers = [event.payload for event in list(liar.events) if event.kind is Kind.CONTROL]
    assert not guesser.received
    assert len(set(answers)) <= 1
    assert len(answers) <= 5
    assert a.status()["friends"] == []
    liar.send_packet(invite.inviter, echo_request("fc00::1", a.address))
    time.sleep(0.3)
    assert not liar.packets()


def _field(number: int, value: bytes) -> bytes:
    """Write a length-delimited protobuf field. Source: Protocol Buffers, "Encoding"."""
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(number: int) -> bytes:
    out = b""
    while number > 0x7F:
        out, number = out + bytes([number & 0x7F | 0x80]), number >> 7
    return out + bytes([number])


# C12, C13: nonsense that is authentic


def _nonsense(rng: random.Random) -> bytes:
    """Write one frame that is wrong in a way somebody might think of."""
    kind = rng.randrange(9)
    if kind == 0:
        return rng.randbytes(16 * rng.randrange(90))
    if kind == 1:
        return bytes([rng.randrange(256)]) + bytes(16 * rng.randrange(1, 4) - 1)
    if kind == 2:
        return Fragment(rng.random() < 0.5, rng.randrange(4), rng.randbytes(rng.randrange(1200))).write()
    if kind == 3:
        return Control(rng.randbytes(rng.randrange(1200))).write()
    if kind == 4:
        return Control(
            _field(rng.randrange(1, 9), _field(rng.randrange(1, 4), rng.randbytes(rng.randrange(99))))
        ).write()
    if kind == 5:
        return Control(_field(rng.randrange(1, 9), b"") + b"\x0a" + _varint(rng.choice((1 << 31, 1 << 63, 5)))).write()
    if kind == 6:
        return rng.choice((Probe(rng.randbytes(8), rng.randrange(1200)), ProbeReply(rng.randbytes(8), 0))).write()
    packet = Packet(
        b"\x60" + rng.randbytes(3), rng.choice((0, 6, 17, 43, 44, 58, 59, 255)), rng.randrange(256),
        rng.randbytes(rng.randrange(1200)), rng.random() < 0.5, rng.random() < 0.5,
    ).write()  # fmt: skip
    return packet if kind == 7 else _mutated(packet, rng)


def _mutated(frame: bytes, rng: random.Random) -> bytes:
    changed = bytearray(frame)
    for _ in range(rng.randrange(1, 6)):
        changed[rng.randrange(min(len(changed), 64))] = rng.randrange(256)
    return bytes(changed)


@pytest.mark.timeout(1800)
def test_c12_nonsense_from_a_friend(duel: Duel) -> None:
    rng, count = random.Random(12), 1_000_000 if FULL else 20_000
    pid, memory = duel.a.pid, duel.a.rss_bytes()
    for number in range(count):
        duel.hostile.send_frame(duel.key, _nonsense(rng))
        if number % 2000 == 0:
            assert duel.hostile.probe(duel.key), f"no answer after {number} frames"
            duel.hostile.events.clear()
            duel.hostile.received.clear()
            duel.taken(0.01)
    assert duel.a.pid == pid
    assert duel.a.rss_bytes() - memory <= 32 << 20
    assert duel.a.drops()["rx_bad_frame"] > 0
    assert duel.is_well()


def test_c12_handshakes_at_the_wrong_time(duel: Duel) -> None:
    """Dialling again and again, twice the same, answers to nothing, data on sessions long replaced."""
    rng = random.Random(13)
    for _ in range(200 if FULL else 40):
        with duel.hostile.acting() as node:
            peer = node.peers[duel.key]
            node.dial(duel.key, time.monotonic())
            if peer.current is not None:
                for session in node.log[-4:]:
                    node.transmit(session.seal(_nonsense(rng)), (v4(0, 1), PORT))
        with duel.hostile.acting() as node:
            node.dial(duel.key, time.monotonic())
        time.sleep(0.02)
    duel.hostile.connect(duel.key)
    time.sleep(0.5)
    assert duel.is_well()


def test_c13_claims_of_size_take_no_memory(duel: Duel) -> None:
    memory = duel.a.rss_bytes()
    for claim in (1 << 20, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1):
        duel.hostile.send_frame(duel.key, Control(b"\x0a" + _varint(claim) + bytes(100)).write())
    duel.hostile.send_frame(duel.key, Control(bytes(frames.MAX_CONTROL_BYTES + 1)).write())
    for number in range(5000):
        duel.hostile.send_frame(duel.key, Fragment(False, number & 0xFFFF, bytes(1100)).write())
    nested = b""
    for _ in range(300):
        nested = _field(1, nested)
    duel.hostile.send_frame(duel.key, Control(nested).write())
    assert duel.is_well()
    assert duel.a.rss_bytes() - memory <= 1 << 20


# C14: low order


@pytest.mark.parametrize("point", LOW_ORDER, ids=[point[:2].hex() + point[-1:].hex() for point in LOW_ORDER])
def test_c14_low_order_keys_are_nobodys(duel: Duel, point: bytes) -> None:
    done = duel.a.f2ftun("friend", "add", "mallory", write_key(point), "--endpoint", f"{v4(0, 2)}:{PORT}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert len(duel.a.status()["friends"]) == 1


def test_c14_low_order_ephemerals_meet_silence(duel: Duel, module_lab: Lab) -> None:
    """The hostile friend's own initiation, its ephemeral exchanged for a point of low order, mac1 right."""
    raw = module_lab.namespaces["hp"].open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    raw.bind(("0.0.0.0", 6000))
    raw.settimeout(0.3)
    for point in LOW_ORDER:
        initiation = Initiation(7, point, os.urandom(48), os.urandom(36)).sign(duel.key)
        raw.sendto(initiation.write(), (v4(0, 1), PORT))
    with pytest.raises(TimeoutError):
        raw.recv(100)
    raw.close()
    assert duel.is_well()


def test_c14_a_low_order_answer_makes_no_session(lab: Lab) -> None:
    """He answers the victim's initiation with an ephemeral of low order: nothing is ever sent on such a session."""
    spaces = lab.namespace("a"), lab.namespace("hp")
    lab.pair(*spaces)
    (a,) = make_nodes(spaces[0])
    start(a)
    device = Device(draw_device().seed)
    a.ask("friend", "add", "mallory", write_key(device.key), "--endpoint", f"{v4(0, 2)}:{PORT}")
    with spaces[1].open_socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.bind(("0.0.0.0", PORT))
        raw.settimeout(5)
        a.namespace.start("ping", "-n", "-c", "5", "-i", "0.2", str(ipaddress.IPv6Address(device.address)), log="p.log")
        initiation = raw.recv(2000)
        for point in LOW_ORDER:
            sender = struct.unpack_from("!I", initiation, 1)[0]
            answer = Response(99, sender, point, os.urandom(20)).sign(initiation[5:37])
            raw.sendto(answer.write(), (v4(0, 1), PORT))
        raw.settimeout(1.0)
        assert {datagram[0] for datagram in _until_quiet(raw)} <= {INITIATION}
