"""The verbs, on a node that runs and on one that does not: what they answer, what they store, what the device hears."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from f2ftun import __version__
from f2ftun.core.friend import Trust
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home
from f2ftun.dataplane import EventKind
from f2ftun.errors import (
    ConfigExists,
    DurationUnreadable,
    F2ftunError,
    FriendIsSelf,
    FriendKeyTaken,
    FriendNameTaken,
    FriendUnknown,
    InviteExpired,
    InviteOwn,
    InviteUnreachable,
    NodeNotRunning,
    RuleOpenToAll,
    RuleUnreadable,
    SettingUnknown,
    TargetUnknown,
)
from f2ftun.linux import firewall
from f2ftun.wire import invite as invite_line
from f2ftun.wire.control import Goodbye, Reason, parse, write
from f2ftun.wire.key import write_key
from tests.unit.daemon.fakes import Wire, ask, new_home, play, running, settle
from tests.unit.shared import identity

BOB = identity(7)
BOB_KEY = write_key(BOB.node_key)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = new_home(tmp_path, "alice")
    yield made
    made.close()


def refused(home: Home, error: type[F2ftunError], verb: str, **args: object) -> None:
    """Check that a verb is refused, running or not, and changes nothing."""

    async def story() -> None:
        before = home.store.friends(), home.store.rules(), home.store.invitations(), home.store.pending_joins()
        with pytest.raises(error):
            await ask(Control(home), verb, **args)
        async with running(home, Wire()) as node:
            table = dict(node.device.table)
            with pytest.raises(error):
                await node.ask(verb, **args)
            assert node.device.table == table
        assert before == (
            home.store.friends(),
            home.store.rules(),
            home.store.invitations(),
            home.store.pending_joins(),
        )

    play(story)


def add_bob(home: Home, **args: object) -> None:
    play(lambda: ask(Control(home), "friend_add", name="bob", key=BOB_KEY, **args))


def test_key_and_address(home: Home) -> None:
    async def story() -> None:
        control = Control(home)
        assert await ask(control, "key") == write_key(home.identity.node_key)
        assert await ask(control, "address") == str(home.identity.address)
        assert await ask(control, "address", target="bob.f2f") == str(BOB.address)
        assert await ask(control, "address", target=BOB_KEY) == str(BOB.address)
        assert await ask(control, "address", target=str(BOB.address)) == str(BOB.address)

    add_bob(home)
    play(story)
    refused(home, FriendUnknown, "address", target="carol")
    refused(home, ConfigExists, "init", name="alice")
    for target in ("8.8.8.8", "2001:db8::1", "fc00::1%eth0", "fc00:::1", "::1"):
        refused(home, TargetUnknown, "address", target=target)


def test_what_needs_a_running_node_says_so(home: Home) -> None:
    async def story() -> None:
        for verb, args in (("status", {}), ("reload", {}), ("ping", {"target": "bob"})):
            with pytest.raises(NodeNotRunning):
                await ask(Control(home), verb, **args)

    play(story)


def test_status_has_the_shape_that_scripts_stand_on(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            value = await node.ask("status")
            node.device.push(EventKind.CONTROL, BOB.node_key, write(Goodbye()))
            await asyncio.sleep(0)
        assert list(value) == [
            *("version", "name", "key", "address", "interface", "mtu", "listen", "uptime_s"),
            *("link_rate_bps", "friends", "drops", "invitations", "joins"),
        ]
        assert (value["version"], value["name"], value["interface"]) == (__version__, "alice", "f2f0")
        assert (value["mtu"], value["listen"], value["drops"]["rx_replayed"]) == (1400, ["[::]:4242"], 3)
        assert value["friends"] == [
            {
                "name": "bob",
                "key": BOB_KEY,
                "address": str(BOB.address),
                "state": "connecting",
                "via": None,
                "endpoint": None,
                "rtt_ms": None,
                "rx_bytes": 7,
                "tx_bytes": 9,
                "floor_bps": 10_000_000,
                "trust": "friend",
                "last_handshake_s": None,
            }
        ]

    add_bob(home, floor="10Mbit/s")
    play(story)


def test_a_friend_who_answers_is_up_until_he_says_goodbye(home: Home, tmp_path: Path) -> None:
    async def story() -> None:
        wire = Wire()
        other = new_home(tmp_path, "bob")
        await ask(Control(other), "friend_add", name="alice", key=await Control(home).key())
        await ask(Control(home), "friend_add", name="bob", key=await Control(other).key(), endpoints=["192.0.2.2:4242"])
        async with running(home, wire) as alice:
            async with running(other, wire) as bob:
                await settle(wire, lambda: bob.device.table[home.identity.node_key].session is not None)
                shown = (await alice.ask("status"))["friends"][0]
                assert (shown["state"], shown["via"], shown["rtt_ms"]) == ("up", "direct", 0.4)
                assert (shown["endpoint"], shown["last_handshake_s"]) == ("192.0.2.2:4242", 3.1)
            await settle(wire, lambda: alice.node.peers.departed(other.identity.node_key))
            shown = (await alice.ask("status"))["friends"][0]
            assert (shown["state"], shown["via"], shown["rtt_ms"]) == ("down", None, None)
        other.close()

    play(story)


def test_friend_add_reaches_store_and_device(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            shown = await node.ask(
                "friend_add",
                name="bob",
                key=BOB_KEY,
                endpoints=["192.0.2.7:4242", "bob.example:1"],
                floor="1Mbit/s",
                trust="close",
                transit="never",
                visibility="nobody",
            )
            peer = node.device.table[BOB.node_key]
            assert (peer.address, peer.psk, peer.endpoints) == (BOB.address.packed, bytes(32), ["192.0.2.7:4242"])
            assert peer.dialled == 1
        stored = home.store.friend("bob")
        assert (stored.floor_bps, stored.trust, shown["transit"]) == (1_000_000, Trust.CLOSE, "never")
        assert stored.endpoints == ("192.0.2.7:4242", "bob.example:1")

    play(story)


def test_friend_add_refuses(home: Home) -> None:
    add_bob(home)
    refused(home, FriendNameTaken, "friend_add", name="bob", key=write_key(identity(8).node_key))
    refused(home, FriendKeyTaken, "friend_add", name="rob", key=BOB_KEY)
    refused(home, FriendIsSelf, "friend_add", name="me", key=write_key(home.identity.node_key))
    for wrong in ({"key": "x.k"}, {"name": "B ob"}, {"endpoints": ["fc00::1"]}, {"floor": "fast"}, {"trust": "deep"}):
        refused(home, F2ftunError, "friend_add", **({"name": "carol", "key": write_key(identity(8).node_key)} | wrong))


def test_friend_list_and_show_need_no_daemon(home: Home) -> None:
    async def story() -> None:
        assert [friend["name"] for friend in await ask(Control(home), "friend_list")] == ["bob"]
        shown = await ask(Control(home), "friend_show", name="bob")
        assert (shown["state"], shown["key"], shown["hybrid"]) == (None, BOB_KEY, False)

    add_bob(home)
    play(story)
    refused(home, FriendUnknown, "friend_show", name="bobb")


def test_friend_set_keeps_what_was_seen_meanwhile(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            node.device.push(EventKind.ROAMED, BOB.node_key, b"198.51.100.9:7")
            await settle(node.device.wire, lambda: bool(node.node.peers.friends[BOB.node_key].last_endpoint))
            await node.ask("friend_set", name="bob", values=["endpoint=192.0.2.9:1", "floor=2Mbit/s"])
            assert node.device.table[BOB.node_key].endpoints == ["198.51.100.9:7", "192.0.2.9:1"]
        assert home.store.friend("bob").floor_bps == 2_000_000

    add_bob(home)
    play(story)
    refused(home, SettingUnknown, "friend_set", name="bob", values=["flor=1Mbit/s"])
    refused(home, FriendUnknown, "friend_set", name="rob", values=["floor=1Mbit/s"])


def test_friend_rename_keeps_rules_and_session(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            await node.ask("allow", who="bob", ports=["tcp/80"])
            peer = node.device.table[BOB.node_key]
            await node.ask("friend_rename", name="bob", new="robert")
            assert node.device.table[BOB.node_key] is peer
            assert [friend["name"] for friend in (await node.ask("status"))["friends"]] == ["robert"]
            assert await node.ask("rules") == [{"who": "robert", "port": "tcp/80"}]

    add_bob(home)
    play(story)
    refused(home, F2ftunError, "friend_rename", name="robert", new="Not a name")


def test_friend_remove_ends_everything_at_once_and_says_so(home: Home, tmp_path: Path) -> None:
    async def story() -> None:
        wire = Wire()
        other = new_home(tmp_path, "bob")
        line = (await ask(Control(home), "invite", name="bob"))["invite"]
        await ask(Control(other), "join", invite=line)
        async with running(home, wire) as alice, running(other, wire) as bob:
            await settle(wire, lambda: len(alice.node.peers.friends) == len(bob.node.peers.friends) == 1)
            await settle(wire, lambda: bob.device.table[home.identity.node_key].session is not None)
            await alice.ask("allow", who="bob", ports=["tcp/80"])
            assert alice.host.rules
            gone = await alice.ask("friend_remove", name="bob")
            assert gone["key"] == write_key(other.identity.node_key)
            assert (alice.device.table, alice.host.rules, home.store.friends()) == ({}, [], [])
            assert Goodbye(Reason.UNFRIENDED) in [parse(payload) for _, payload in alice.device.sent]
            await settle(wire, lambda: bob.node.peers.departed(home.identity.node_key))
        other.close()

    play(story)


def test_rules_reach_the_firewall(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            await node.ask("allow", who="bob.f2f", ports=["tcp/22", "udp/5000-5010"])
            shown = await node.ask("allow", who="all", ports=["tcp/80"])
            assert {rule["port"] for rule in shown} == {"tcp/22", "udp/5000-5010", "tcp/80"}
            assert set(node.host.rules) == {
                firewall.Rule(None, "tcp", 80, 80),
                firewall.Rule(BOB.address, "tcp", 22, 22),
                firewall.Rule(BOB.address, "udp", 5000, 5010),
            }
            await node.ask("deny", who="bob", ports=["tcp/22", "udp/5000-5010"])
            assert node.host.rules == [firewall.Rule(None, "tcp", 80, 80)]
        async with running(home, Wire()) as node:
            assert node.host.rules == [firewall.Rule(None, "tcp", 80, 80)]

    add_bob(home)
    play(story)
    refused(home, RuleOpenToAll, "deny", who="bob", ports=["tcp/80"])
    refused(home, FriendUnknown, "allow", who="carol", ports=["tcp/80"])
    refused(home, RuleUnreadable, "allow", who="bob", ports=["tcp/81", "tcp/0"])


def test_of_rules_that_change_at_once_the_newest_hold(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            node.host.delays = iter((0.05, 0.0))
            await asyncio.gather(
                node.ask("allow", who="all", ports=["tcp/80"]), node.ask("allow", who="all", ports=["tcp/81"])
            )
            assert node.host.rules == [firewall.Rule(None, "tcp", 80, 81)]

    play(story)


def test_ping_gives_replies_and_the_way(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire(), 0.0004, None, 0.0005) as node:
            assert await node.ask("ping", target="bob", count=3, first=5) == {
                "sent": 3,
                "received": 2,
                "replies": [
                    {"seq": 5, "rtt_ms": 0.4, "via": "direct"},
                    {"seq": 7, "rtt_ms": 0.5, "via": "direct"},
                ],
            }

    add_bob(home)
    play(story)


def test_down_ends_a_running_node(home: Home) -> None:
    async def story() -> None:
        async with running(home, Wire()) as node:
            assert (await node.ask("down"))["stopped"]
            assert node.node.stopping.is_set()

    play(story)


def test_an_invitation_says_where_and_for_how_long(home: Home) -> None:
    async def story() -> None:
        home.config = replace(home.config, endpoints=("alice.example:4242",))
        async with running(home, Wire()) as node:
            value = await node.ask("invite", name="bob", expires="2h")
            read = invite_line.parse(value["invite"])
            assert read.endpoints == ("alice.example:4242", "192.0.2.1:4242") == tuple(value["endpoints"])
            assert 7190 < read.expires_at - time.time() <= 7200
            assert value["running"]
            peer = node.device.table[read.invite_key]
            assert (peer.address, peer.psk, peer.endpoints) == (None, read.invite_psk, [])
        async with running(home, Wire()) as node:
            assert read.invite_key in node.device.table

    play(story)
    refused(home, DurationUnreadable, "invite", name="bob", expires="soon")
    add_bob(home)
    refused(home, FriendNameTaken, "invite", name="bob")


def test_join_refuses_what_cannot_be_used(home: Home) -> None:
    own = invite_line.Invite(home.identity.node_key, bytes(32), 2**33, ("192.0.2.1:1",))
    refused(home, InviteOwn, "join", invite=invite_line.write(own))
    good = replace(own, inviter=BOB.node_key)
    refused(home, InviteExpired, "join", invite=invite_line.write(replace(good, expires_at=1)))
    refused(home, InviteUnreachable, "join", invite=invite_line.write(replace(good, endpoints=())))
    refused(home, F2ftunError, "join", invite=invite_line.write(good)[:-3])
    refused(home, F2ftunError, "join", invite=invite_line.write(good), name="No Name")
    add_bob(home)
    other = replace(own, inviter=identity(8).node_key)
    refused(home, FriendNameTaken, "join", invite=invite_line.write(other), name="bob")
