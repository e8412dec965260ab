"""A node with thousands of friends who do not answer, beside the same node with one.

Both nodes live in one namespace, up in turn, so that their throughput is compared in one run. The thousands are at
addresses outside, where nobody answers, or at no known address. Friends who do not answer are dialled rarely and in
bursts, so doing nothing is watched for about as long as lies between two of them.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from statistics import median

from bench.lab import UNDERLAY, Yard
from bench.life import Effort, throughput
from bench.measure import Sample
from bench.node import PORT, Node
from bench.report import gathered
from f2ftun.core.friend import Friend
from f2ftun.store import Store

STREAMS = 3
"""Streams of which the median counts, when a node has settled."""


def measure_crowd(yard: Yard, effort: Effort) -> list[Sample]:
    """Measure with friends at addresses where nobody answers, then with friends of no known address."""
    b = Node(yard.friend, "bob")
    nodes = {kind: _member(yard, b, kind) for kind in ("lone", "crowd", "nowhere")}
    b.ask("allow", "all", "tcp/5201")
    populate(nodes["crowd"], effort.crowd, endpoints=True)
    populate(nodes["nowhere"], effort.crowd, endpoints=False)
    b.up()
    found = [_round(nodes, b, effort, first=number == 0) for number in range(effort.repeats)]
    b.down()
    return [*found, _ratios(gathered(found))]


def _member(yard: Yard, b: Node, kind: str) -> Node:
    node = Node(yard.node, kind)
    node.befriend(b, UNDERLAY[1])
    b.befriend(node, UNDERLAY[0])
    return node


def _round(nodes: dict[str, Node], b: Node, effort: Effort, *, first: bool) -> Sample:
    sample: Sample = {}
    for kind, node in nodes.items():
        watched = effort.settle_s if kind == "crowd" else effort.idle_s
        for figure, value in _turn(node, b, effort, watched if first else 0.0).items():
            sample[f"{kind}_{figure}"] = value
    return sample


def _turn(node: Node, b: Node, effort: Effort, watched_s: float) -> Sample:
    """Bring a node up, look at once, and with `watched_s` again when the first dials are over; bring it down."""
    sample = {"up_s": node.up()}
    began = time.monotonic()
    node.reaches(b)
    sample |= {"reach_s": time.monotonic() - began, "early_tcp_bps": throughput(node, b, effort.stream_s)}
    if watched_s:
        time.sleep(effort.idle_s)
        sample |= {"idle_cpu": node.cpu_share(watched_s), "rss_bytes": node.rss_bytes()}
        sample["tcp_bps"] = median(throughput(node, b, effort.stream_s) for _ in range(STREAMS))
    return sample | {"busy_rss_bytes": node.rss_bytes(), "down_s": node.down()}


def _ratios(found: dict[str, list[float]]) -> Sample:
    return {
        f"{kind}_{when}tcp_ratio": median(found[f"{kind}_{when}tcp_bps"]) / median(found[f"lone_{when}tcp_bps"])
        for kind in ("crowd", "nowhere")
        for when in ("", "early_")
    }


def populate(node: Node, count: int, *, endpoints: bool) -> None:
    """Write friends who do not exist into the node's store."""
    where = (f"198.18.{number // 250 % 250}.{number % 250 + 1}:{PORT}" for number in range(count))
    with Store.open(node.folder / "state") as store:
        store.add_friends(
            Friend(f"friend{number}", key, endpoints=(endpoint,) if endpoints else ())
            for number, (key, endpoint) in enumerate(zip(keys(count), where, strict=True))
        )


def keys(count: int) -> Iterator[bytes]:
    """Draw node keys of nobody: points whose address begins with fc. Source: docs/protocol.md §2."""
    while count:
        key = os.urandom(31) + b"\x01"
        if hashlib.sha512(hashlib.sha512(key).digest()).digest()[0] == 0xFC:
            count -= 1
            yield key
