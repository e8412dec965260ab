"""A node under a flood from outside, while 200 Mbit/s of UDP come in from its friend.

The stream is measured without and with the flood in turn. What goes back to the attacker is what the kernel counts on
that wire, in bytes of IP. RSS growth is the most that was seen during the flood over what was there before.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator

from bench.flood import PORT as FLOODED_PORT
from bench.lab import NEWCOMER_UNDERLAY, BenchError, Namespace, Yard, hardware_address
from bench.life import Effort, friends
from bench.measure import Sample, packets, python
from bench.node import PORT, Node
from bench.udp import STREAM_BYTES
from f2ftun.wire.key import parse_key

assert FLOODED_PORT == PORT

STREAM_BPS = 200e6
JUNK_RATE = 50_000.0
ETHERNET_BYTES = 14
FOREVER = 600.0
TRY_TIMEOUT = 20.0
"""Seconds after which a try to become friends counts as lost."""


def measure_junk(yard: Yard, effort: Effort) -> list[Sample]:
    """Flood with datagrams that are none."""
    with _besieged(yard) as (a, b):
        return [_pair("junk", yard, a, b, JUNK_RATE, effort) for _ in range(effort.repeats)]


def measure_handshakes(yard: Yard, effort: Effort, rate: float) -> list[Sample]:
    """Flood with initiations of valid mac1, and let a newcomer become a friend meanwhile, time and again."""
    name = f"handshakes{rate / 1e3:g}k"
    with _besieged(yard) as (a, b):
        found = [_pair(name, yard, a, b, rate, effort) for _ in range(effort.repeats)]
        return [*found, *_newcomer(name, yard, a, rate, effort)]


@contextlib.contextmanager
def _besieged(yard: Yard) -> Iterator[tuple[Node, Node]]:
    a, b = friends(yard)
    a.up()
    b.up()
    a.reaches(b)
    _stream(b, a, 1.0)
    yield a, b
    a.down()
    b.down()


def _stream(sender: Node, receiver: Node, seconds: float) -> tuple[int, int]:
    """Send 200 Mbit/s for a while; return how many packets went and how many came."""
    rate = STREAM_BPS / 8 / STREAM_BYTES
    return packets(sender.end, receiver.end, receiver.address, rate, seconds, role="stream")


def _pair(name: str, yard: Yard, a: Node, b: Node, rate: float, effort: Effort) -> Sample:
    calm = _stream(b, a, effort.stream_s)
    rss, wire, lost = a.rss_bytes(), _wire_bytes(yard.node), _overflows(a.end)
    with Flood(name, yard, a, rate) as flood, Highest(a) as highest:
        began, cpu, frames = time.monotonic(), a.cpu_s(), _frames(yard.node)
        stormy = _stream(b, a, effort.stream_s)
        took = time.monotonic() - began
        cpu, frames = a.cpu_s() - cpu, _frames(yard.node) - frames
    flood.wait()
    came, went = (now - then for now, then in zip(_wire_bytes(yard.node), wire, strict=True))
    figures = {
        "loss": 1 - stormy[1] / calm[1],
        "calm_loss": 1 - calm[1] / calm[0],
        "stream_bps": stormy[1] * STREAM_BYTES * 8 / effort.stream_s,
        "out_bytes": went,
        "out_per_in": went / came,
        "rss_growth_bytes": highest.rss_bytes - rss,
        "cpu": cpu / took,
        "flood_pps": frames / took,
        "socket_overflows": _overflows(a.end)[0] - lost[0],
        "sink_overflows": _overflows(a.end)[1] - lost[1],
    }
    return {f"{name}_{figure}": float(value) for figure, value in figures.items()}


class Flood:
    """The attacker's process, from when its frames flow until the block ends."""

    def __init__(self, name: str, yard: Yard, victim: Node, rate: float) -> None:
        argv = ["junk" if name == "junk" else "handshakes", "outside", hardware_address(yard.node, "outside")]
        argv += [str(rate), str(FOREVER), parse_key(victim.key).hex()]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(  # type: ignore[call-overload]
            yard.outside.command(python("bench.flood", *argv)), text=True, stderr=subprocess.STDOUT, **pipes
        )

    def __enter__(self) -> Flood:
        if (told := self._process.stdout.readline()) != "ready\n":
            raise BenchError(f"the flood did not begin: {told}")
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()

    def wait(self) -> None:
        """Wait for the process to end, and for what is under way to be counted."""
        self._process.communicate()
        time.sleep(0.2)


class Highest:
    """Watches a node's memory during a block."""

    def __init__(self, node: Node) -> None:
        self._node, self._over = node, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.rss_bytes = 0.0

    def __enter__(self) -> Highest:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self.rss_bytes = max(self.rss_bytes, self._node.rss_bytes())


def _counters(end: Namespace) -> dict[str, dict[str, int]]:
    shown = json.loads(end.run("ip", "-j", "-s", "link", "show", "dev", "outside"))[0]["stats64"]
    return {way: shown[way] for way in ("rx", "tx")}


def _wire_bytes(end: Namespace) -> tuple[int, int]:
    """Count the IP bytes that came from outside, and that went there."""
    seen = _counters(end)
    rx, tx = (seen[way]["bytes"] - ETHERNET_BYTES * seen[way]["packets"] for way in ("rx", "tx"))
    return rx, tx


def _frames(end: Namespace) -> int:
    return _counters(end)["rx"]["packets"]


def _overflows(end: Namespace) -> tuple[int, int]:
    """Count datagrams that found a buffer full: the node's own, of IPv4, and the sink's. Source: proc(5)."""
    lines = end.run("cat", "/proc/net/snmp", "/proc/net/snmp6").splitlines()
    six = next(line.split()[1] for line in lines if line.startswith("Udp6RcvbufErrors"))
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")]), int(six)


def _newcomer(name: str, yard: Yard, a: Node, rate: float, effort: Effort) -> list[Sample]:
    """Let one become a friend again and again during the flood, who knows where the node is, but not the other way."""
    c = Node(yard.newcomer, "carol")
    c.up()
    with Flood(name, yard, a, rate) as flood:
        found = [{f"{name}_session_s": _become_friends(a, c)} for _ in range(effort.tries)]
    flood.wait()
    c.down()
    return found


def _become_friends(a: Node, c: Node) -> float:
    """Time from the newcomer's `friend add` until the node answers; then part again."""
    a.befriend(c)
    began = time.monotonic()
    c.befriend(a, NEWCOMER_UNDERLAY[0])
    c.ping(a.address, TRY_TIMEOUT, 0.05)
    took = time.monotonic() - began
    a.ask("friend", "remove", c.name)
    c.ask("friend", "remove", a.name)
    return took
