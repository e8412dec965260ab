"""The everyday of a node with one friend: up, down, first ping, a friend's crash, and doing nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from bench.lab import UNDERLAY, BenchError, Yard
from bench.measure import Sample, received_bps
from bench.measure import stream as start_stream
from bench.node import PORT, Node
from f2ftun.store import Store

TRAFFIC_INTERVAL = 0.02
"""Seconds between the packets of the traffic that a crash interrupts."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How often what is short is repeated, and how many seconds the rest takes."""

    repeats: int
    idle_s: float
    settle_s: float
    stream_s: int
    crowd: int
    tries: int


def friends(yard: Yard, **settings: str) -> tuple[Node, Node]:
    """Make two nodes that are friends and know each other's addresses."""
    a, b = Node(yard.node, "alice", **settings), Node(yard.friend, "bob", **settings)
    a.befriend(b, UNDERLAY[1])
    b.befriend(a, UNDERLAY[0])
    for node in (a, b):
        node.ask("allow", "all", "tcp/5201", "udp/5202")
    return a, b


def measure_up(yard: Yard, effort: Effort) -> list[Sample]:
    """Time `up` and `down` of a node with one friend."""
    a, _ = friends(yard)
    return [{"up_s": a.up(), "down_s": a.down()} for _ in range(effort.repeats)]


def measure_first_ping(yard: Yard, effort: Effort) -> list[Sample]:
    """Time the first ping between nodes that have no session, and with `keepalive: off` make none unasked."""
    a, b = friends(yard, keepalive="off")
    return [_first_ping(a, b) for _ in range(effort.repeats)]


def _first_ping(a: Node, b: Node) -> Sample:
    b.up()
    a.up()
    shown = a.ask("status")["friends"][0]
    if shown["last_handshake_s"] is not None:
        raise BenchError("a session came before the first ping")
    took = a.ping(b.address, 5)
    a.down()
    b.down()
    return {"first_ping_s": 5.0 if took is None else took}


def measure_recovery(yard: Yard, effort: Effort) -> list[Sample]:
    """Kill a friend's daemon and start it again while packets flow to it; time the silence."""
    a, b = friends(yard)
    a.up()
    b.up()
    a.reaches(b)
    found: list[Sample] = []
    for _ in range(effort.repeats):
        found.append(_recovery(a, b, "") | _recovery(a, b, "lost_"))
    a.down()
    b.down()
    return found


def _recovery(a: Node, b: Node, lost: str) -> Sample:
    """Time the first answer from the end of `up`, and from the death.

    With `lost` the friend no longer knows our address, so that we must notice.
    """
    traffic = a.end.start("ping", "-n", "-q", "-i", str(TRAFFIC_INTERVAL), b.address, log="traffic.log")
    time.sleep(1.0)
    killed = time.monotonic()
    b.kill()
    if lost:
        _forget(b, a)
    b.ask("up")
    returned = time.monotonic()
    answered = a.ping(b.address, 15, TRAFFIC_INTERVAL)
    now = time.monotonic()
    traffic.terminate()
    traffic.wait()
    if lost:
        b.ask("friend", "set", a.name, f"endpoint={UNDERLAY[0]}:{PORT}")
    if answered is None:
        raise BenchError("no recovery within 15 s")
    return {f"{lost}recovery_s": now - returned, f"{lost}outage_s": now - killed}


def _forget(node: Node, friend: Node) -> None:
    with Store.open(node.folder / "state") as store:
        store.replace_friend(replace(store.friend(friend.name), endpoints=(), told_endpoints=(), last_endpoint=None))


def measure_idle(yard: Yard, effort: Effort) -> list[Sample]:
    """Watch a node with one friend do nothing."""
    a, b = friends(yard)
    a.up()
    b.up()
    a.reaches(b)
    time.sleep(min(effort.settle_s, 10.0))
    sample = {"idle_rss_bytes": a.rss_bytes(), "idle_cpu": a.cpu_share(effort.idle_s)}
    _busy(a, b, effort)
    sample["busy_rss_bytes"] = a.rss_bytes()
    a.down()
    b.down()
    return [sample]


def _busy(a: Node, b: Node, effort: Effort) -> None:
    throughput(a, b, effort.stream_s)
    throughput(b, a, effort.stream_s)


def throughput(sender: Node, receiver: Node, seconds: int) -> float:
    """Measure one TCP stream, in bits per second received."""
    client = start_stream(sender.end, receiver.end, receiver.address, seconds)
    told, _ = client.communicate(timeout=seconds + 30)
    return received_bps(told)
