"""Finding each other: what is told, what is learnt, what is resolved, and what is not believed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest

from f2ftun.daemon import joiner, rendezvous
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home
from f2ftun.daemon.rendezvous import is_tellable, lookup, own_endpoints
from f2ftun.dataplane import EventKind
from f2ftun.wire.control import Endpoints, parse, write
from f2ftun.wire.endpoint import parse_endpoint
from f2ftun.wire.invite import Invite
from f2ftun.wire.invite import write as write_invite
from f2ftun.wire.key import write_key
from tests.unit.daemon.fakes import FakeDevice, Wire, ask, new_home, play, running, settle
from tests.unit.shared import identity

BOB = identity(7)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = new_home(tmp_path, "alice")
    play(lambda: ask(Control(made), "friend_add", name="bob", key=write_key(BOB.node_key)))
    yield made
    made.close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Resolve names by a table instead of the network."""
    table: dict[str, list[str]] = {}

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        if host not in table:
            raise socket.gaierror("no such name")
        return [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", (address, port)) for address in table[host]]

    async def resolve(endpoint: Any) -> list[str]:
        asyncio.get_running_loop().getaddrinfo = getaddrinfo  # type: ignore[method-assign, assignment]
        return await original(endpoint)

    original = rendezvous._resolve
    monkeypatch.setattr(rendezvous, "_resolve", resolve)
    return table


def told(device: FakeDevice) -> list[Endpoints]:
    messages = [parse(payload) for _, payload in device.sent]
    return [message for message in messages if isinstance(message, Endpoints)]


def test_own_endpoints() -> None:
    found: list[IPv4Address | IPv6Address] = [IPv6Address("2001:db8::1"), IPv4Address("192.0.2.1")]
    assert own_endpoints("[::]:4242", found, ["a.example:1"]) == (
        "a.example:1",
        "[2001:db8::1]:4242",
        "192.0.2.1:4242",
    )
    assert own_endpoints("0.0.0.0:9", found, []) == ("192.0.2.1:9",)
    assert own_endpoints("192.0.2.1:9", found, ["192.0.2.1:9"]) == ("192.0.2.1:9",)
    assert own_endpoints("192.0.2.2:9", found, []) == ()
    assert own_endpoints("[::]:0", found, []) == ()
    assert len(own_endpoints("[::]:1", [IPv4Address(n) for n in range(2**24, 2**24 + 40)], [])) == 16


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("192.0.2.1:1", True),
        ("127.0.0.1:53", False),
        ("[::1]:53", False),
        ("a.example:1", False),
        ("[fc00::1]:1", False),
    ],
)
def test_where_a_friend_may_send_us(text: str, wanted: bool) -> None:
    assert is_tellable(text) is wanted


def test_friends_tell_each_other_when_they_meet_and_when_they_move(home: Home, tmp_path: Path) -> None:
    async def story() -> None:
        wire = Wire()
        other = new_home(tmp_path, "bob")
        line = (await ask(Control(home), "invite", name="robert"))["invite"]
        home.store.remove_friend("bob")
        await ask(Control(other), "join", invite=line)
        async with running(home, wire) as alice, running(other, wire) as bob:
            await settle(wire, lambda: len(told(alice.device)) > 0 and len(told(bob.device)) > 0)
            assert told(alice.device)[-1] == Endpoints(("192.0.2.1:4242",))
            alice.host.found = [IPv4Address("198.51.100.4")]
            alice.host.change.set()
            await settle(wire, lambda: told(alice.device)[-1] == Endpoints(("198.51.100.4:4242",)))
            assert alice.device.network_changes == 1
            table = bob.device.table
            await settle(wire, lambda: "198.51.100.4:4242" in table[home.identity.node_key].endpoints)
        other.close()

    play(story)


def test_where_a_friend_was_last_survives_a_restart(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            node.device.push(EventKind.SESSION, BOB.node_key, b"198.51.100.9:7")
            await settle(node.device.wire, lambda: bool(node.node.peers.friends[BOB.node_key].last_endpoint))
        async with running(home, Wire()) as node:
            assert node.device.table[BOB.node_key].endpoints == ["198.51.100.9:7"]

    play(story)


def test_what_a_friend_tells_is_tried_and_bounded(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            message = Endpoints(("192.0.2.3:1", "127.0.0.1:22", "bob.example:1", "[2001:db8::3]:1"))
            node.device.push(EventKind.CONTROL, BOB.node_key, write(message))
            peer = node.device.table
            await settle(node.device.wire, lambda: peer[BOB.node_key].endpoints == ["192.0.2.3:1", "[2001:db8::3]:1"])
        async with running(home, Wire()) as node:
            peer = node.device.table
            assert peer[BOB.node_key].endpoints == ["192.0.2.3:1", "[2001:db8::3]:1"]
            node.device.push(EventKind.CONTROL, BOB.node_key, write(Endpoints(())))
            await settle(node.device.wire, lambda: peer[BOB.node_key].endpoints == [])
            node.device.push(EventKind.CONTROL, identity(9).node_key, write(message))
            await settle(node.device.wire, lambda: not node.device._events)
            assert set(peer) == {BOB.node_key}

    play(story)


def test_names_are_resolved_and_again_when_nobody_answers(
    home: Home, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        names["bob.example"] = ["192.0.2.5", "fc00::1"]
        async with running(home, Wire()) as node:
            peer = node.device.table
            await settle(node.device.wire, lambda: peer[BOB.node_key].endpoints == ["192.0.2.5:4242"])
            names["bob.example"] = ["2001:db8::5"]
            node.device.push(EventKind.UNREACHABLE, BOB.node_key)
            await settle(node.device.wire, lambda: peer[BOB.node_key].endpoints == ["[2001:db8::5]:4242"])
            names["bob.example"] = ["192.0.2.6"]
            node.device.push(EventKind.UNREACHABLE, BOB.node_key)
            await settle(node.device.wire, lambda: not node.device._events)
            await asyncio.sleep(0.02)
            assert peer[BOB.node_key].endpoints == ["[2001:db8::5]:4242"], "too soon to ask again"

    play(lambda: ask(Control(home), "friend_set", name="bob", values=["endpoint=bob.example:4242"]))
    play(story)


def test_a_name_that_does_not_resolve_is_nothing(names: dict[str, list[str]]) -> None:
    async def story() -> None:
        assert await lookup(parse_endpoint("nobody.example:1")) == []
        names["many.example"] = [f"192.0.2.{n}" for n in range(100)]
        assert len(await lookup(parse_endpoint("many.example:1"))) == 16

    play(story)


def test_an_inviter_is_found_by_name(home: Home, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        invite = Invite(identity(9).node_key, bytes(32), 2**33, ("carol.example:1", "192.0.2.8:1"))
        async with running(home, Wire()) as node:
            await node.ask("join", invite=write_invite(invite), wait_s=0)
            table = node.device.table
            assert table[invite.inviter].endpoints == ["192.0.2.8:1"]
            names["carol.example"] = ["2001:db8::8"]
            await settle(node.device.wire, lambda: len(table[invite.inviter].endpoints) == 2)
            assert table[invite.inviter].endpoints == ["192.0.2.8:1", "[2001:db8::8]:1"]
            assert table[invite.inviter].psk == invite.invite_psk

    monkeypatch.setattr(joiner, "RESOLVE_INTERVAL", 0.01)
    play(story)
