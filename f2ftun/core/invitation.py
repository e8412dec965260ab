"""Becoming friends, seen from the inviter: an invitation is good once, until it expires, for the first who joins.

The first node whose record is good becomes the friend, and the invitation is bound to its node key; its `Join` may be
repeated and is welcomed each time, so that a lost answer harms nobody. Any other is refused, always in the same way,
and at most five tries a minute are looked at, so that an invitation in wrong hands tells nothing and costs little.

Source: docs/protocol.md §8.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from f2ftun.core.friend import Friend
from f2ftun.wire import devices as device_list
from f2ftun.wire import record as device_record
from f2ftun.wire.invite import Invite
from f2ftun.wire.name import choose_name
from f2ftun.wire.record import DeviceRecord

if TYPE_CHECKING:
    from f2ftun.wire.control import Join

MAX_TRIES = 5
TRIES_INTERVAL = 60.0
"""At most five tries in these seconds are looked at. Source: docs/protocol.md §8, docs/security.md C11."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation that this node made: what it said, the petname for whoever joins, and the node key that did."""

    invite: Invite
    name: str | None = None
    bound_key: bytes | None = None
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Welcomed:
    """Answer `Welcome`, keep `friend` (new, or changed by the new invitation) and the invitation as it is now bound."""

    invitation: Invitation
    friend: Friend


@dataclass(frozen=True, slots=True)
class Refused:
    """Answer `Refuse`, whatever the reason was."""

    reason: Literal["expired", "malformed", "bound", "self", "impostor"]


@dataclass(frozen=True, slots=True)
class Ignored:
    """Answer nothing: there were too many tries."""


Verdict = Welcomed | Refused | Ignored


@dataclass(slots=True)
class Door:
    """Judges who knocks at one invitation; remembers when, and the last join that was welcomed."""

    tries: deque[float] = field(default_factory=lambda: deque(maxlen=MAX_TRIES))
    welcomed: tuple[Join, Welcomed] | None = None

    def handle_join(
        self,
        invitation: Invitation,
        join: Join,
        *,
        own_key: bytes,
        friends: Mapping[bytes, Friend],
        now: float,
        unix_now: float,
    ) -> Verdict:
        """Judge a `Join`. `friends` are those we have, by node key; `now` is monotonic, `unix_now` the wall clock."""
        if self.welcomed is not None and self.welcomed[0] == join:
            return self.welcomed[1]
        if len(self.tries) == MAX_TRIES and now - self.tries[0] < TRIES_INTERVAL:
            return Ignored()
        self.tries.append(now)
        verdict = _judged(invitation, join, own_key, friends, unix_now)
        if isinstance(verdict, Welcomed):
            self.welcomed = join, verdict
        return verdict


def _judged(
    invitation: Invitation, join: Join, own_key: bytes, friends: Mapping[bytes, Friend], unix_now: float
) -> Welcomed | Refused:
    record = device_record.parse(join.record)
    if record is None:
        return Refused("malformed")
    if invitation.invite.expired(unix_now):
        return Refused("expired")
    if invitation.bound_key not in (None, record.node_key):
        return Refused("bound")
    if record.node_key == own_key:
        return Refused("self")
    if not is_consistent(record, friends.get(record.node_key)):
        return Refused("impostor")
    friend = befriended(record, join.devices, invitation.invite, invitation.name, friends, unix_now)
    return Welcomed(replace(invitation, bound_key=record.node_key), friend)


def is_consistent(record: DeviceRecord, known: Friend | None) -> bool:
    """Say whether a record may stand for a friend we know: a signing key, once known, does not change by invitation."""
    return known is None or known.signing_key in (None, record.signing_key)


def befriended(
    record: DeviceRecord,
    devices: bytes,
    invite: Invite,
    name: str | None,
    friends: Mapping[bytes, Friend],
    unix_now: float,
) -> Friend:
    """Make a friend of a record and an invitation, under a name that is free; one we have keeps all but the keys."""
    keys: dict[str, Any] = {
        "signing_key": record.signing_key,
        "psk": invite.friend_psk,
        "user_key": user_key(record, devices),
    }
    known = friends.get(record.node_key)
    if known is not None:
        return replace(known, **keys)
    taken = frozenset(friend.name for friend in friends.values())
    chosen = choose_name(name or record.name, taken)
    return Friend(chosen, record.node_key, added_at=unix_now, **keys)


def user_key(record: DeviceRecord, devices: bytes) -> bytes | None:
    """Read which user a device belongs to: the signer of a good list that names it, or nobody."""
    listed = device_list.parse(devices)
    return listed.user_key if listed is not None and record.node_key in listed.devices else None
