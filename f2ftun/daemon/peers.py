"""Friends as peers of the device: the one place that says what the data plane knows of a friend.

A friend's candidates, all tried at once, are: where they were last, what a person or an invitation told, what names
resolve to, and what they told us themselves. A friend who said goodbye is down from that moment, whatever the device
still hopes, until the next session.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, Protocol

from f2ftun.core.friend import Friend
from f2ftun.errors import EndpointUnreadable
from f2ftun.wire.endpoint import parse_endpoint

log = logging.getLogger(__name__)

MAX_CANDIDATES: Final = 16
"""Endpoints that one friend is dialled at, as many as a device takes; each costs a datagram of 153 bytes per try."""


class PeerTable(Protocol):
    """What of a device is needed here. Source: f2ftun/dataplane.py."""

    def set_peer(
        self, key: bytes, *, address: bytes | None, psk: bytes, endpoints: list[str], keepalive_s: float
    ) -> None:
        """Add or change a peer."""

    def remove_peer(self, key: bytes) -> bool:
        """Forget a peer."""

    def dial(self, key: bytes) -> bool:
        """Try all endpoints of a peer now."""


class Peers:
    """The friends of a running node, by node key."""

    def __init__(self, device: PeerTable, keepalive_s: float) -> None:
        self.friends: dict[bytes, Friend] = {}
        self._device = device
        self._keepalive_s = keepalive_s
        self._resolved: dict[bytes, tuple[str, ...]] = {}
        self._departed: set[bytes] = set()
        self._lent: set[bytes] = set()

    def put(self, friend: Friend) -> None:
        """Make a friend a peer, or apply what changed of one; a session goes on where keys and psk stay."""
        self.friends[friend.key] = friend
        if friend.key in self._lent:
            return
        try:
            self._set(friend, self.candidates(friend))
        except ValueError as error:
            log.error("the endpoints of %s are not used: %s", friend.name, error)
            self._set(friend, [])

    def _set(self, friend: Friend, endpoints: list[str]) -> None:
        """Tell the device."""
        self._device.set_peer(
            friend.key,
            address=friend.address.packed,
            psk=friend.psk,
            endpoints=endpoints,
            keepalive_s=self._keepalive_s,
        )

    def lend(self, key: bytes) -> None:
        """Leave a peer to whoever asks them as an inviter; what changes of the friend meanwhile is only remembered."""
        self._lent.add(key)
        self._device.remove_peer(key)

    def take_back(self, key: bytes) -> None:
        """Have a peer back, unknown to the device; nothing happens if they were not lent."""
        if key in self._lent:
            self._lent.discard(key)
            self._device.remove_peer(key)

    def note(self, friend: Friend) -> None:
        """Remember what changed of a friend where the device need not know."""
        self.friends[friend.key] = friend

    def drop(self, key: bytes) -> None:
        """Forget a friend, their session and all that was learnt of them."""
        self._device.remove_peer(key)
        self.friends.pop(key, None)
        self._resolved.pop(key, None)
        self._departed.discard(key)
        self._lent.discard(key)

    def set_keepalive(self, keepalive_s: float) -> None:
        """Change the keepalive of all."""
        self._keepalive_s = keepalive_s
        for friend in list(self.friends.values()):
            self.put(friend)

    def learn(self, key: bytes, resolved: Iterable[str]) -> bool:
        """Replace what a friend's names resolve to; say whether that changed anything."""
        kept = tuple(resolved)[:MAX_CANDIDATES]
        if self._resolved.get(key, ()) == kept or key not in self.friends:
            return False
        self._resolved[key] = kept
        self.put(self.friends[key])
        return True

    def candidates(self, friend: Friend) -> list[str]:
        """Give a friend's literal endpoints, the most promising first, each once."""
        last = (friend.last_endpoint,) if friend.last_endpoint else ()
        every = (*last, *friend.endpoints, *self._resolved.get(friend.key, ()), *friend.told_endpoints)
        return [text for text in dict.fromkeys(every) if is_literal(text)][:MAX_CANDIDATES]

    def depart(self, key: bytes) -> None:
        """Hold a friend for down until the next session."""
        self._departed.add(key)

    def arrive(self, key: bytes) -> None:
        """Hear of a session."""
        self._departed.discard(key)

    def departed(self, key: bytes) -> bool:
        """Say whether a friend said goodbye and did not come back."""
        return key in self._departed


@lru_cache(maxsize=16384)
def is_literal(text: str) -> bool:
    """Say whether an endpoint is an address and needs no resolving."""
    try:
        return parse_endpoint(text).literal
    except EndpointUnreadable:
        return False
