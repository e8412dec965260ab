from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from f2ftun.core.friend import Friend
from f2ftun.core.identity import Identity
from f2ftun.core.join import PendingJoin, handle_welcome
from f2ftun.wire import record
from f2ftun.wire.control import Welcome
from f2ftun.wire.invite import Invite
from tests.unit.shared import identity

ALICE, BOB, EVE = (identity(number) for number in range(3))
INVITE = Invite(ALICE.node_key, bytes(range(32)), 1000, ("192.0.2.1:1",))
PENDING = PendingJoin(INVITE, "ally")


def welcome_of(node: Identity, signer: Identity) -> Welcome:
    return Welcome(record.write(record.sign(signer.signing_key, node.node_key, "alice", 1)))


def test_the_inviter_becomes_the_friend() -> None:
    signing_key = bytes(ALICE.signing_key.verify_key)
    expected = Friend("ally", ALICE.node_key, signing_key, INVITE.friend_psk, INVITE.endpoints, added_at=5.0)
    assert handle_welcome(PENDING, welcome_of(ALICE, ALICE), friends={}, unix_now=5.0) == expected
    unnamed = handle_welcome(PendingJoin(INVITE), welcome_of(ALICE, ALICE), friends={}, unix_now=5.0)
    assert unnamed == replace(expected, name="alice")


def test_the_friendship_is_the_same_at_both_ends() -> None:
    friend = handle_welcome(PENDING, welcome_of(ALICE, ALICE), friends={}, unix_now=5.0)
    assert friend is not None
    assert friend.psk == Invite(ALICE.node_key, INVITE.secret, 7, ()).friend_psk


def test_a_record_that_is_not_the_inviters_is_passed_over() -> None:
    assert handle_welcome(PENDING, welcome_of(EVE, EVE), friends={}, unix_now=5.0) is None
    known = Friend("ally", ALICE.node_key, bytes(ALICE.signing_key.verify_key))
    assert handle_welcome(PENDING, welcome_of(ALICE, EVE), friends={known.key: known}, unix_now=5.0) is None


def test_a_friend_we_have_keeps_their_endpoints_if_the_invitation_has_none() -> None:
    known = Friend("ally", ALICE.node_key, endpoints=("198.51.100.1:9",))
    pending = PendingJoin(replace(INVITE, endpoints=()))
    friend = handle_welcome(pending, welcome_of(ALICE, ALICE), friends={known.key: known}, unix_now=5.0)
    assert friend is not None
    assert friend.endpoints == known.endpoints


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_passed_over(said: bytes, listed: bytes) -> None:
    assert handle_welcome(PENDING, Welcome(said, listed), friends={}, unix_now=5.0) is None
