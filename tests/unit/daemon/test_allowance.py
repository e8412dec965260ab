"""How much a friend may say: all that is honest, and no more."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from f2ftun.daemon.allowance import BURST, MESSAGES_PER_S, Allowance
from f2ftun.daemon.control import Control
from f2ftun.dataplane import EventKind
from f2ftun.wire.control import Endpoints, write
from f2ftun.wire.key import write_key
from tests.unit.daemon.fakes import Wire, ask, new_home, play, running, settle
from tests.unit.shared import identity

BOB, CAROL = identity(7), identity(8)


@given(st.lists(st.floats(0, 10), max_size=300))
def test_never_more_than_rate_and_burst(waits: list[float]) -> None:
    allowance, now, taken = Allowance(), 100.0, 0
    for wait in waits:
        now += wait
        taken += allowance.take(b"a", now)
    assert taken <= BURST + (now - 100.0) * MESSAGES_PER_S + 1e-6


def test_everybody_has_his_own() -> None:
    allowance = Allowance()
    while allowance.take(b"a", 1.0):
        pass
    assert allowance.take(b"b", 1.0)
    assert allowance.take(b"a", 2.0)
    while allowance.take(b"a", 2.0):
        pass
    allowance.forget(b"a")
    assert allowance.take(b"a", 2.0)


def test_a_friend_who_shouts_is_not_heard_and_others_are(tmp_path: Path) -> None:
    async def story() -> None:
        home = new_home(tmp_path, "alice")
        for name, friend in (("bob", BOB), ("carol", CAROL)):
            await ask(Control(home), "friend_add", name=name, key=write_key(friend.node_key))
        async with running(home, Wire()) as node:
            for port in range(1, 200):
                node.device.push(EventKind.CONTROL, BOB.node_key, write(Endpoints((f"192.0.2.9:{port}",))))
            node.device.push(EventKind.CONTROL, CAROL.node_key, write(Endpoints(("192.0.2.10:7",))))
            node.device.push(EventKind.CONTROL, CAROL.node_key, b"\xff\xff")
            friends = node.node.peers.friends
            await settle(node.device.wire, lambda: node.node.drops["rx_control_malformed"] == 1)
            assert friends[CAROL.node_key].told_endpoints == ("192.0.2.10:7",)
            heard = 199 - (await node.ask("status"))["drops"]["rx_control_excess"]
            assert BURST <= heard < BURST + MESSAGES_PER_S
            assert friends[BOB.node_key].told_endpoints == (f"192.0.2.9:{heard}",)
        home.close()

    play(story)
