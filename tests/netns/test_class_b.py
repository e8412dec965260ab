"""Class B of security.md: somebody off the path, who sprays.

The attacker `x` shares a LAN with the victim `a` and its friend `b`, sees every frame that reaches its own port of the
switch, and sends from any address it likes.
"""

from __future__ import annotations

import math
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.netns import flow
from tests.netns.conftest import FULL, Pair
from tests.netns.lab import Lab, Namespace, v4, v6, wait_for
from tests.netns.middlebox import Hold
from tests.netns.node import PORT, UDP_PORT, Node, befriend, connect, make_nodes, start
from tests.netns.packet import UdpFrame, checksum, icmpv6_packet, read_udp, udp_packet
from tests.netns.stranger import Stranger, join, key_bytes
from tests.reference.datagram import COOKIE_REPLY, DATA, Initiation

RSS_GROWTH_BYTES = 64 << 20
"""Source: security.md B2, B3."""

X_MAC = bytes.fromhex("020000000009")


@dataclass
class Siege:
    """The victim, its friend, and the attacker's raw socket on their LAN."""

    lab: Lab
    a: Node
    b: Node
    x: Namespace
    raw: socket.socket
    a_mac: bytes

    def spray(self, payload: bytes, source: str, source_port: int, *, to: str = v4(0, 1)) -> None:
        """Send one datagram to the victim from any address."""
        ethernet = self.a_mac + X_MAC + (b"\x08\x00" if "." in source else b"\x86\xdd")
        self.raw.send(ethernet + udp_packet(source, to, source_port, PORT, payload))

    def heard(self) -> list[UdpFrame]:
        """Collect the UDP datagrams from the victim that have reached the attacker."""
        found: list[UdpFrame] = []
        self.raw.setblocking(False)
        while True:
            try:
                frame = self.raw.recv(65535)
            except BlockingIOError:
                return found
            udp = read_udp(frame)
            if udp and udp.source in (v4(0, 1), v6(0, 1)):
                found.append(udp)


@pytest.fixture(scope="module")
def siege(module_lab: Lab) -> Iterator[Siege]:
    module_lab.ipv6 = True
    spaces = [module_lab.namespace(label) for label in ("a", "b", "x")]
    interfaces = module_lab.lan(*spaces)
    a, b = make_nodes(*spaces[:2])
    start(a, b)
    befriend(a, b)
    connect(a, b)
    _answer_for_everyone(a.namespace, interfaces["a"])
    mac = spaces[0].run("cat", f"/sys/class/net/{interfaces['a']}/address").stdout.strip()
    spaces[2].offloads_off(interfaces["x"])
    raw = spaces[2].packet_socket(interfaces["x"])
    yield Siege(module_lab, a, b, spaces[2], raw, bytes.fromhex(mac.replace(":", "")))
    raw.close()


def _answer_for_everyone(victim: Namespace, interface: str) -> None:
    """Let the victim's answers to any address go out toward the attacker's port, so that he would hear them."""
    for family, gateway in (("-4", "10.9.0.250"), ("-6", "2001:db8:9::250")):
        target = "default"
        victim.run("ip", family, "neigh", "replace", gateway, "lladdr", X_MAC.hex(":"), "dev", interface)
        victim.run("ip", family, "route", "replace", target, "via", gateway, "dev", interface, "onlink")


def random_source(rng: random.Random) -> tuple[str, int]:
    """Choose an IPv4 address on the other side of the victim's default route, and a port."""
    return f"198.{rng.randrange(18, 20)}.{rng.randrange(256)}.{rng.randrange(1, 255)}", rng.randrange(1024, 65535)


def quiet_datagrams(heard: list[UdpFrame]) -> list[UdpFrame]:
    """Leave out what goes between the friends."""
    return [udp for udp in heard if udp.destination not in (v4(0, 2), v6(0, 2))]


def test_b1_silence(siege: Siege) -> None:
    """Every first byte with every length up to 300, then random sizes: not one byte comes back."""
    rng = random.Random(1)
    siege.heard()
    dropped = siege.a.drops()["rx_malformed"]
    step = 1 if FULL else 7
    sent = 0
    for first in range(256):
        for length in range(first % step, 301, step):
            siege.spray((bytes([first]) + rng.randbytes(300))[:length], *random_source(rng))
            sent += 1
    for _ in range(1_000_000 - sent if FULL else 10_000):
        siege.spray(rng.randbytes(rng.randrange(1473)), *random_source(rng))
    wait_for(lambda: siege.a.drops()["rx_malformed"] > dropped + 1000, "the junk to be counted", 10)
    assert not quiet_datagrams(siege.heard())
    assert siege.a.pings(siege.b.address)


def test_b1_no_icmp_and_no_tcp(siege: Siege) -> None:
    siege.heard()
    siege.spray(b"hello", v4(0, 3), 5000)
    siege.spray(b"", v4(0, 3), 5000)
    siege.raw.settimeout(0.5)
    try:
        while True:
            frame = siege.raw.recv(65535)
            assert not (frame[12:14] == b"\x08\x00" and frame[23] == 1 and frame[26:30] == socket.inet_aton(v4(0, 1)))
    except TimeoutError:
        pass
    listening = siege.a.namespace.run("ss", "-Hlntup").stdout.splitlines()
    mine = [line for line in listening if f"pid={siege.a.pid}," in line]
    assert len(mine) >= 1
    assert all(line.startswith("udp") for line in mine), mine


class Flood:
    """Sends what `make` makes at a rate, in a thread, until the block ends."""

    def __init__(self, siege: Siege, rate: float, make: Callable[[], tuple[bytes, str, int]]) -> None:
        self.siege, self.rate, self.make = siege, rate, make
        self.sent = self.sent_bytes = 0

    def __enter__(self) -> Flood:
        self._running = True
        self._thread = threading.Thread(target=self._pour, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()

    def _pour(self) -> None:
        began = time.monotonic()
        while self._running:
            while self.sent < (time.monotonic() - began) * self.rate:
                payload, source, port = self.make()
                self.siege.spray(payload, source, port)
                self.sent += 1
                self.sent_bytes += len(payload)
            time.sleep(0.001)


def _goodput_during(siege: Siege, flood: Flood, seconds: float) -> float:
    """Send numbered packets from the friend during a flood; return the share that came."""
    with flow.Sink(siege.a.namespace, UDP_PORT) as sink:
        source = flow.Source(siege.b.namespace, siege.a.address, UDP_PORT, rate=1000)
        with flood, source:
            time.sleep(seconds)
        wait_for(sink.is_quiet, "the last packets", 5)
        return len(sink.seen) / len(source.sent)


def test_b2_junk_costs_little(siege: Siege) -> None:
    rng = random.Random(2)
    before = siege.a.rss_bytes()
    junk = rng.randbytes(1400)

    def make() -> tuple[bytes, str, int]:
        kind = bytes([rng.choice((DATA, rng.randrange(256)))])
        return kind + rng.randbytes(12) + junk[: 16 * rng.randrange(1, 80)], *random_source(rng)

    assert _goodput_during(siege, Flood(siege, 50_000 if FULL else 5_000, make), 10 if FULL else 4) >= 0.97
    assert siege.a.rss_bytes() - before <= RSS_GROWTH_BYTES
    assert not quiet_datagrams(siege.heard())


def _initiations(siege: Siege, count: int) -> list[bytes]:
    """Write initiations of somebody who knows the victim's public key and nothing else."""
    key = key_bytes(siege.a)
    return [
        Initiation(int.from_bytes(os.urandom(4), "big"), os.urandom(32), os.urandom(48), os.urandom(36))
        .sign(key)
        .write()
        for _ in range(count)
    ]


def _spoofed_initiations(siege: Siege, seed: int) -> Callable[[], tuple[bytes, str, int]]:
    rng, prepared = random.Random(seed), _initiations(siege, 3000)
    return lambda: (rng.choice(prepared), *random_source(rng))


def test_b3_handshakes_from_nowhere(siege: Siege) -> None:
    """Valid mac1, spoofed sources: little goodput lost, less than half the bytes back, no memory taken."""
    siege.heard()
    before = siege.a.rss_bytes()
    flood = Flood(siege, 10_000 if FULL else 3_000, _spoofed_initiations(siege, 3))
    goodput = _goodput_during(siege, flood, 10 if FULL else 4)
    heard = quiet_datagrams(siege.heard())
    assert goodput >= 0.95
    assert {udp.payload[0] for udp in heard} <= {COOKIE_REPLY}
    assert sum(len(udp.payload) for udp in heard) <= 0.5 * flood.sent_bytes
    assert siege.a.rss_bytes() - before <= RSS_GROWTH_BYTES


def test_b4_a_friend_gets_through_the_flood(siege: Siege) -> None:
    with Flood(siege, 3_000, _spoofed_initiations(siege, 4)):
        for _ in range(8 if FULL else 2):
            siege.b.kill()
            siege.b.up()
            began = time.monotonic()
            wait_for(lambda: siege.b.pings(siege.a.address, timeout_s=0.3), "a handshake under flood", 6)
            assert time.monotonic() - began <= 6


def test_b5_nobody_gets_more_than_he_sent(siege: Siege) -> None:
    """Per spoofed address, for each type that is read before authentication."""
    rng = random.Random(5)
    siege.heard()
    given: dict[str, int] = {}
    initiations = _initiations(siege, 1000)
    makers = (
        lambda: rng.choice(initiations),
        lambda: b"\x02" + rng.randbytes(92),
        lambda: b"\x03" + rng.randbytes(60),
        lambda: b"\x04" + rng.randbytes(28 + 16 * rng.randrange(80)),
    )
    for _ in range(100_000 if FULL else 6_000):
        payload = rng.choice(makers)()
        source, port = random_source(rng)
        given[source] = given.get(source, 0) + len(payload)
        siege.spray(payload, source, port)
    wait_for(lambda: siege.a.pings(siege.b.address), "the victim to be through", 10)
    taken: dict[str, int] = {}
    for udp in quiet_datagrams(siege.heard()):
        taken[udp.destination] = taken.get(udp.destination, 0) + len(udp.payload)
    assert taken, "under load, those who know the key are asked for a cookie"
    assert all(size <= given.get(address, 0) for address, size in taken.items())


def test_b6_indices_are_not_guessed(siege: Siege) -> None:
    rng = random.Random(6)
    state = {key: siege.a.friend(siege.b)[key] for key in ("state", "endpoint")}
    unknown = siege.a.drops()["rx_unknown_index"]
    count = 1_000_000 if FULL else 30_000
    for _ in range(count):
        siege.spray(b"\x04" + rng.randbytes(12 + 16 + 16 * rng.randrange(4)), v4(0, 2), PORT)
    wait_for(lambda: siege.a.drops()["rx_unknown_index"] >= unknown + count * 0.95, "the guesses to be counted", 10)
    assert {key: siege.a.friend(siege.b)[key] for key in state} == state
    assert siege.a.pings(siege.b.address)


def test_b6_indices_do_not_count_up(lab: Lab) -> None:
    spaces = lab.namespace("a"), lab.namespace("hp")
    lab.pair(*spaces)
    (a,) = make_nodes(spaces[0])
    start(a)
    hostile = Stranger(spaces[1])
    lab.defer(hostile.stop)
    key = join(hostile, a, 2)
    for _ in range(1000 if FULL else 30):
        before = len(hostile.node.log)
        hostile.dial(key)
        wait_for(lambda before=before: len(hostile.node.log) > before, "another session", 5)  # type: ignore[misc]
    indices = [session.peer_index for session in hostile.node.log]
    gaps = [abs(left - right) for left, right in pairwise(indices)]
    assert len(set(indices)) == len(indices)
    assert min(gaps) > 1000
    assert all(0.1 < sum(index >> bit & 1 for index in indices) / len(indices) < 0.9 for bit in range(32))


def _busy_ns(node: Node) -> int:
    """Read how long the daemon's threads have run. Source: Linux sched-stats.rst, /proc/PID/task/TID/schedstat."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{node.pid}/task").glob("*/schedstat"))


def test_b9_a_nearly_right_tag_takes_no_longer(watched: Pair) -> None:
    """Forgeries with 15 of 16 tag bytes right cost the victim the same time as those with none (Welch's t-test)."""
    hold = Hold(lambda frame: frame.toward == 1 and len(frame.raw) > 150)
    watched.wire.impair(hold)
    watched.a.namespace.run("ping", "-n", "-c", "1", "-W", "0.2", "-s", "200", watched.b.address, check=False)
    wait_for(lambda: hold.held, "a datagram to hold", 5)
    original = hold.held[0].udp
    assert original
    rng, spent = random.Random(9), {0: [0.0], 15: [0.0]}
    for right in [0, 15] * (200 if FULL else 25):
        forged = [original.payload[: right - 16] + rng.randbytes(16 - right) for _ in range(400)]
        frames = [original.rebuilt(payload=payload) for payload in forged]
        before = _busy_ns(watched.b)
        for frame in frames:
            watched.wire.inject(frame, 1)
        time.sleep(0.02)
        spent[right].append(_busy_ns(watched.b) - before)
    assert min(map(statistics.fmean, spent.values())) > 0
    assert abs(_welch(spent[0][1:], spent[15][1:])) < 4.5


def _welch(left: list[float], right: list[float]) -> float:
    """Compute Welch's t of two samples."""
    spread = sum(statistics.variance(sample) / len(sample) for sample in (left, right))
    return (statistics.fmean(left) - statistics.fmean(right)) / math.sqrt(spread)


def test_b7_many_sources_take_no_memory(siege: Siege) -> None:
    """Distinct IPv6 addresses by the thousand: the table of limits is bounded, a friend is still served."""
    rng = random.Random(7)
    prepared = _initiations(siege, 500)
    before = siege.a.rss_bytes()
    for number in range(1_000_000 if FULL else 30_000):
        source = f"2001:db8:{rng.randrange(1 << 16):x}:{number & 0xFFFF:x}::{rng.randrange(1 << 16):x}"
        siege.spray(rng.choice(prepared), source, rng.randrange(1024, 65535), to=v6(0, 1))
    assert siege.a.rss_bytes() - before <= RSS_GROWTH_BYTES
    siege.b.kill()
    siege.b.up()
    wait_for(lambda: siege.b.pings(siege.a.address, timeout_s=0.3), "a handshake after many sources", 6)


def test_b8_forged_icmp_tears_nothing_down(siege: Siege) -> None:
    """Unreachables of every code, about the friends' own flow, as from the friend and from a router."""
    datagram = udp_packet(v4(0, 1), v4(0, 2), PORT, PORT, bytes(40))
    with flow.Sink(siege.b.namespace, UDP_PORT) as sink:
        with flow.Source(siege.a.namespace, siege.b.address, UDP_PORT, rate=1000) as source:
            for code in list(range(16)) * 20:
                siege.raw.send(siege.a_mac + X_MAC + b"\x08\x00" + _unreachable(v4(0, 2), v4(0, 1), code, datagram))
                time.sleep(0.005)
            siege.raw.send(siege.a_mac + X_MAC + b"\x86\xdd" + _unreachable6())
        time.sleep(0.5)
        flow.check(source, sink, 0.99)
    assert siege.a.sees(siege.b)


def _unreachable(source: str, destination: str, code: int, about: bytes) -> bytes:
    body = bytes([3, code]) + bytes(6) + about[:68]
    body = body[:2] + checksum(body).to_bytes(2, "big") + body[4:]
    head = bytes([0x45, 0]) + (20 + len(body)).to_bytes(2, "big") + bytes(4) + bytes([64, 1])
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return head + checksum(head + b"\0\0" + addresses).to_bytes(2, "big") + addresses + body


def _unreachable6() -> bytes:
    about = udp_packet(v6(0, 1), v6(0, 2), PORT, PORT, bytes(40))
    return icmpv6_packet(v6(0, 2), v6(0, 1), 1, 4, bytes(4) + about)
