"""Friends in the device's table."""

from __future__ import annotations

from typing import Any

from f2ftun.core.friend import Friend
from f2ftun.daemon.peers import MAX_CANDIDATES, Peers
from tests.unit.shared import identity

BOB = Friend(
    "bob",
    identity(7).node_key,
    endpoints=("192.0.2.1:1", "bob.example:1", "192.0.2.2:1"),
    last_endpoint="192.0.2.2:1",
    told_endpoints=("192.0.2.3:1", "192.0.2.1:1"),
)


class Table:
    """Remembers what it was told; refuses endpoints if it should."""

    def __init__(self) -> None:
        self.peers: dict[bytes, dict[str, Any]] = {}
        self.picky = False

    def set_peer(self, key: bytes, **told: Any) -> None:
        if self.picky and told["endpoints"]:
            raise ValueError("not an endpoint")
        self.peers[key] = told

    def remove_peer(self, key: bytes) -> bool:
        return self.peers.pop(key, None) is not None

    def dial(self, key: bytes) -> bool:
        return key in self.peers


def test_candidates_come_once_the_most_promising_first() -> None:
    peers = Peers(Table(), 25.0)
    peers.put(BOB)
    assert peers.candidates(BOB) == ["192.0.2.2:1", "192.0.2.1:1", "192.0.2.3:1"]
    assert peers.learn(BOB.key, ["192.0.2.9:1"])
    assert not peers.learn(BOB.key, ["192.0.2.9:1"])
    assert peers.candidates(BOB) == ["192.0.2.2:1", "192.0.2.1:1", "192.0.2.9:1", "192.0.2.3:1"]
    peers.learn(BOB.key, [f"192.0.2.{n}:2" for n in range(1, 200)])
    assert len(peers.candidates(BOB)) == MAX_CANDIDATES


def test_an_endpoint_that_the_device_refuses_costs_the_endpoints_not_the_friend() -> None:
    table = Table()
    table.picky = True
    peers = Peers(table, 25.0)
    peers.put(BOB)
    assert table.peers[BOB.key]["endpoints"] == []
    assert table.peers[BOB.key]["address"] == BOB.address.packed


def test_who_is_dropped_is_forgotten() -> None:
    table = Table()
    peers = Peers(table, 25.0)
    peers.put(BOB)
    peers.depart(BOB.key)
    assert peers.departed(BOB.key)
    peers.drop(BOB.key)
    assert not table.peers
    assert not peers.departed(BOB.key)
    assert not peers.learn(BOB.key, ["192.0.2.9:1"])


def test_a_keepalive_is_for_all() -> None:
    table = Table()
    peers = Peers(table, 25.0)
    peers.put(BOB)
    peers.set_keepalive(0.0)
    assert table.peers[BOB.key]["keepalive_s"] == 0.0
