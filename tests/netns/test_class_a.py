"""Class A of security.md: somebody on the path, who reads, drops, delays, changes and injects.

Friends `a` (end 0) and `b` (end 1) have a box between them that is the attacker. A9 and A10, which attack the host
rather than the tunnel, are here with a running daemon, and in test_linux_routing.py below one.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import math
import os
import random
import socket
import struct
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.netns import flow, middlebox
from tests.netns.conftest import FULL, Pair, Settled, come_to_rest
from tests.netns.lab import Lab, Namespace, v4, v6, wait_for
from tests.netns.middlebox import Frame, Hold
from tests.netns.node import INTERFACE, PORT, TCP_PORT, UDP_PORT, Node, befriend, connect, make_nodes, start
from tests.netns.packet import UdpFrame, checksum, echo_request, icmpv6_packet, ipv6_packet
from tests.netns.stranger import draw_keys, key_bytes
from tests.reference.datagram import DATA, INITIATION, RESPONSE
from tests.reference.identity import address_of, parse_base32

TOWARD_A, TOWARD_B = 0, 1
MARKER = b"MARKERmarkerMARKERmarker"
COPY_BYTES = 2 << 20


def datagrams(frames: list[Frame], toward: int | None = None, kind: int | None = None) -> list[UdpFrame]:
    """Pick the tunnel's datagrams out of what the box recorded."""
    found = [frame.udp for frame in list(frames) if toward is None or frame.toward == toward]
    return [udp for udp in found if udp and udp.payload and (kind is None or udp.payload[0] == kind)]


def is_kind(kind: int, toward: int) -> Hold:
    return Hold(lambda frame: frame.toward == toward and _kind(frame) == kind)


def _kind(frame: Frame) -> int:
    udp = frame.udp
    return udp.payload[0] if udp and udp.payload else 0


def handshake_age(node: Node, friend: Node) -> float:
    return float(node.friend(friend)["last_handshake_s"])


@pytest.fixture(autouse=True)
def _clear(request: pytest.FixtureRequest) -> None:
    """Leave a shared box good again, however the test before ended."""
    if "shared" in request.fixturenames:
        shared: Pair = request.getfixturevalue("shared")
        shared.wire.impair()
        shared.wire.recorded = None


# A1, A2: what can be read


def test_a1_nothing_readable_travels(shared: Pair) -> None:
    a, b = shared.a, shared.b
    frames = shared.wire.record()
    a.namespace.run("ping", "-n", "-c", "20", "-i", "0.02", "-p", MARKER[:16].hex(), "-s", "1000", b.address)
    (a.namespace.folder / "sent").write_bytes(MARKER * (COPY_BYTES // len(MARKER)))
    listener = b.namespace.start("socat", "-u", f"TCP6-LISTEN:{TCP_PORT}", "OPEN:/dev/null", log="sink.log")
    wait_for(lambda: f":{TCP_PORT}" in b.namespace.run("ss", "-Hltn").stdout, "socat", 5)
    a.namespace.run("socat", "-u", f"OPEN:{a.namespace.folder}/sent", f"TCP6:[{b.address}]:{TCP_PORT}")
    listener.wait(10)
    payloads = [udp.payload for udp in datagrams(frames)]
    assert sum(map(len, payloads)) > COPY_BYTES
    everything = b"\0".join(frame.raw for frame in frames)
    for secret in _readable_secrets(a, b):
        assert secret not in everything, secret


def test_a1_befriending_tells_no_names(lab: Lab) -> None:
    """An invitation is taken up under the box's eyes: no name, key or address of either side is to be seen."""
    spaces = lab.namespace("alicemarker"), lab.namespace("bobmarker")
    box = middlebox.join(lab, *spaces)
    frames = box.record()
    alice, bob = make_nodes(*spaces)
    start(alice, bob)
    invited = alice.ask("invite", bob.name)
    bob.ask("join", invited if isinstance(invited, str) else invited["invite"])
    wait_for(lambda: alice.status()["friends"] and bob.status()["friends"], "both to have a friend", 10)
    connect(alice, bob)
    everything = b"\0".join(frame.raw for frame in list(frames))
    assert len(everything) > 1000
    for secret in [*_readable_secrets(alice, bob), b"marker", b"alice"]:
        assert secret not in everything, secret


def _readable_secrets(*nodes: Node) -> list[bytes]:
    found = [MARKER[i : i + 8] for i in range(16)]
    for node in nodes:
        packed = ipaddress.IPv6Address(node.address).packed
        found += [packed, packed[:8], packed[8:], node.address.encode(), node.key.encode(), key_bytes(node)]
    return found


def test_a1_data_look_random_and_never_repeat(shared: Pair) -> None:
    frames = shared.wire.record()
    flow.copy(shared.a.namespace, shared.b.namespace, shared.b.address, TCP_PORT, 2)
    data = datagrams(frames, kind=DATA)
    bodies = b"".join(udp.payload[5:] for udp in data)
    assert len(bodies) > 1 << 20
    assert _entropy(bodies) >= 7.9
    values = [udp.payload[at : at + 8] for udp in data for at in range(5, len(udp.payload) - 7, 8)]
    assert max(Counter(values).values()) == 1
    assert all((len(udp.payload) - 29) % 16 == 0 for udp in data)


def _entropy(data: bytes) -> float:
    return -sum(n / len(data) * math.log2(n / len(data)) for n in Counter(data).values())


def test_a2_handshakes_do_not_tell_who_asks(lab: Lab) -> None:
    """Two nodes dial the same silent friends; nothing in their initiations tells one caller from the other."""
    spaces = [lab.namespace(label) for label in ("a", "c", "sink")]
    lab.lan(*spaces)
    callers = make_nodes(*spaces[:2])
    start(*callers)
    called = draw_keys(200 if FULL else 40)
    with spaces[2].open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("0.0.0.0", PORT))
        for number, key in enumerate(called):
            for caller in callers:
                caller.verb("friend_add", name=f"friend{number}", key=key, endpoints=[f"{v4(0, 3)}:{PORT}"])
        for caller in callers:
            _knock(caller, called)
        by_caller = _collect(sink, 8.0)
    groups = [by_caller[v4(0, 1)], by_caller[v4(0, 2)]]
    assert min(map(len, groups)) >= len(called)
    secrets = _static_hashes([key_bytes(node) for node in callers])
    assert not any(secret in datagram for group in groups for datagram in group for secret in secrets)
    assert len({datagram[1:5] for group in groups for datagram in group}) >= sum(map(len, groups)) - 1
    assert _accuracy(*groups) <= (0.55 if FULL else 0.65)


def _knock(caller: Node, keys: list[str]) -> None:
    """Send a packet to each friend, so that he is dialled."""
    with caller.namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        for key in keys:
            body = parse_base32(key.removesuffix(".k"))
            assert body is not None
            out.sendto(b"knock", (str(ipaddress.IPv6Address(address_of(body))), UDP_PORT))


def _collect(sink: socket.socket, seconds: float) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    sink.settimeout(0.2)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            datagram, (host, _) = sink.recvfrom(2048)
        except TimeoutError:
            continue
        assert (datagram[0], len(datagram)) == (INITIATION, 153)
        found.setdefault(host, []).append(datagram)
    return found


def _static_hashes(keys: list[bytes]) -> list[bytes]:
    derived = [
        digest
        for key in keys
        for digest in (
            key,
            hashlib.sha256(key).digest(),
            hashlib.blake2s(key).digest(),
            hashlib.sha512(hashlib.sha512(key).digest()).digest(),
        )
    ]
    return [digest[at : at + 8] for digest in derived for at in range(0, 32, 8)]


def _accuracy(left: list[bytes], right: list[bytes]) -> float:
    """Train naive Bayes over all bytes on one half, and say how often it guesses the other half's caller right."""
    rng = random.Random(7)
    for group in (left, right):
        rng.shuffle(group)
    size = min(len(left), len(right))
    tables = [_frequencies(group[: size // 2]) for group in (left, right)]
    trials = [(datagram, who) for who, group in enumerate((left, right)) for datagram in group[size // 2 : size]]
    return sum(_guess(tables, datagram) == who for datagram, who in trials) / len(trials)


def _frequencies(group: list[bytes]) -> list[Counter[int]]:
    return [Counter(datagram[at] for datagram in group) for at in range(153)]


def _guess(tables: list[list[Counter[int]]], datagram: bytes) -> int:
    scores = [sum(math.log(table[at][byte] + 0.1) for at, byte in enumerate(datagram)) for table in tables]
    return int(scores[1] > scores[0])


# A3, A4, A6: what can be repeated, changed, delayed


def test_a3_replays_deliver_nothing_and_change_nothing(shared: Pair, settled: Settled) -> None:
    a, b, count = shared.a, shared.b, 100_000 if FULL else 8_000
    settled(shared)
    with flow.Sink(b.namespace, UDP_PORT) as sink:
        frames = shared.wire.record()
        flow.send_numbered(a.namespace, b.address, UDP_PORT, range(count), rate=8000)
        wait_for(lambda: len(sink.seen) >= count * 0.99, "the packets", 10)
        recorded = [frame for frame in list(frames) if frame.toward == TOWARD_B and _kind(frame) == DATA]
        assert len(recorded) >= count * 0.99
        endpoint, age = b.friend(a)["endpoint"], handshake_age(b, a)
        delivered, replayed = len(sink.seen), b.drops()["rx_replayed"]
        back = shared.wire.record()
        _replay(shared, recorded)
        wait_for(lambda: b.drops()["rx_replayed"] - replayed >= count * 2.5, "the replays to be counted", 20)
        assert (sink.duplicates, len(sink.seen)) == (0, delivered)
    assert b.friend(a)["endpoint"] == endpoint
    assert handshake_age(b, a) >= age
    answers = [udp for udp in datagrams(back, TOWARD_A) if udp.destination != v4(0, 1)]
    assert not answers
    assert a.pings(b.address)


def _replay(pair: Pair, recorded: list[Frame]) -> None:
    """Send all again, all in reverse, and all from another address."""
    for frame in recorded:
        pair.wire.inject(frame.raw, TOWARD_B)
    for frame in reversed(recorded):
        pair.wire.inject(frame.raw, TOWARD_B)
    for frame in recorded:
        udp = frame.udp
        assert udp
        pair.wire.inject(udp.rebuilt(source=v4(0, 99)), TOWARD_B)


def test_a3_replayed_handshakes_after_a_restart(watched: Pair) -> None:
    a, b = watched.a, watched.b
    frames = watched.wire.record()
    for node in (a, b):
        node.kill()
        node.up()
        wait_for(lambda: a.pings(b.address), "the friend after a restart", 10)
    old = [frame for frame in list(frames) if _kind(frame) in (INITIATION, RESPONSE)]
    assert old
    a.kill()
    a.up()
    wait_for(lambda: a.pings(b.address), "the friend after a restart", 10)
    come_to_rest(watched)
    answers = watched.wire.record()
    with flow.Sink(b.namespace, UDP_PORT) as sink, flow.Source(a.namespace, b.address, UDP_PORT) as source:
        for frame in old * 5:
            watched.wire.inject(frame.raw, frame.toward)
            time.sleep(0.02)
        time.sleep(1.0)
        flow.check(source, sink, 0.98)
    assert not datagrams(answers, TOWARD_A, RESPONSE), "b remembers the newest timestamp"
    assert (v4(0, 1) in b.friend(a)["endpoint"], v4(0, 2) in a.friend(b)["endpoint"]) == (True, True)


def test_a4_a_flipped_bit_spends_nothing(shared: Pair, settled: Settled) -> None:
    """Every single-bit change of a datagram is refused, and the datagram itself is still good afterwards."""
    a, b = shared.a, shared.b
    settled(shared)
    with flow.Sink(b.namespace, UDP_PORT) as sink:
        for number in range(200 if FULL else 12):
            hold = Hold(lambda frame: frame.toward == TOWARD_B and _carries(frame, 64))
            shared.wire.impair(hold)
            flow.send_numbered(a.namespace, b.address, UDP_PORT, range(number, number + 1), size=64)
            wait_for(lambda hold=hold: hold.held, "a datagram to hold", 5)  # type: ignore[misc]
            shared.wire.impair()
            original = hold.held[0]
            for flipped in _flips(original):
                shared.wire.inject(flipped, TOWARD_B)
            assert number not in sink.seen
            shared.wire.inject(original.raw, TOWARD_B)
            wait_for(lambda n=number: sink.seen[n] == 1, "the datagram itself", 3)  # type: ignore[misc]
        assert (sink.corrupt, sink.duplicates) == (0, 0)
    assert a.sees(b)
    assert b.sees(a)


def _carries(frame: Frame, size: int) -> bool:
    """Say whether a frame has the length of a UDP packet with `size` bytes in it. Source: docs/protocol.md §4, §5."""
    udp = frame.udp
    return udp is not None and len(udp.payload) == 29 + -(-(8 + 8 + size) // 16) * 16


def _flips(frame: Frame, end: int | None = None) -> list[bytes]:
    """Give a datagram with each single bit of its payload, up to byte `end`, changed."""
    udp = frame.udp
    assert udp
    changed = []
    for bit in range(8 * (len(udp.payload) if end is None else end)):
        payload = bytearray(udp.payload)
        payload[bit // 8] ^= 1 << bit % 8
        changed.append(udp.rebuilt(payload=bytes(payload)))
    return changed


MAC2_AT = 137
"""In an initiation; who changes only this has changed nothing that was said. Source: docs/protocol.md §3.1."""


def test_a4_flipped_handshakes_are_silent(watched: Pair) -> None:
    a, b, box = watched.a, watched.b, watched.wire
    hold = is_kind(INITIATION, TOWARD_B)
    hold_back = is_kind(INITIATION, TOWARD_A)
    a.down()
    box.impair(hold, hold_back)
    a.up()
    a.namespace.start("ping", "-n", "-c", "100", "-i", "0.1", b.address, log="knock.log")
    wait_for(lambda: hold.held, "an initiation", 5)
    answers = box.record()
    for flipped in _flips(hold.held[-1], MAC2_AT):
        box.inject(flipped, TOWARD_B)
    time.sleep(0.5)
    assert not datagrams(answers, TOWARD_A, RESPONSE)
    hold_response = is_kind(RESPONSE, TOWARD_A)
    box.impair(hold_response)
    wait_for(lambda: hold_response.held, "a response", 10)
    for flipped in _flips(hold_response.held[-1], 77):
        box.inject(flipped, TOWARD_A)
    box.inject(hold_response.held[-1].raw, TOWARD_A)
    box.impair()
    wait_for(lambda: a.pings(b.address), "the handshake after the forgeries", 10)


def test_a4_forgeries_cost_the_living_nothing(shared: Pair, settled: Settled) -> None:
    a, b = shared.a, shared.b
    settled(shared)
    frames = shared.wire.record()
    assert a.pings(b.address)
    template = datagrams(frames, TOWARD_B, DATA)[-1]
    shared.wire.recorded = None
    rng, handshake = random.Random(4), handshake_age(b, a)
    with flow.Sink(b.namespace, UDP_PORT) as sink:
        with flow.Source(a.namespace, b.address, UDP_PORT, rate=1000) as source:
            for _ in range(1_000_000 if FULL else 20_000):
                payload = template.payload[:5] + rng.randbytes(104)
                shared.wire.inject(template.rebuilt(payload=payload), TOWARD_B)
        wait_for(lambda: len(sink.seen) >= 0.99 * len(source.sent), "99 % of the packets", 5)
        assert (sink.duplicates, sink.corrupt) == (0, 0)
    assert handshake_age(b, a) >= handshake
    assert b.drops()["rx_forged"] > 0


def test_a6_a_delayed_datagram_from_elsewhere_moves_nobody(shared: Pair, settled: Settled) -> None:
    a, b, box = shared.a, shared.b, shared.wire
    settled(shared)
    endpoint = b.friend(a)["endpoint"]
    hold = is_kind(DATA, TOWARD_B)
    box.impair(hold)
    a.namespace.run("ping", "-n", "-c", "1", "-W", "0.2", b.address, check=False)
    wait_for(lambda: hold.held, "a datagram to hold", 5)
    box.impair()
    time.sleep(5.0 if FULL else 1.0)
    assert a.pings(b.address)
    frames = box.record()
    for held in hold.held:
        assert held.udp
        box.inject(held.udp.rebuilt(source=v4(0, 99), source_port=9), TOWARD_B)
    time.sleep(0.5)
    assert b.friend(a)["endpoint"] == endpoint
    assert not [udp for udp in datagrams(frames) if udp.destination == v4(0, 99)]
    assert a.pings(b.address)


def test_a6_the_newest_datagram_needs_an_answered_probe_too(shared: Pair, settled: Settled) -> None:
    """Somebody on the path can send a fresh datagram from anywhere; he gets probes there, no larger, and no traffic."""
    a, b, box = shared.a, shared.b, shared.wire
    settled(shared)
    endpoint = b.friend(a)["endpoint"]
    box.impair(lambda frame: [_from_elsewhere(frame) if frame.toward == TOWARD_B else frame])
    frames = box.record()
    a.namespace.run("ping", "-n", "-c", "10", "-i", "0.1", "-W", "0.2", b.address, check=False)
    box.impair()
    there = [udp for udp in datagrams(frames, TOWARD_A) if udp.destination == v4(0, 98)]
    came = datagrams(frames, TOWARD_B)
    assert b.friend(a)["endpoint"] == endpoint
    assert there
    assert len(there) <= len(came)
    assert sum(len(udp.payload) for udp in there) <= sum(len(udp.payload) for udp in came)
    settled(shared)


def _from_elsewhere(frame: Frame) -> Frame:
    assert frame.udp
    return Frame(frame.udp.rebuilt(source=v4(0, 98)), frame.toward)


# A5: downgrade


def test_a5_no_other_version_is_spoken(shared: Pair, settled: Settled) -> None:
    """A changed type byte is another version or none: nobody answers it, nobody speaks it afterwards."""
    a, b, box = shared.a, shared.b, shared.wire
    settled(shared)
    frames = box.record()
    assert a.pings(b.address)
    template = datagrams(frames, TOWARD_B, DATA)[-1]
    answers = box.record()
    for first in range(5, 256):
        box.inject(template.rebuilt(payload=bytes([first]) + template.payload[1:]), TOWARD_B)
    time.sleep(0.3)
    assert {udp.payload[0] for udp in datagrams(answers)} <= {DATA}
    assert a.pings(b.address)


def test_a5_post_quantum_comes_as_soon_as_it_may(watched: Pair) -> None:
    """Who swallows the key exchange delays it; the friends do not settle for less."""
    a, b, box = watched.a, watched.b, watched.wire
    for node in (a, b):
        node.down()
    swallowed: list[Frame] = []
    box.impair(lambda frame: _swallow_if(len(frame.raw) > 900, frame, swallowed))
    for node in (a, b):
        node.up()
    wait_for(lambda: a.pings(b.address), "a session", 10)
    wait_for(lambda: swallowed, "the offer of a key", 10)
    frames = box.record()
    box.impair()
    wait_for(lambda: datagrams(frames, kind=RESPONSE), "the handshake with the new psk", 30)
    wait_for(lambda: min(handshake_age(a, b), handshake_age(b, a)) < 5, "the hybrid session", 5)
    assert a.pings(b.address)


def _swallow_if(wanted: bool, frame: Frame, into: list[Frame]) -> list[Frame]:
    if wanted:
        into.append(frame)
        return []
    return [frame]


# A7: rotation, forward secrecy


def test_a7_removed_friends_keys_are_gone_from_memory(lab: Lab) -> None:
    """The key log tells the test what to look for; a session's keys are in memory while it stands, and not after."""
    spaces = lab.namespace("a"), lab.namespace("b")
    lab.pair(*spaces)
    a, b = make_nodes(*spaces, keylog="keys.log")
    start(a, b)
    befriend(a, b)
    connect(a, b)
    log = a.config.parent / "keys.log"
    assert log.stat().st_mode & 0o777 == 0o600
    keys = [bytes.fromhex(word) for line in log.read_text().splitlines() for word in line.split()[3:5]]
    assert keys
    assert _held(a.pid, keys)
    a.ask("friend", "remove", b.name)
    wait_for(lambda: not _held(a.pid, keys), "the keys to be erased", 5)


def _held(pid: int, keys: list[bytes]) -> list[bytes]:
    """List those keys that are somewhere in a process's memory."""
    found: list[bytes] = []
    with open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, mode, *_ = line.split()
            if mode.startswith("rw") and "[v" not in line:
                low, high = (int(part, 16) for part in span.split("-"))
                memory.seek(low)
                content = memory.read(high - low)
                found += [key for key in keys if key in content]
    return found


@pytest.mark.skipif(not FULL, reason="takes eleven minutes: F2FTUN_FULL=1")
@pytest.mark.timeout(900)
def test_a7_old_keys_are_gone_after_nine_minutes(lab: Lab) -> None:
    spaces = lab.namespace("a"), lab.namespace("b")
    lab.pair(*spaces)
    a, b = make_nodes(*spaces, keylog="keys.log")
    start(a, b)
    befriend(a, b)
    connect(a, b)
    log = a.config.parent / "keys.log"
    old = [bytes.fromhex(word) for line in log.read_text().splitlines() for word in line.split()[3:5]]
    with flow.Source(a.namespace, b.address, UDP_PORT, rate=20):
        time.sleep(560)
        for node in (a, b):
            assert not _held(node.pid, old)


# A8: a NAT that forgets


def flush_connections(router: Namespace) -> None:
    """Make a router forget every connection. Source: Linux nfnetlink_conntrack.h, IPCTNL_MSG_CT_DELETE."""
    with router.open_socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netfilter:
        netfilter.send(struct.pack("=IHHII", 20, 1 << 8 | 2, 5, 1, 0) + bytes(4))
        netfilter.recv(4096)


def test_a8_a_nat_forgets_and_gives_the_port_to_another(lab: Lab) -> None:
    inside, outside, squatter = (lab.namespace(label) for label in ("a", "b", "squatter"))
    router = lab.nat(inside, outside)
    lab.pair(router, squatter, network=2)
    squatter.run("ip", "route", "add", "default", "via", v4(2, 1))
    lab.remap(router, 40000)
    a, b = make_nodes(inside, outside)
    a.befriend(b, f"{v4(0, 2)}:{PORT}")
    b.befriend(a, None)
    start(a, b)
    connect(a, b)
    old_port = int(b.friend(a)["endpoint"].rpartition(":")[2])
    assert old_port in range(40000, 40100)
    with squatter.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        thief.bind(("0.0.0.0", PORT))
        thief.setblocking(False)
        lab.remap(router, old_port)
        flush_connections(router)
        for _ in range(20):
            thief.sendto(os.urandom(153), (v4(0, 2), PORT))
        lab.remap(router, 41000)
        began = time.monotonic()
        wait_for(lambda: a.pings(b.address, timeout_s=0.3), "traffic after the NAT forgot", 5)
        wait_for(lambda: ":41" in b.friend(a)["endpoint"], "the new port to be known", 5)
        assert time.monotonic() - began <= 6
        b.namespace.run("ping", "-n", "-c", "5", "-i", "0.05", "-p", MARKER[:16].hex(), a.address)
        assert MARKER[:8] not in b"".join(_all_of(thief))


def _all_of(receiver: socket.socket) -> list[bytes]:
    got = []
    while True:
        try:
            got.append(receiver.recv(65535))
        except BlockingIOError:
            return got


def test_a8_a_mapping_that_died_of_silence(lab: Lab) -> None:
    inside, outside = lab.namespace("a"), lab.namespace("b")
    lab.nat(inside, outside, timeout_s=2)
    a, b = make_nodes(inside, outside)
    a.befriend(b, f"{v4(0, 2)}:{PORT}")
    b.befriend(a, None)
    start(a, b)
    connect(a, b)
    time.sleep(5)
    wait_for(lambda: a.pings(b.address, timeout_s=0.5), "traffic after the mapping died", 5)
    assert b.pings(a.address)


# A9, A10: the LAN


def _router_advertisement(source: str) -> bytes:
    """Write a router advertisement: default router, fc12:3456::/64 on the link, routes to fc00::/9 and fc00::/32."""
    head = struct.pack("!BBHII", 64, 0, 1800, 0, 0)
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 1800, 1800, 0) + _packed("fc12:3456::")
    routes = [struct.pack("!BBBBI", 24, 3, bits, 0x08, 1800) + _packed("fc00::") for bits in (9, 32)]
    body = head + prefix + b"".join(routes)
    packet = icmpv6_packet(source, "ff02::1", 134, 0, body)
    return packet[:7] + b"\xff" + packet[8:]


def _packed(address: str) -> bytes:
    return ipaddress.IPv6Address(address).packed


def _overlay_frames(raw: socket.socket, seconds: float) -> list[bytes]:
    """Collect the IPv6 frames with an overlay address that cross an interface."""
    raw.settimeout(0.05)
    found, deadline = [], time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            frame = raw.recv(65535)
        except TimeoutError:
            continue
        if frame[12:14] == b"\x86\xdd" and (frame[22] == 0xFC or frame[38] == 0xFC):
            found.append(frame)
    return found


def test_a9_a_rogue_router_gets_no_overlay_traffic(lab: Lab) -> None:
    lab.ipv6 = True
    spaces = [lab.namespace(label) for label in ("a", "b", "rogue")]
    lan = lab.lan(*spaces)
    for key, value in (("accept_ra", 2), ("accept_ra_rt_info_max_plen", 128)):
        spaces[0].sysctl(f"net.ipv6.conf.{lan['a']}.{key}", value)
    a, b = make_nodes(*spaces[:2])
    start(a, b)
    befriend(a, b)
    connect(a, b)
    rogue = spaces[2].packet_socket(lan["rogue"])
    link_local = spaces[2].run("ip", "-6", "-br", "address", "show", "scope", "link").stdout.split()[2].split("/")[0]
    rogue.send(bytes.fromhex("333300000001020000000009") + b"\x86\xdd" + _router_advertisement(link_local))
    host = a.namespace
    wait_for(lambda: "fc00::/9" in host.run("ip", "-6", "route", "show", "proto", "ra").stdout, "the rogue route", 5)
    targets = [str(ipaddress.IPv6Address(b"\xfc" + os.urandom(15))) for _ in range(100)]
    assert all(_goes_to_the_tunnel(host, target) for target in [*targets, b.address, "fc12:3456::1"])
    pinging = host.start("ping", "-n", "-c", "10", "-i", "0.05", targets[0], log="ping.log")
    assert not _overlay_frames(rogue, 1.0)
    pinging.wait(20)
    a.kill()
    for target in (b.address, targets[0], "fc12:3456::1"):
        host.start("ping", "-n", "-c", "3", "-i", "0.05", target, log="ping.log")
        told = host.run("ip", "-6", "route", "get", target, check=False)
        assert told.returncode or "unreachable" in told.stdout
    assert not _overlay_frames(rogue, 1.0)
    rogue.close()


def _goes_to_the_tunnel(host: Namespace, target: str) -> bool:
    return f"dev {INTERFACE}" in host.run("ip", "-6", "route", "get", target).stdout


def test_a10_the_lan_does_not_reach_the_overlay_address(lab: Lab) -> None:
    lab.ipv6 = True
    spaces = [lab.namespace(label) for label in ("a", "b", "x")]
    lan = lab.lan(*spaces)
    a, b = make_nodes(*spaces[:2])
    start(a, b)
    befriend(a, b)
    connect(a, b)
    neighbour = spaces[2]
    neighbour.run("ip", "-6", "route", "add", f"{a.address}/128", "via", v6(0, 1))
    with a.namespace.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::", TCP_PORT))
        listener.listen()
        argv = ("socat", "-u", "/dev/null", f"TCP6:[{a.address}]:{TCP_PORT},connect-timeout=1")
        assert b.namespace.run(*argv, check=False).returncode == 0
        raw = neighbour.packet_socket(lan["x"])
        assert neighbour.run(*argv, check=False).returncode != 0
        assert not _pings_from(neighbour, a.address)
        _forge_from_overlay(raw, a, b.address)
        _speak_to_the_lan_as_overlay(a)
        assert not _overlay_frames(raw, 1.0)
        raw.close()


def test_a10_not_even_one_datagram_gets_in(lab: Lab) -> None:
    """What needs no answer would tell nobody: so look at what a program is handed."""
    lab.ipv6 = True
    spaces = [lab.namespace(label) for label in ("a", "b", "x")]
    lab.lan(*spaces)
    a, b = make_nodes(*spaces[:2])
    start(a, b)
    befriend(a, b)
    connect(a, b)
    spaces[2].run("ip", "-6", "route", "add", f"{a.address}/128", "via", v6(0, 1))
    with flow.Sink(a.namespace, UDP_PORT) as sink:
        flow.send_numbered(b.namespace, a.address, UDP_PORT, range(1, 2))
        flow.send_numbered(spaces[2], a.address, UDP_PORT, range(2, 3))
        flow.send_numbered(b.namespace, a.address, UDP_PORT, range(3, 4))
        wait_for(lambda: len(sink.seen) >= 2, "the friend's datagrams", 5)
        wait_for(sink.is_quiet, "the last datagram", 5)
        assert set(sink.seen) == {1, 3}


def _speak_to_the_lan_as_overlay(node: Node) -> None:
    """Let a program of the node's host send to a LAN neighbour from its overlay address."""
    with node.namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        out.bind((node.address, 0))
        with contextlib.suppress(OSError):
            out.sendto(b"leak", (v6(0, 3), UDP_PORT))


def _pings_from(namespace: Namespace, address: str) -> bool:
    return namespace.run("ping", "-n", "-c", "2", "-W", "0.5", address, check=False).returncode == 0


def _forge_from_overlay(raw: socket.socket, victim: Node, friend: str) -> None:
    """Send from the LAN what a friend would send over the tunnel, and more: echo, SYN, SYN-ACK, odd sources."""
    told = victim.namespace.run("cat", "/sys/class/net/eth0/address").stdout.strip()
    ethernet = bytes.fromhex(told.replace(":", "")) + bytes.fromhex("020000000009") + b"\x86\xdd"
    for source in (friend, v6(0, 3), "::ffff:10.9.0.3", "fe80::9"):
        raw.send(ethernet + echo_request(source, victim.address))
        for flags in (0x02, 0x12):
            raw.send(ethernet + _tcp(source, victim.address, flags))


def _tcp(source: str, destination: str, flags: int) -> bytes:
    body = struct.pack("!HHIIBBHHH", 4000, TCP_PORT, 1, 0, 5 << 4, flags, 65535, 0, 0)
    pseudo = _packed(source) + _packed(destination) + struct.pack("!II", len(body), 6)
    return ipv6_packet(source, destination, 6, body[:16] + struct.pack("!H", checksum(pseudo + body)) + body[18:])


# A11, A12: a bad path


def test_a11_a_path_that_shrinks_in_silence(watched: Pair) -> None:
    a, b, box = watched.a, watched.b, watched.wire
    frames = box.record()
    for ip_bytes in (1500, 1280, 1400):
        box.impair(middlebox.black_hole(ip_bytes))
        assert flow.copy(a.namespace, b.namespace, b.address, TCP_PORT, 10, timeout=30) < 20
    assert all(_is_whole(frame.raw) for frame in frames)


def _is_whole(frame: bytes) -> bool:
    """Say whether an IPv4 packet is no fragment and may not become one."""
    return frame[12:14] != b"\x08\x00" or struct.unpack_from("!H", frame, 20)[0] == 0x4000


def test_a11_forged_icmp_does_not_shrink_the_path(watched: Pair) -> None:
    a, b, box = watched.a, watched.b, watched.wire
    flow.copy(a.namespace, b.namespace, b.address, TCP_PORT, 10)
    frames = box.record()
    assert a.pings(b.address)
    sample = next(frame for frame in list(frames) if frame.toward == TOWARD_B)
    for mtu in (68, 0, 576, 1279):
        for embedded in (sample.raw[14 : 14 + 28], sample.raw[14:18] + os.urandom(24)):
            box.inject(_fragmentation_needed(sample.raw, mtu, embedded), TOWARD_A)
    frames = box.record()
    assert flow.copy(a.namespace, b.namespace, b.address, TCP_PORT, 10) < 20
    assert max(len(frame.raw) - 14 for frame in list(frames) if frame.toward == TOWARD_B) >= 1280
    assert all(_is_whole(frame.raw) for frame in list(frames))


def _fragmentation_needed(frame: bytes, mtu: int, embedded: bytes) -> bytes:
    """Write what a router would send to a frame's sender. Source: RFC 1191."""
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + embedded
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    head = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(body), 0, 0, 64, 1)
    addresses = frame[30:34] + frame[26:30]
    head += struct.pack("!H", checksum(head + b"\0\0" + addresses)) + addresses
    return frame[6:12] + frame[0:6] + b"\x08\x00" + head + body


@pytest.mark.timeout(900)
def test_a12_a_bad_day(watched: Pair) -> None:
    """5 % lost, 10 % twice, 5 % late by up to 1,400 packets, 3 % damaged, for a while."""
    a, b, box = watched.a, watched.b, watched.wire
    chance = random.Random(12)
    come_to_rest(watched)
    frames = box.record()
    box.impair(
        middlebox.loss(0.05, chance),
        middlebox.duplicate(0.10, chance),
        middlebox.reorder(0.05, 0.3, chance),
        middlebox.corrupt(0.03, chance),
    )
    with flow.Sink(b.namespace, UDP_PORT) as sink, flow.Sink(a.namespace, UDP_PORT) as back:
        forth = flow.Source(a.namespace, b.address, UDP_PORT, rate=2000)
        with forth, flow.Source(b.namespace, a.address, UDP_PORT, rate=500):
            assert flow.iperf(a.namespace, b.namespace, b.address, seconds=600 if FULL else 15) > 100e3
        wait_for(sink.is_quiet, "the last packets", 10)
        assert (sink.duplicates, sink.corrupt, back.duplicates, back.corrupt) == (0, 0, 0, 0)
        assert len(sink.seen) > 0.8 * len(forth.sent)
    if not FULL:
        assert not datagrams(frames, kind=INITIATION)
    assert a.sees(b)
    assert b.sees(a)


# Last, so that the shared session is old by now


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a7_keys_are_new_every_two_minutes(shared: Pair, settled: Settled) -> None:
    """New keys at 120 s + 10 %, and nobody notices."""
    a, b = shared.a, shared.b
    settled(shared)
    with flow.Sink(b.namespace, UDP_PORT) as sink, flow.Source(a.namespace, b.address, UDP_PORT, rate=50) as source:
        wait_for(lambda: _ages(a, b)[1] > 140, "the time of a new handshake", 145)
        time.sleep(0.5)
        flow.check(source, sink, 0.98)
        assert sink.duplicates == 0
    oldest, uptime = _ages(a, b)
    assert oldest <= 132
    assert oldest <= uptime - 100, "a handshake after those at the start"


def _ages(a: Node, b: Node) -> tuple[float, float]:
    """Give the age of the older end's session, and of the younger daemon."""
    return max(handshake_age(a, b), handshake_age(b, a)), min(node.status()["uptime_s"] for node in (a, b))
