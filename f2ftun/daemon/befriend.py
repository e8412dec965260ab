"""Invitations, both ends, on a running node: invite peers in the device, joins that wait for their answer.

The inviter accepts each invitation's one-time *invite peer* until it expires; who joins is judged by
`core.invitation`. The invited node dials as the invite peer and says `Join` every second until answered. An inviter
who is a friend already stays one: they are asked for `ASK_TIME` and then met as the friend they are, and if they
answer as that, the invitation is not needed. Both sides store what they agreed before they say so, and each then
dials the other as what they are. The inviter forgets the invitation when the first session
with the new friend stands.

Source: docs/protocol.md §8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, Protocol

from f2ftun.core.friend import Friend
from f2ftun.core.invitation import Door, Invitation, Refused, Welcomed
from f2ftun.core.join import JOIN_INTERVAL, PendingJoin, handle_welcome
from f2ftun.daemon.home import Home
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


class InvitePeers(Protocol):
    """What of a device is needed here. Source: f2ftun/dataplane.py."""

    def set_peer(
        self,
        key: bytes,
        *,
        address: bytes | None,
        psk: bytes,
        endpoints: list[str],
        keepalive_s: float,
        own_private_key: bytes | None = None,
    ) -> None:
        """Add or change a peer."""

    def remove_peer(self, key: bytes) -> bool:
        """Forget a peer."""

    def dial(self, key: bytes) -> bool:
        """Try all endpoints of a peer now."""

    def send_control(self, key: bytes, payload: bytes) -> bool:
        """Send one control message."""


class Inviter:
    """The invitations that this node made. `befriended` makes a friend a peer of the device."""

    def __init__(self, device: InvitePeers, home: Home, peers: Peers, befriended: Callable[[Friend], None]) -> None:
        self._device = device
        self._home = home
        self._peers = peers
        self._befriended = befriended
        self._invitations: dict[bytes, Invitation] = {}
        self._doors: dict[bytes, Door] = {}
        self._endpoints: dict[bytes, str] = {}

    def open(self) -> None:
        """Accept the invite peers of all invitations that are stored, and of no others."""
        stored = self._home.store.invitations()
        for key in self._invitations.keys() - {invitation.invite.invite_key for invitation in stored}:
            self.withdraw(key)
        for invitation in stored:
            if not self.owns(invitation.invite.invite_key):
                self.accept(invitation)

    def close(self) -> None:
        """Let go of all invitations; the store keeps them, the device is about to stop."""
        self._invitations.clear()

    def accept(self, invitation: Invitation) -> None:
        """Accept an invite peer until the invitation expires."""
        invite = invitation.invite
        left = invite.expires_at - time.time()
        if left <= 0:
            self._home.store.remove_invitation(invite.invite_key)
            return
        self._invitations[invite.invite_key] = invitation
        self._device.set_peer(invite.invite_key, address=None, psk=invite.invite_psk, endpoints=[], keepalive_s=0.0)
        asyncio.get_running_loop().call_later(min(left, 86400.0), self._expire, invite.invite_key)

    def _expire(self, key: bytes) -> None:
        """Forget an invitation whose time is over; look again tomorrow if it has more than a day."""
        invitation = self._invitations.get(key)
        if invitation is None:
            return
        left = invitation.invite.expires_at - time.time()
        if left > 0:
            asyncio.get_running_loop().call_later(min(left, 86400.0), self._expire, key)
        else:
            self.withdraw(key)

    def withdraw(self, key: bytes) -> None:
        """Forget an invitation, here, in the store and in the device."""
        self._invitations.pop(key, None)
        self._doors.pop(key, None)
        self._endpoints.pop(key, None)
        self._device.remove_peer(key)
        self._home.store.remove_invitation(key)

    def owns(self, key: bytes) -> bool:
        """Say whether a peer is one of these invite peers."""
        return key in self._invitations

    def handle_endpoint(self, key: bytes, endpoint: str) -> None:
        """Remember where an invite peer is: the friend it becomes is there too."""
        self._endpoints[key] = endpoint

    def forget_friend(self, key: bytes) -> None:
        """Forget the invitation from which a friend came: it has served, or they are none any more."""
        for invite_key, invitation in list(self._invitations.items()):
            if invitation.bound_key == key:
                self.withdraw(invite_key)

    def handle_message(self, key: bytes, message: Message | None) -> None:
        """Answer an invite peer; it can say nothing but `Join`."""
        if not isinstance(message, Join):
            return
        verdict = self._doors.setdefault(key, Door()).handle_join(
            self._invitations[key],
            message,
            own_key=self._home.identity.node_key,
            friends=self._peers.friends,
            now=time.monotonic(),
            unix_now=time.time(),
        )
        if isinstance(verdict, Welcomed):
            self._welcome(key, verdict)
        elif isinstance(verdict, Refused):
            log.info("an invitation was refused: %s", verdict.reason)
            self._device.send_control(key, write(Refuse()))

    def _welcome(self, key: bytes, verdict: Welcomed) -> None:
        """Store the new friend and say so; a `Join` that was repeated is only answered again."""
        known = self._peers.friends.get(verdict.friend.key)
        if known is None or known.psk != verdict.friend.psk:
            friend = replace(verdict.friend, last_endpoint=self._endpoints.get(key, verdict.friend.last_endpoint))
            self._home.store.befriend(friend, verdict.invitation)
            self._invitations[key] = verdict.invitation
            self._befriended(friend)
            log.info("%s is a friend now", friend.name)
        self._device.send_control(key, write(Welcome(self._home.record(), self._home.devices())))


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
