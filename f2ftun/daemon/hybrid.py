"""Post-quantum keys with every friend who can: who offers, what is repeated, when anew.

Of two friends the one with the lower key offers, within a second of a session that is only classical, and again a day
after the last exchange. An offer is repeated until answered, a few times; a friend whose version or config has no
answer costs no more than that per session. What is agreed lives in this process and in the device, nowhere else.

Source: docs/protocol.md §9.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Protocol

from f2ftun.core.friend import Friend
from f2ftun.core.hybrid import OFFER_INTERVAL, OFFER_SEED_BYTES, Offer, answer, finish, offer, offers
from f2ftun.dataplane import PeerState
from f2ftun.wire.control import KemAnswer, KemOffer, write

CHECK_DELAY: Final = 0.5
"""Seconds in which new sessions are gathered before one look at the device says which are classical."""

REPEAT_INTERVAL: Final = 1.0
MAX_OFFERS: Final = 5
"""An offer is sent this often, a second apart, before it is given up until the next session."""

log = logging.getLogger(__name__)


class Keys(Protocol):
    """What of a device is needed here. Source: f2ftun/dataplane.py."""

    def peers(self) -> list[PeerState]:
        """Read the state of every peer."""

    def send_control(self, key: bytes, payload: bytes) -> bool:
        """Send one control message."""

    def set_hybrid_psk(self, key: bytes, psk: bytes, *, initiate: bool) -> bool:
        """Accept a psk beside the friendship's own."""


@dataclass(slots=True)
class _Pending:
    """An offer that waits: its number, its secret, how often it was sent."""

    epoch: int
    offer: Offer
    sent: int = 0


class Hybrid:
    """The exchanges of one node. `friend_of` finds the friend behind a key."""

    def __init__(self, device: Keys, own_key: bytes, friend_of: Callable[[bytes], Friend | None]) -> None:
        self._device = device
        self._own_key = own_key
        self._friend_of = friend_of
        self._fresh: set[bytes] = set()
        self._pending: dict[bytes, _Pending] = {}
        self._agreed_at: dict[bytes, float] = {}
        self._answered: dict[bytes, tuple[KemOffer, KemAnswer]] = {}

    def handle_session(self, key: bytes) -> None:
        """Look soon whether a new session is classical, if it is ours to offer."""
        if not offers(self._own_key, key):
            return
        if not self._fresh:
            asyncio.get_running_loop().call_later(CHECK_DELAY, self._check)
        self._fresh.add(key)

    def forget(self, key: bytes) -> None:
        """Forget a friend."""
        for table in (self._pending, self._agreed_at, self._answered):
            table.pop(key, None)
        self._fresh.discard(key)

    def close(self) -> None:
        """Forget all that waits; the device is about to stop."""
        self._fresh.clear()
        self._pending.clear()

    def _check(self) -> None:
        """Offer to those whose session is classical or whose last exchange is a day old."""
        fresh, self._fresh = self._fresh, set()
        if not fresh:
            return
        for key in self._due(state for state in self._device.peers() if state.key in fresh):
            self._pending[key] = _Pending(int.from_bytes(os.urandom(8)), offer(os.urandom(OFFER_SEED_BYTES)))
            self._send(key)

    def _due(self, states: Iterable[PeerState]) -> list[bytes]:
        """Choose those to offer to."""
        old = time.monotonic() - OFFER_INTERVAL
        return [
            state.key
            for state in states
            if state.key not in self._pending
            and (not state.hybrid or self._agreed_at.get(state.key, time.monotonic()) < old)
        ]

    def _send(self, key: bytes) -> None:
        """Send an offer, and again until it is answered or was sent often enough."""
        pending = self._pending.get(key)
        if pending is None:
            return
        if pending.sent == MAX_OFFERS or self._friend_of(key) is None:
            del self._pending[key]
            return
        pending.sent += 1
        self._device.send_control(key, write(KemOffer(pending.epoch, pending.offer.key)))
        asyncio.get_running_loop().call_later(REPEAT_INTERVAL, self._send_again, key, pending)

    def _send_again(self, key: bytes, pending: _Pending) -> None:
        """Repeat an offer if it is still the one that waits."""
        if self._pending.get(key) is pending:
            self._send(key)

    def handle_offer(self, key: bytes, message: KemOffer) -> None:
        """Answer a friend's offer; a repeated one with the same answer. The new psk is accepted before they know it."""
        friend = self._friend_of(key)
        if friend is None or not offers(key, self._own_key):
            return
        known = self._answered.get(key)
        if known is None or known[0] != message:
            made = answer(message.key, friend.psk)
            if made is None:
                return
            known = (message, KemAnswer(message.epoch, made[0]))
            self._answered[key] = known
            self._device.set_hybrid_psk(key, made[1], initiate=False)
        self._device.send_control(key, write(known[1]))

    def handle_answer(self, key: bytes, message: KemAnswer) -> None:
        """Take the answer to our offer and begin a handshake with what it gives."""
        friend = self._friend_of(key)
        pending = self._pending.get(key)
        if friend is None or pending is None or pending.epoch != message.epoch:
            return
        psk = finish(pending.offer, message.ciphertext, friend.psk)
        if psk is None:
            return
        del self._pending[key]
        self._agreed_at[key] = time.monotonic()
        self._device.set_hybrid_psk(key, psk, initiate=True)
