"""Becoming friends, seen from the invited: dial as the invite peer, say who we are until answered, become a friend.

Source: docs/protocol.md §8.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from f2ftun.core.friend import Friend
from f2ftun.core.invitation import befriended, is_consistent
from f2ftun.wire import record as device_record
from f2ftun.wire.invite import Invite

if TYPE_CHECKING:
    from f2ftun.wire.control import Welcome

JOIN_INTERVAL = 1.0
"""Seconds between two `Join`. Source: docs/protocol.md §8."""


@dataclass(frozen=True, slots=True)
class PendingJoin:
    """An invitation given to this node that is not answered yet, and the petname for the inviter, if one was chosen."""

    invite: Invite
    name: str | None = None
    added_at: float = 0.0


def handle_welcome(
    pending: PendingJoin, welcome: Welcome, *, friends: Mapping[bytes, Friend], unix_now: float
) -> Friend | None:
    """Read the inviter's answer: the friend that the inviter now is, or `None` if the record is not the inviter's.

    `friends` are those we have, by node key. The friend keeps the endpoints of the invitation.
    """
    record = device_record.parse(welcome.record)
    if record is None or record.node_key != pending.invite.inviter:
        return None
    if not is_consistent(record, friends.get(record.node_key)):
        return None
    friend = befriended(record, welcome.devices, pending.invite, pending.name, friends, unix_now)
    return replace(friend, endpoints=pending.invite.endpoints or friend.endpoints)
