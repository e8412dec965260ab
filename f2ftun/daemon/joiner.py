"""The invitations that this node was given and that wait for their answer, while it runs.

It dials as the invite peer and says `Join` every second until answered. An inviter who is a friend already stays one:
they are asked for `ASK_TIME` and then met as the friend they are, and if they answer as that, the invitation is not
needed. What was agreed is stored before anything is done about it.

Source: docs/protocol.md §8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

from f2ftun.core.friend import Friend
from f2ftun.core.join import JOIN_INTERVAL, PendingJoin, handle_welcome
from f2ftun.daemon.home import Home
from f2ftun.daemon.invite_peer import InvitePeers
from f2ftun.daemon.peers import MAX_CANDIDATES, Peers, is_literal
from f2ftun.daemon.rendezvous import MAX_RESOLVE_INTERVAL, RESOLVE_INTERVAL, lookup
from f2ftun.errors import F2ftunError, FriendsAlready, JoinRefused, JoinWithdrawn
from f2ftun.wire.control import Join, Message, Refuse, Welcome, write
from f2ftun.wire.endpoint import parse_endpoint

JOIN_KEEPALIVE: Final = 10.0
"""Seconds; an invite peer's session is used up within a second, this only keeps a NAT open while the other is away."""

ASK_TIME: Final = 3.0
"""Seconds in which a friend is asked as an inviter, and is no friend to the device: time for two `Join`."""

FRIEND_TIME: Final = 10.0
"""Seconds in which such a friend is then met as one, before they are asked again; a friend who is there needs one."""

log = logging.getLogger(__name__)


class Joiner:
    """The invitations that this node was given and that are not answered yet, by the inviter's key."""

    def __init__(
        self,
        device: InvitePeers,
        home: Home,
        peers: Peers,
        befriended: Callable[[Friend], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._device = device
        self._home = home
        self._peers = peers
        self._befriended = befriended
        self._spawn = spawn
        self._pending: dict[bytes, PendingJoin] = {}
        self._asked: set[bytes] = set()
        self._resolved: dict[bytes, list[str]] = {}
        self._done: dict[bytes, asyncio.Future[Friend]] = {}

    def open(self) -> None:
        """Go on with all joins that are stored, and with no others."""
        stored = {pending.invite.inviter: pending for pending in self._home.store.pending_joins()}
        for key in self._pending.keys() - stored.keys():
            self.withdraw(key)
        for key, pending in stored.items():
            if self._pending.get(key, pending).invite != pending.invite or key not in self._pending:
                self.begin(pending)

    def owns(self, key: bytes) -> bool:
        """Say whether a peer is an inviter who is being asked, and no friend just now."""
        return key in self._asked

    def close(self) -> None:
        """Let go of all joins; the store keeps them, the device is about to stop."""
        self._pending.clear()

    def begin(self, pending: PendingJoin) -> asyncio.Future[Friend]:
        """Dial an inviter as the invite peer; the friend comes of it, or `JoinRefused`."""
        key = pending.invite.inviter
        loop = asyncio.get_running_loop()
        if key in self._pending and self._pending[key].invite == pending.invite:
            self._pending[key] = replace(self._pending[key], name=pending.name)
            return self._done[key]
        if key in self._pending and not self._done[key].done():
            self._done[key].set_exception(JoinWithdrawn())
        done = self._done[key] = loop.create_future()
        done.add_done_callback(_heard)
        self._pending[key] = pending
        self._resolved[key] = []
        self._ask(key, pending)
        self._spawn(self._find(pending))
        loop.call_later(max(0.0, pending.invite.expires_at - time.time()), self._expire, key, pending)
        self._say(key, pending)
        return done

    def _ask(self, key: bytes, pending: PendingJoin) -> None:
        """Meet an inviter as the invite peer, a friend for a while only."""
        if self._pending.get(key) is not pending:
            return
        self._peers.lend(key)
        self._asked.add(key)
        self._set_invite_peer(pending)
        asyncio.get_running_loop().call_later(ASK_TIME, self._rest, key, pending)

    def _rest(self, key: bytes, pending: PendingJoin) -> None:
        """Meet an inviter who is a friend already as one for a while; go on asking who is none."""
        if self._pending.get(key) is not pending:
            return
        loop = asyncio.get_running_loop()
        if key not in self._peers.friends:
            loop.call_later(ASK_TIME, self._rest, key, pending)
            return
        self._meet_friend(key)
        loop.call_later(FRIEND_TIME, self._ask, key, pending)

    def _meet_friend(self, key: bytes) -> None:
        """Make an inviter again the friend that they are, if they are one."""
        self._asked.discard(key)
        self._peers.take_back(key)
        known = self._peers.friends.get(key)
        if known is not None:
            self._befriended(known)

    def _set_invite_peer(self, pending: PendingJoin) -> None:
        """Make the inviter a peer whom we meet as the invite peer."""
        invite = pending.invite
        literal = (text for text in invite.endpoints if is_literal(text))
        self._device.set_peer(
            invite.inviter,
            address=None,
            psk=invite.invite_psk,
            endpoints=[*literal, *self._resolved[invite.inviter]][:MAX_CANDIDATES],
            keepalive_s=JOIN_KEEPALIVE,
            own_private_key=invite.invite_private_key,
        )
        self._device.dial(invite.inviter)

    async def _find(self, pending: PendingJoin) -> None:
        """Resolve an inviter's names until they answer, ever more rarely."""
        names = [parse_endpoint(text) for text in pending.invite.endpoints if not is_literal(text)]
        interval = RESOLVE_INTERVAL
        while names and self._pending.get(pending.invite.inviter) is pending:
            found = [text for name in names for text in await lookup(name)]
            if self._pending.get(pending.invite.inviter) is pending:
                self._resolved[pending.invite.inviter] = found
                if self.owns(pending.invite.inviter):
                    self._set_invite_peer(pending)
            await asyncio.sleep(interval)
            interval = min(2 * interval, MAX_RESOLVE_INTERVAL)

    def _say(self, key: bytes, pending: PendingJoin) -> None:
        """Say `Join` now, and every second until answered; without a session it goes nowhere and costs nothing."""
        if self._pending.get(key) is pending:
            if self.owns(key):
                self.handle_session(key)
            asyncio.get_running_loop().call_later(JOIN_INTERVAL, self._say, key, pending)

    def forget_friend(self, key: bytes) -> None:
        """Forget an invitation of somebody who is not to be a friend any more."""
        self.withdraw(key)

    def withdraw(self, key: bytes) -> None:
        """Ask somebody no more, if they are asked."""
        if key in self._pending:
            self._give_up(key, JoinWithdrawn())

    def handle_friend(self, key: bytes) -> None:
        """Hear that somebody answers as the friend they are: what they would have to be asked for stands."""
        if key in self._pending:
            self._give_up(key, FriendsAlready(name=self._peers.friends[key].name))

    def handle_session(self, key: bytes) -> None:
        """Say `Join` as soon as there is a session to say it on."""
        self._device.send_control(key, write(Join(self._home.record(), self._home.devices())))

    def handle_message(self, key: bytes, message: Message | None) -> None:
        """Take the inviter's answer."""
        if isinstance(message, Refuse):
            self._give_up(key, JoinRefused())
        elif isinstance(message, Welcome):
            self._welcomed(key, message)

    def _welcomed(self, key: bytes, message: Welcome) -> None:
        """Become a friend, if the answer is the inviter's own."""
        pending = self._pending[key]
        friend = handle_welcome(pending, message, friends=self._peers.friends, unix_now=time.time())
        if friend is None:
            return
        self._home.store.befriend(friend, pending)
        self._peers.note(friend)
        done = self._leave(key)
        log.info("%s is a friend now", friend.name)
        if not done.done():
            done.set_result(friend)

    def _expire(self, key: bytes, pending: PendingJoin) -> None:
        """Give up when the invitation's time is over."""
        if self._pending.get(key) is pending:
            self._give_up(key, JoinRefused())

    def _give_up(self, key: bytes, reason: F2ftunError) -> None:
        """Forget an invitation that is not used; who was a friend before stays one."""
        log.info("an invitation was not used: %s", reason)
        self._home.store.remove_pending_join(key)
        done = self._leave(key)
        if not done.done():
            done.set_exception(reason)

    def _leave(self, key: bytes) -> asyncio.Future[Friend]:
        """End the inviter's part as one whom we ask; give the one who waits."""
        del self._pending[key], self._resolved[key]
        if self.owns(key):
            self._meet_friend(key)
        return self._done.pop(key)


def _heard(done: asyncio.Future[Friend]) -> None:
    """Take note of a refusal for which nobody waits any more."""
    if not done.cancelled():
        done.exception()
