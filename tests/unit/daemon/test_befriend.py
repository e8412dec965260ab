"""Invite and join between two nodes: both end as friends, once, whatever runs when, and nobody else does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from f2ftun.daemon import joiner
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home
from f2ftun.dataplane import EventKind
from f2ftun.errors import FriendsAlready, InvitationUnknown, JoinRefused, JoinUnknown, JoinWithdrawn
from f2ftun.wire.control import Join, Refuse, Welcome, parse, write
from f2ftun.wire.invite import Invite
from f2ftun.wire.invite import parse as parse_invite
from f2ftun.wire.invite import write as write_invite
from tests.unit.daemon.fakes import Running, Wire, ask, new_home, play, running, settle


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[list[Home]]:
    made = [new_home(tmp_path, name) for name in ("alice", "bob", "mallory")]
    yield made
    for home in made:
        home.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joiner, "JOIN_INTERVAL", 0.01)


def are_friends(alice: Running, bob: Running) -> bool:
    """Say whether each is the other's friend, with a session of their own and no trace of the invitation."""
    one, other = alice.node.home, bob.node.home
    keys = one.identity.node_key, other.identity.node_key
    if set(alice.device.table) != {keys[1]} or set(bob.device.table) != {keys[0]}:
        return False
    return alice.device.table[keys[1]].session is bob.device and bob.device.table[keys[0]].own_key == keys[1]


async def join_in_background(node: Running, line: str) -> asyncio.Task[Any]:
    task = asyncio.create_task(node.ask("join", invite=line, wait_s=5))
    await asyncio.sleep(0)
    return task


def test_both_run(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = (await alice.ask("invite", name="bobby"))["invite"]
            joining = await join_in_background(bob, line)
            await settle(wire, lambda: are_friends(alice, bob))
            assert (await joining)["state"] == "friends"
        mine, his = homes[0].store.friend("bobby"), homes[1].store.friend("alice")
        assert mine.psk == his.psk == parse_invite(line).friend_psk
        assert mine.signing_key == bytes(homes[1].identity.signing_key.verify_key)
        assert mine.last_endpoint == "192.0.2.2:4242"
        assert homes[0].store.invitations() == [] == homes[1].store.pending_joins()

    play(story)


def test_both_invited_and_joined_before_either_ran(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        homes[0].config = replace(homes[0].config, endpoints=("192.0.2.1:4242",))
        line = (await ask(Control(homes[0]), "invite"))["invite"]
        assert (await ask(Control(homes[1]), "join", invite=line))["state"] == "pending"
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            await settle(wire, lambda: are_friends(alice, bob))
        assert [friend.name for friend in homes[0].store.friends()] == ["bob"]

    play(story)


def test_a_lost_welcome_is_asked_for_again(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = (await alice.ask("invite"))["invite"]
            invite_key = parse_invite(line).invite_key
            await join_in_background(bob, line)
            await settle(wire, lambda: bool(alice.node.peers.friends))
            bob.device._events.clear()
            assert not bob.node.peers.friends
            await settle(wire, lambda: are_friends(alice, bob))
            welcomed = [parse(payload) for key, payload in alice.device.sent if key == invite_key]
            assert len(welcomed) >= 2
            assert all(message == welcomed[0] and isinstance(message, Welcome) for message in welcomed)

    play(story)


def test_an_invitation_is_good_for_one_node_only(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = (await alice.ask("invite"))["invite"]
            await join_in_background(bob, line)
            await settle(wire, lambda: bool(bob.node.peers.friends))
        async with running(homes[0], wire) as alice, running(homes[2], wire) as mallory:
            joining = await join_in_background(mallory, line)
            await settle(wire, joining.done)
            with pytest.raises(JoinRefused):
                joining.result()
            assert not mallory.node.peers.friends
            assert homes[2].store.pending_joins() == []
            assert len(alice.node.peers.friends) == 1

    play(story)


def test_who_is_refused_hears_always_the_same(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = (await alice.ask("invite"))["invite"]
            invite = parse_invite(line)
            bob.device.set_peer(
                invite.inviter,
                address=None,
                psk=invite.invite_psk,
                endpoints=["192.0.2.1:4242"],
                own_private_key=invite.invite_private_key,
            )
            wire.connect()
            good = homes[1].record()
            spoilt = good[:-1] + bytes([good[-1] ^ 1])
            for record in (b"", b"\x01" * 150, homes[0].record(), spoilt):
                bob.device.send_control(invite.inviter, write(Join(record)))
            bob.device.send_control(invite.inviter, b"\xff\xff")
            bob.device.send_control(invite.inviter, write(Refuse()))
            await settle(wire, lambda: [key for key, _ in alice.device.sent].count(invite.invite_key) == 4)
            await settle(wire, lambda: not alice.device._events)
            answers = {payload for key, payload in alice.device.sent if key == invite.invite_key}
            assert answers == {write(Refuse())}
            assert not alice.node.peers.friends

    play(story)


def test_an_expired_invitation_is_forgotten(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice:
            await alice.ask("invite", expires="1s")
            assert alice.device.table
            await settle(wire, lambda: not alice.device.table)
            assert homes[0].store.invitations() == []

    play(story)


def test_a_friend_may_be_invited_anew_after_being_removed_on_one_side(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            for _ in range(2):
                line = (await alice.ask("invite"))["invite"]
                joining = await join_in_background(bob, line)
                await settle(wire, lambda: are_friends(alice, bob))
                assert (await joining)["name"] == "alice"
                await alice.ask("friend_remove", name="bob")
            assert [friend.name for friend in homes[1].store.friends()] == ["alice"]

    play(story)


def test_a_friend_stays_one_when_a_new_invitation_of_theirs_is_refused(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = (await alice.ask("invite"))["invite"]
            await join_in_background(bob, line)
            await settle(wire, lambda: are_friends(alice, bob))
            again = (await alice.ask("invite"))["invite"]
            joining = await join_in_background(bob, again)
            assert (await bob.ask("status"))["friends"][0]["state"] == "connecting"
            bob.device.push(EventKind.CONTROL, homes[0].identity.node_key, write(Refuse()))
            await settle(wire, joining.done)
            with pytest.raises(JoinRefused):
                joining.result()
            assert bob.device.table[homes[0].identity.node_key].psk == homes[1].store.friend("alice").psk
            assert bob.device.table[homes[0].identity.node_key].address == homes[0].identity.address.packed

    play(story)


def test_a_welcome_of_somebody_else_is_none(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[1], wire) as bob:
            homes[0].config = replace(homes[0].config, endpoints=("192.0.2.1:4242",))
            line = (await ask(Control(homes[0]), "invite"))["invite"]
            await ask(bob.control, "join", invite=line, wait_s=0)
            key = homes[0].identity.node_key
            bob.device.push(EventKind.CONTROL, key, write(Welcome(homes[2].record())))
            await settle(wire, lambda: not bob.device._events)
            assert not bob.node.peers.friends
            assert bob.node.joiner.owns(key)

    play(story)


def test_who_was_removed_cannot_come_back_by_the_old_invitation(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice:
            line = (await alice.ask("invite"))["invite"]
            async with running(homes[1], wire) as bob:
                await join_in_background(bob, line)
                await settle(wire, lambda: bool(alice.node.peers.friends))
                assert len(homes[0].store.invitations()) == 1
                await alice.ask("friend_remove", name="bob")
                assert homes[0].store.invitations() == []
                assert alice.device.table == {}

    play(story)


def test_removing_a_friend_withdraws_a_join_of_theirs(homes: list[Home]) -> None:
    async def story() -> None:
        homes[0].config = replace(homes[0].config, endpoints=("192.0.2.1:4242",))
        line = (await ask(Control(homes[0]), "invite"))["invite"]
        async with running(homes[1], Wire()) as bob:
            await ask(bob.control, "friend_add", name="alice", key=await Control(homes[0]).key())
            await ask(bob.control, "join", invite=line, wait_s=0)
            await bob.ask("friend_remove", name="alice")
            assert bob.device.table == {}
            assert homes[1].store.pending_joins() == []

    play(story)


async def befriend_two(wire: Wire, alice: Running, bob: Running) -> str:
    """Make two friends of each other; give the line that did it."""
    line = str((await alice.ask("invite", name="bob"))["invite"])
    await join_in_background(bob, line)
    await settle(wire, lambda: are_friends(alice, bob))
    return line


def test_a_used_line_is_refused_and_the_friend_stays(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = await befriend_two(wire, alice, bob)
            before = dict(bob.device.table)
            for control in (bob.control, Control(homes[1])):
                with pytest.raises(FriendsAlready, match="alice"):
                    await ask(control, "join", invite=line)
            assert bob.device.table == before
            assert homes[1].store.pending_joins() == []

    play(story)


def test_a_line_that_nobody_answers_leaves_a_friend_a_friend(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joiner, "ASK_TIME", 0.05)

    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            await befriend_two(wire, alice, bob)
            key = homes[0].identity.node_key
            invented = Invite(key, b"s" * 32, int(time.time()) + 10 * 365 * 86400, ("192.0.2.1:4242",))
            joining = await join_in_background(bob, write_invite(invented))
            await bob.ask("friend_set", name="alice", values=["floor=1Mbit/s"])
            bob.node.peers.set_keepalive(9.0)
            assert bob.device.table[key].psk == invented.invite_psk
            await settle(wire, joining.done)
            with pytest.raises(FriendsAlready):
                joining.result()
            await settle(wire, lambda: are_friends(alice, bob))
            assert (await bob.ask("status"))["friends"][0]["state"] == "up"
            assert bob.device.table[key].keepalive_s == 9.0
            assert homes[1].store.pending_joins() == []
            assert homes[1].store.friend("alice").floor_bps == 1_000_000

    play(story)


def has_psk(node: Running, key: bytes, psk: bytes) -> bool:
    return node.device.table[key].psk == psk


def test_a_friend_who_is_away_is_met_as_one_between_two_times_of_asking(
    homes: list[Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joiner, "ASK_TIME", 0.01)
    monkeypatch.setattr(joiner, "FRIEND_TIME", 0.01)

    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            await befriend_two(wire, alice, bob)
        key = homes[0].identity.node_key
        async with running(homes[1], wire) as bob:
            new = Invite(key, b"s" * 32, int(time.time()) + 60, ("192.0.2.1:4242",))
            await bob.ask("join", invite=write_invite(new), wait_s=0)
            for psk in (homes[1].store.friend("alice").psk, new.invite_psk) * 2:
                await settle(wire, partial(has_psk, bob, key, psk))
            assert [join["name"] for join in (await bob.ask("status"))["joins"]] == ["alice"]
            async with running(homes[0], wire) as alice:
                await settle(wire, lambda: are_friends(alice, bob))
                await settle(wire, lambda: not homes[1].store.pending_joins())

    play(story)


def test_joins_and_invitations_are_seen_and_withdrawn(homes: list[Home]) -> None:
    async def story() -> None:
        homes[0].config = replace(homes[0].config, endpoints=("192.0.2.1:4242",))
        lines = [(await ask(Control(homes[0]), "invite", name=name))["invite"] for name in ("bob", "carol")]
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], Wire()) as bob:
            await bob.ask("join", invite=lines[0], name="al", wait_s=0)
            (join,) = (await bob.ask("status"))["joins"]
            assert (join["name"], join["key"]) == ("al", await alice.ask("key"))
            with pytest.raises(JoinUnknown):
                await bob.ask("join_cancel", which="alice")
            assert await bob.ask("join_cancel", which="al") == [] == homes[1].store.pending_joins()
            assert bob.device.table == {}
            await bob.ask("join", invite=lines[0], wait_s=0)
            assert await ask(Control(homes[1]), "join_cancel", which=join["id"]) == []
            bob.node.catch_up()
            assert bob.device.table == {}

            shown = (await alice.ask("status"))["invitations"]
            assert [made["name"] for made in shown] == ["bob", "carol"]
            with pytest.raises(InvitationUnknown):
                await alice.ask("invite_cancel", which="dave")
            assert await alice.ask("invite_cancel", which="bob") == shown[1:]
            assert await ask(Control(homes[0]), "invite_cancel", which=shown[1]["id"]) == []
            alice.node.catch_up()
            assert alice.device.table == {}

    play(story)


def test_two_who_type_the_same_line_at_once_hear_the_same(homes: list[Home]) -> None:
    async def story() -> None:
        wire = Wire()
        async with running(homes[0], wire) as alice, running(homes[1], wire) as bob:
            line = (await alice.ask("invite"))["invite"]
            other = (await alice.ask("invite"))["invite"]
            superseded = await join_in_background(bob, other)
            both = [await join_in_background(bob, line) for _ in range(2)]
            await settle(wire, lambda: all(joining.done() for joining in both))
            assert [(await joining)["state"] for joining in both] == ["friends"] * 2
            with pytest.raises(JoinWithdrawn):
                await superseded

    play(story)
