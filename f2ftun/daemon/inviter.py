"""The invitations that this node made, while it runs.

It accepts each invitation's one-time *invite peer* until it expires; who joins is judged by `core.invitation`. What was
agreed is stored before it is said; then each dials the other as what they are. The invitation is forgotten when the
first session with the new friend stands.

Source: docs/protocol.md §8.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from f2ftun.core.friend import Friend
from f2ftun.core.invitation import Door, Invitation, Refused, Welcomed
from f2ftun.daemon.home import Home
from f2ftun.daemon.invite_peer import InvitePeers
from f2ftun.daemon.peers import Peers
from f2ftun.wire.control import Join, Message, Refuse, Welcome, write

log = logging.getLogger(__name__)


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
