"""The life of a node: what it is made of, what it survives, what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from f2ftun import config
from f2ftun.daemon import node as node_module
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home
from f2ftun.daemon.node import Node
from f2ftun.dataplane import EventKind
from f2ftun.errors import ConfigError, ListenRefused
from f2ftun.wire.invite import parse as parse_invite
from f2ftun.wire.key import write_key
from tests.unit.daemon.fakes import FakeHost, Wire, ask, new_home, play, running, settle
from tests.unit.shared import identity

BOB = identity(7)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = new_home(tmp_path, "alice")
    play(lambda: ask(Control(made), "friend_add", name="bob", key=write_key(BOB.node_key)))
    yield made
    made.close()


def test_a_device_gets_what_the_config_says(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            options = node.device.options
            assert options["private_key"] == home.identity.node_private_key
            assert (options["listen"], options["mtu"], options["underlay_mtu"]) == ("[::]:4242", 1400, 1500)
            assert options["keylog"] is None
            assert node.host.opened
        closed: tuple[bool, bool] = (node.host.opened, node.device.running)
        assert closed == (False, False)

    play(story)


def test_a_port_that_is_taken_is_a_sentence_and_leaves_nothing(home: Home) -> None:
    async def story() -> None:
        host: Any = FakeHost()

        def taken(**_: Any) -> Any:
            raise OSError(98, "Address already in use")

        with pytest.raises(ListenRefused, match="Address already in use"):
            await Node(home, host, taken).open()
        assert not host.opened

    play(story)


def test_a_data_plane_that_dies_is_replaced(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        monkeypatch.setattr(node_module, "MIN_LIFE", 0.0)
        async with running(home, Wire()) as node:
            first = node.device
            first.push(EventKind.STOPPED, b"", b"a defect")
            await settle(first.wire, lambda: node.device is not first)
            assert node.device.running
            assert set(node.device.table) == {BOB.node_key}
            assert not node.node.stopping.is_set()

    play(story)


def test_one_that_dies_at_once_ends_the_node(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            node.device.push(EventKind.STOPPED, b"", b"a defect")
            await settle(Wire(), node.node.stopping.is_set)
            assert node.node.failed
        assert node.host.kept_shut

    play(story)


def test_one_that_cannot_be_replaced_ends_the_node(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        def refuse(**_: Any) -> Any:
            raise OSError(9, "Bad file descriptor")

        monkeypatch.setattr(node_module, "MIN_LIFE", 0.0)
        async with running(home, Wire()) as node:
            node.node._make_device = refuse
            node.device.push(EventKind.STOPPED, b"", b"a defect")
            await settle(Wire(), node.node.stopping.is_set)
            assert node.node.failed

    play(story)


def test_what_other_programs_remove_is_put_back(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            await node.ask("allow", who="bob", ports=["tcp/80"])
            node.host.rules = []
            node.host.gap.set()
            await settle(Wire(), lambda: node.host.applied == 1)
            assert len(node.host.rules) == 1

    play(story)


def test_more_events_than_fit_in_one_turn_are_all_handled(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            for port in range(1, 1500):
                node.device.push(EventKind.ROAMED, BOB.node_key, f"198.51.100.9:{port}".encode())
            friends = node.node.peers.friends
            await settle(node.device.wire, lambda: friends[BOB.node_key].last_endpoint == "198.51.100.9:1499")

    play(story)


def test_an_event_that_cannot_be_handled_costs_only_itself(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            node.device.push(EventKind.SESSION, BOB.node_key, b"\xff\xfe")
            node.device.push(EventKind.CONTROL, BOB.node_key, b"\xff\xfe")
            node.device.push(EventKind.LOST, BOB.node_key)
            node.device.push(EventKind.ROAMED, BOB.node_key, b"198.51.100.9:7")
            await settle(node.device.wire, lambda: bool(node.node.peers.friends[BOB.node_key].last_endpoint))

    play(story)


def rewrite(home: Home, **settings: str) -> None:
    home.config.path.write_text(config.render(name=home.config.name) if not settings else config.render(**settings))


def test_reload_applies_what_can_be_applied(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            rewrite(home, name="alicia", keepalive="7s", mtu="1300", listen="[::]:9", interface="f2f7")
            value = await node.ask("reload")
            assert value == {"applied": ["name", "keepalive", "mtu"], "restart": ["listen", "interface"]}
            assert node.device.table[BOB.node_key].keepalive_s == 7.0
            assert (node.host.mtu, node.host.applied) == (1300, 1)
            assert (home.config.name, home.config.listen) == ("alicia", "[::]:4242")
            assert (await node.ask("status"))["name"] == "alicia"
            rewrite(home, name="alicia", keepalive="7s", mtu="1500")
            assert (await node.ask("reload"))["restart"] == ["mtu"]

    play(story)


def test_reload_tells_friends_of_new_endpoints(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            home.config.path.write_text(config.render(name="alice", endpoints=["a.example:1"]))
            assert (await node.ask("reload"))["applied"] == ["endpoints"]
            assert (await node.node.endpoints())[0] == "a.example:1"

    play(story)


def test_a_broken_config_changes_nothing(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            home.config.path.write_text("name: [")
            before = home.config
            with pytest.raises(ConfigError):
                await node.ask("reload")
            assert home.config == before
            assert (await node.ask("status"))["name"] == "alice"

    play(story)


def test_a_task_that_fails_is_logged_and_no_more(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    async def story() -> None:
        async with running(home, Wire()) as node:
            node.node.spawn(fail())
            await asyncio.sleep(0.01)
            assert (await node.ask("status"))["name"] == "alice"

    play(story)
    assert "a task failed" in caplog.text


def test_what_was_stored_beside_a_node_that_started_is_caught_up_with(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            other = Home.open(home.config.path)
            beside = Control(other)
            await ask(beside, "friend_remove", name="bob")
            await ask(beside, "friend_add", name="carol", key=write_key(identity(8).node_key))
            made = parse_invite((await ask(beside, "invite"))["invite"])
            await node.ask("reload")
            assert set(node.device.table) == {identity(8).node_key, made.invite_key}
            await node.ask("reload")
            assert set(node.device.table) == {identity(8).node_key, made.invite_key}
            other.close()

    play(story)


def test_nothing_stirs_after_the_end(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    """Timers of exchanges, joins and invitations that were under way must not reach for a device that has stopped."""

    async def story() -> None:
        async with running(home, Wire()) as node:
            await node.ask("invite", expires="1s")
            node.node.hybrid._fresh.add(BOB.node_key)
            node.node.hybrid._send(BOB.node_key)
            node.device.push(EventKind.SESSION, BOB.node_key, b"198.51.100.9:7")
            await settle(node.device.wire, lambda: bool(node.node.peers.friends[BOB.node_key].last_endpoint))
            device: Any = node.device
        device.peers = device.remove_peer = device.send_control = _stopped
        await asyncio.sleep(1.2)

    play(story)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def _stopped(*_: Any) -> Any:
    raise RuntimeError("the device has stopped")
