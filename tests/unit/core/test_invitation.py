from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from f2ftun.core.friend import Friend, Trust
from f2ftun.core.identity import Identity
from f2ftun.core.invitation import MAX_TRIES, TRIES_INTERVAL, Door, Ignored, Invitation, Refused, Verdict, Welcomed
from f2ftun.wire import devices, record
from f2ftun.wire.control import Join
from f2ftun.wire.invite import Invite
from tests.unit.shared import identity

ALICE, BOB, CAROL, EVE = (identity(number) for number in range(4))
INVITE = Invite(ALICE.node_key, bytes(range(32)), 1000, ())
INVITATION = Invitation(INVITE, "bob")


def join_of(node: Identity, name: str = "bob", *, signer: Identity | None = None) -> Join:
    signing_key = (signer or node).signing_key
    return Join(record.write(record.sign(signing_key, node.node_key, name, 1)))


def knock(
    door: Door,
    join: Join,
    *,
    invitation: Invitation = INVITATION,
    friends: tuple[Friend, ...] = (),
    now: float = 0.0,
    unix_now: float = 999.0,
) -> Verdict:
    known = {friend.key: friend for friend in friends}
    return door.handle_join(invitation, join, own_key=ALICE.node_key, friends=known, now=now, unix_now=unix_now)


def welcomed(verdict: Verdict) -> Welcomed:
    assert isinstance(verdict, Welcomed)
    return verdict


def test_the_first_who_joins_becomes_the_friend() -> None:
    verdict = welcomed(knock(Door(), join_of(BOB)))
    assert verdict.invitation == replace(INVITATION, bound_key=BOB.node_key)
    signing_key = bytes(BOB.signing_key.verify_key)
    assert verdict.friend == Friend("bob", BOB.node_key, signing_key, INVITE.friend_psk, added_at=999.0)


def test_the_same_join_is_welcomed_again_however_often() -> None:
    door = Door()
    bound = welcomed(knock(door, join_of(BOB))).invitation
    for second in range(100):
        assert isinstance(knock(door, join_of(BOB), invitation=bound, now=second / 10), Welcomed)


def test_after_a_restart_the_bound_node_is_welcomed_and_no_other() -> None:
    bound = replace(INVITATION, bound_key=BOB.node_key)
    assert isinstance(knock(Door(), join_of(BOB), invitation=bound), Welcomed)
    assert knock(Door(), join_of(CAROL), invitation=bound) == Refused("bound")


@pytest.mark.parametrize(
    ("join", "unix_now", "reason"),
    [
        (join_of(BOB), 1000.0, "expired"),
        (join_of(BOB), 10**10, "expired"),
        (join_of(ALICE), 999.0, "self"),
        (Join(b""), 999.0, "malformed"),
        (Join(b"\xff" * 2000), 999.0, "malformed"),
        (Join(join_of(BOB).record + b"\0"), 999.0, "malformed"),
        (Join(join_of(BOB).record[:-1] + b"\0"), 999.0, "malformed"),
    ],
)
def test_what_is_refused(join: Join, unix_now: float, reason: str) -> None:
    verdict = knock(Door(), join, unix_now=unix_now)
    assert isinstance(verdict, Refused)
    assert verdict.reason == reason


def test_five_tries_a_minute_are_looked_at() -> None:
    door = Door()
    for number in range(MAX_TRIES):
        assert isinstance(knock(door, Join(b"guess"), now=float(number)), Refused)
    assert knock(door, join_of(BOB), now=MAX_TRIES) == Ignored()
    assert knock(door, join_of(BOB), now=TRIES_INTERVAL - 0.001) == Ignored()
    assert isinstance(knock(door, join_of(BOB), now=TRIES_INTERVAL), Welcomed)


@given(st.lists(st.floats(0.0, 50.0), max_size=100))
def test_however_the_tries_are_spread_at_most_five_in_any_minute_are_looked_at(gaps: list[float]) -> None:
    door, now, looked = Door(), 0.0, []
    for gap in gaps:
        now += gap
        if not isinstance(knock(door, Join(b"guess"), now=now), Ignored):
            looked.append(now)
    for at in looked:
        assert sum(at <= other < at + TRIES_INTERVAL for other in looked) <= MAX_TRIES


def test_a_friend_we_have_gets_the_new_psk_and_keeps_the_rest() -> None:
    known = Friend("robert", BOB.node_key, None, bytes(32), ("192.0.2.1:1",), trust=Trust.CLOSE, added_at=5.0)
    friend = welcomed(knock(Door(), join_of(BOB), friends=(known,))).friend
    expected = replace(known, psk=INVITE.friend_psk, signing_key=bytes(BOB.signing_key.verify_key))
    assert friend == expected


def test_whoever_holds_the_invitation_cannot_replace_a_friends_signing_key() -> None:
    known = Friend("robert", BOB.node_key, bytes(BOB.signing_key.verify_key))
    assert knock(Door(), join_of(BOB, signer=EVE), friends=(known,)) == Refused("impostor")


@pytest.mark.parametrize(
    ("petname", "said", "taken", "chosen"),
    [
        ("rob", "bob", [], "rob"),
        (None, "bob", [], "bob"),
        (None, "bob", ["bob"], "bob-2"),
        ("rob", "x", ["rob"], "rob-2"),
    ],
)
def test_the_petname_goes_before_what_the_node_calls_itself(
    petname: str | None, said: str, taken: list[str], chosen: str
) -> None:
    friends = tuple(Friend(name, CAROL.node_key) for name in taken)
    verdict = knock(Door(), join_of(BOB, said), invitation=Invitation(INVITE, petname), friends=friends)
    assert welcomed(verdict).friend.name == chosen


def test_a_user_with_several_devices_is_known_by_their_list() -> None:
    user = SigningKey(bytes(range(32)))
    own = devices.write(devices.sign(user, [BOB.node_key, CAROL.node_key], 1))
    others = devices.write(devices.sign(user, [CAROL.node_key], 1))
    for listed, expected in ((own, bytes(user.verify_key)), (others, None), (b"junk", None), (own[:-1] + b"\0", None)):
        join = replace(join_of(BOB), devices=listed)
        assert welcomed(knock(Door(), join)).friend.user_key == expected


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_refused(said: bytes, listed: bytes) -> None:
    assert knock(Door(), Join(said, listed)) == Refused("malformed")
