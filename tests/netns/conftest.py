"""Topologies with real nodes on them, started by their command line and removed whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import pytest

from tests.netns import middlebox
from tests.netns.lab import Lab, sweep, wait_for
from tests.netns.middlebox import Middlebox
from tests.netns.node import Node, befriend, connect, make_nodes, start

FULL = os.environ.get("F2FTUN_FULL") == "1"
"""Whether to run the amounts that security.md asks for, instead of those that fit a coffee break."""


@dataclass
class Pair:
    """Two friends, and the box between them where there is one."""

    lab: Lab
    a: Node
    b: Node
    box: Middlebox | None = None

    @property
    def wire(self) -> Middlebox:
        """The box; an error where the friends are joined by a bare wire."""
        assert self.box is not None
        return self.box


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in here as needing root, and leave it out without."""
    missing = [tool for tool in ("ip", "nft", "ping") if shutil.which(tool) is None]
    reason = "needs root" if os.geteuid() else f"needs {', '.join(missing)}" if missing else ""
    for item in items:
        if "netns" in item.path.parts:
            item.add_marker(pytest.mark.netns)
            if reason:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def _swept() -> None:
    """Remove what killed runs left; let SIGTERM unwind like Ctrl-C."""
    sweep()
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Make an empty lab for one test."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """Make an empty lab that the tests of a module share."""
    with Lab() as made:
        yield made


def make_pair(lab: Lab, *, through_box: bool, mtu: int = 1500, **settings: str) -> Pair:
    """Make two friends on a wire, up and connected."""
    spaces = lab.namespace("a"), lab.namespace("b")
    box = middlebox.join(lab, *spaces, mtu=mtu) if through_box else None
    if box is None:
        lab.pair(*spaces, mtu=mtu)
    a, b = make_nodes(*spaces, **settings)
    start(a, b)
    befriend(a, b)
    connect(a, b)
    return Pair(lab, a, b, box)


def come_to_rest(pair: Pair) -> None:
    """Wait until the handshakes of a new friendship are over: the second one brings the hybrid keys."""
    ends = (pair.a, pair.b), (pair.b, pair.a)
    wait_for(lambda: all(own.friend(other)["last_handshake_s"] > 3 for own, other in ends), "new sessions to age", 20)


@pytest.fixture
def pair(lab: Lab) -> Pair:
    """Two friends on a bare wire, of one test."""
    return make_pair(lab, through_box=False)


@pytest.fixture
def watched(lab: Lab) -> Pair:
    """Two friends with a box between them, of one test."""
    return make_pair(lab, through_box=True)


@pytest.fixture(scope="module")
def shared(module_lab: Lab) -> Pair:
    """Two friends with a box between them, for the tests of a module that leave them as they found them."""
    made = make_pair(module_lab, through_box=True)
    come_to_rest(made)
    return made


@pytest.fixture
def line(lab: Lab) -> list[Node]:
    """Four nodes in a line, each the friend of the next."""
    nodes = make_nodes(*(lab.namespace(label) for label in ("a", "r1", "r2", "b")))
    lab.line(*(node.namespace for node in nodes))
    start(*nodes)
    for network, (left, right) in enumerate(pairwise(nodes)):
        befriend(left, right, network=network)
    for left, right in pairwise(nodes):
        connect(left, right)
    return nodes


@pytest.fixture
def star(lab: Lab) -> list[Node]:
    """Make a hub and three leaves, each the hub's friend; the hub comes first."""
    nodes = make_nodes(*(lab.namespace(label) for label in ("hub", "x", "y", "z")))
    lab.star(*(node.namespace for node in nodes))
    start(*nodes)
    for network, leaf in enumerate(nodes[1:]):
        befriend(nodes[0], leaf, network=network)
    for leaf in nodes[1:]:
        connect(nodes[0], leaf)
    return nodes


Settled = Callable[[Pair], None]


@pytest.fixture
def settled() -> Settled:
    """Wait until both ends of a shared pair reach each other again."""

    def wait(pair: Pair) -> None:
        wait_for(lambda: pair.a.pings(pair.b.address) and pair.b.pings(pair.a.address), "the pair to settle", 15)

    return wait
