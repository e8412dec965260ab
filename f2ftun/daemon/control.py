"""The verbs: what the command line, scripts and later the web ask of a node, one method each.

They have the names of `api/schema`. The same object serves a running node and one that does not run: what is to last
is written to the store first, then, if the node runs, applied to it at once. Arguments were checked for their kind by
the schema; what they mean is checked here, before anything is changed.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, Final, NoReturn

from f2ftun.api.schema import Request
from f2ftun.core.friend import Friend, changed, parse_setting
from f2ftun.core.invitation import Invitation
from f2ftun.core.join import PendingJoin
from f2ftun.core.rule import Rule, parse_rule
from f2ftun.daemon.home import Home, Lock
from f2ftun.errors import (
    ConfigExists,
    FriendIsSelf,
    FriendNameTaken,
    FriendsAlready,
    FriendUnknown,
    InvitationUnknown,
    InviteExpired,
    InviteOwn,
    InviteUnreachable,
    JoinUnknown,
    NodeNotRunning,
    TargetUnknown,
)
from f2ftun.wire import invite as invite_line
from f2ftun.wire.endpoint import OVERLAY
from f2ftun.wire.invite import SECRET_BYTES, Invite
from f2ftun.wire.key import SUFFIX, address_of, parse_key, write_key
from f2ftun.wire.name import parse_name
from f2ftun.wire.quantity import parse_duration

if TYPE_CHECKING:
    from f2ftun.daemon.node import Node
    from f2ftun.daemon.ping import Pinger

INVITE_LIFETIME: Final = 7 * 86400
"""Seconds that an invitation is good for, unless said otherwise: a friend reads his mail within a week."""

PING_INTERVAL: Final = 0.2
"""Seconds between the echo requests of one `ping`, as ping6 allows everybody."""

Value = dict[str, Any]


class Control:
    """The verbs of one node; `node` and `pinger` only when it runs."""

    def __init__(self, home: Home, node: Node | None = None, pinger: Pinger | None = None) -> None:
        self._home = home
        self._node = node
        self._pinger = pinger

    async def answer(self, request: Request) -> object:
        """Do what was asked and give the value. Raises an `F2ftunError` that says why not."""
        return await getattr(self, request.verb.name)(**request.args)

    @property
    def _running(self) -> Node:
        """The node, for verbs that need it to run."""
        if self._node is None:
            raise NodeNotRunning(config=self._home.config.path)
        return self._node

    # The node

    async def init(self, **_: str | None) -> NoReturn:
        """Refuse to make a node where there is one."""
        raise ConfigExists(path=self._home.config.path)

    async def key(self) -> str:
        """Give the own public key."""
        return write_key(self._home.identity.node_key)

    async def address(self, target: str | None) -> str:
        """Give the own address, or that of a friend or key."""
        return str(self._home.identity.address if target is None else self._address(target))

    async def down(self) -> Value:
        """Begin to stop; when the node does not run, remove what a killed one left."""
        if self._node is not None:
            self._node.stopping.set()
            return {"stopped": True, "removed": []}
        from f2ftun.daemon.host import sweep_residue

        lock = Lock.take(self._home.config)
        try:
            return {"stopped": False, "removed": await sweep_residue(self._home.config.interface)}
        finally:
            lock.close()

    async def reload(self) -> dict[str, list[str]]:
        """Apply a changed config."""
        from f2ftun.daemon.reload import reload

        return await reload(self._running)

    async def status(self) -> Value:
        """Give the node and its friends."""
        from f2ftun.daemon.status import status

        return status(self._running)

    async def doctor(self) -> list[Value]:
        """Examine host and node."""
        from f2ftun.daemon.doctor import doctor

        return await doctor(self._home, self._node)

    # Invitations

    async def invite(self, name: str | None, expires: str | None) -> Value:
        """Make an invitation."""
        name = self._free_name(name, None)
        lifetime = INVITE_LIFETIME if expires is None else parse_duration(expires)
        endpoints = invite_line.fitting_endpoints(await self._endpoints())
        made = Invite(self._home.identity.node_key, os.urandom(SECRET_BYTES), int(time.time()) + lifetime, endpoints)
        invitation = Invitation(made, name, created_at=time.time())
        self._home.store.add_invitation(invitation)
        if self._node is not None:
            self._node.inviter.accept(invitation)
        return {
            "invite": invite_line.write(made),
            "name": name,
            "expires_at": made.expires_at,
            "endpoints": list(endpoints),
            "running": self._node is not None,
        }

    async def join(self, invite: str, name: str | None, wait_s: float) -> Value:
        """Use an invitation; wait a while for the friendship, if the node runs."""
        pending = self._parse_invitation(invite, name)
        self._home.store.add_pending_join(pending)
        friend = await self._join(pending, wait_s)
        return {
            "state": "pending" if friend is None else "friends",
            "name": name if friend is None else friend.name,
            "address": str(address_of(pending.invite.inviter)),
            "running": self._node is not None,
        }

    def _parse_invitation(self, line: str, name: str | None) -> PendingJoin:
        """Read an invitation and refuse one that cannot be used."""
        read = invite_line.parse(line)
        if read.expired(time.time()):
            raise InviteExpired(when=time.strftime("%Y-%m-%d %H:%M", time.localtime(read.expires_at)))
        if read.inviter == self._home.identity.node_key:
            raise InviteOwn
        if not read.endpoints:
            raise InviteUnreachable
        known = self._home.store.friend_by_key(read.inviter)
        if known is not None and known.psk == read.friend_psk:
            raise FriendsAlready(name=known.name)
        return PendingJoin(read, self._free_name(name, read.inviter), time.time())

    async def _join(self, pending: PendingJoin, wait_s: float) -> Friend | None:
        """Begin to join and wait; `None` when that takes longer, or when the node does not run."""
        if self._node is None:
            return None
        import asyncio

        done = self._node.joiner.begin(pending)
        await asyncio.wait([done], timeout=wait_s)
        return done.result() if done.done() else None

    async def invite_list(self) -> list[Value]:
        """Give the invitations that are open."""
        from f2ftun.daemon.status import invitations

        return invitations(self._home)

    async def invite_cancel(self, which: str) -> list[Value]:
        """Withdraw the invitations that are called so; give those that stay open."""
        from f2ftun.daemon.status import invitation_names

        found = [made for made in self._home.store.invitations() if which in invitation_names(made)]
        for made in found:
            self._home.store.remove_invitation(made.invite.invite_key)
            if self._node is not None:
                self._node.inviter.withdraw(made.invite.invite_key)
        if not found:
            raise InvitationUnknown(which=which)
        return await self.invite_list()

    async def join_list(self) -> list[Value]:
        """Give the joins that wait for their answer."""
        from f2ftun.daemon.status import joins

        return joins(self._home)

    async def join_cancel(self, which: str) -> list[Value]:
        """Withdraw the joins that are called so; give those that still wait."""
        from f2ftun.daemon.status import join_names

        found = [pending for pending in self._home.store.pending_joins() if which in join_names(self._home, pending)]
        for pending in found:
            self._home.store.remove_pending_join(pending.invite.inviter)
            if self._node is not None:
                self._node.joiner.withdraw(pending.invite.inviter)
        if not found:
            raise JoinUnknown(which=which)
        return await self.join_list()

    async def _endpoints(self) -> tuple[str, ...]:
        """Give where this node can be reached, running or not."""
        if self._node is not None:
            return await self._node.endpoints()
        from f2ftun.daemon.host import host_addresses
        from f2ftun.daemon.rendezvous import own_endpoints

        return own_endpoints(self._home.config.listen, await host_addresses(), self._home.config.endpoints)

    # Friends

    async def friend_add(self, name: str, key: str, endpoints: list[str], **settings: str | None) -> Value:
        """Add a friend by hand."""
        given = [f"endpoint={text}" for text in endpoints]
        given += [f"{setting}={text}" for setting, text in settings.items() if text is not None]
        friend = Friend(name=parse_name(name), key=parse_key(key), added_at=time.time(), **parse_setting(given))
        if friend.key == self._home.identity.node_key:
            raise FriendIsSelf
        self._home.store.add_friend(friend)
        if self._node is not None:
            self._node.befriended(friend)
        return self._detail(friend)

    async def friend_list(self) -> list[Value]:
        """Give all friends, by name."""
        from f2ftun.daemon.status import listed

        return [listed(friend) for friend in self._home.store.friends()]

    async def friend_show(self, name: str) -> Value:
        """Give all there is to know about a friend."""
        return self._detail(self._friend(name))

    async def friend_set(self, name: str, values: list[str]) -> Value:
        """Change settings of a friend."""
        friend = changed(self._friend(name), values)
        self._home.store.replace_friend(friend)
        if self._node is not None:
            self._node.changed(friend)
        return self._detail(friend)

    async def friend_rename(self, name: str, new: str) -> Value:
        """Call a friend something else."""
        friend = replace(self._friend(name), name=parse_name(new))
        self._home.store.replace_friend(friend)
        if self._node is not None:
            self._node.peers.note(friend)
        return self._detail(friend)

    async def friend_remove(self, name: str) -> Value:
        """End a friendship; what was open to them closes."""
        friend = self._home.store.remove_friend(name)
        self._forget_invitations(friend.key)
        if self._node is not None:
            await self._node.unfriended(friend)
            await self._node.apply_rules()
        return {"name": friend.name, "key": write_key(friend.key), "address": str(friend.address)}

    def _forget_invitations(self, key: bytes) -> None:
        """Forget what would make somebody a friend again: the invitation they came by, and theirs that waits."""
        for invitation in self._home.store.invitations():
            if invitation.bound_key == key:
                self._home.store.remove_invitation(invitation.invite.invite_key)
        self._home.store.remove_pending_join(key)

    def _friend(self, name: str) -> Friend:
        """Read a friend; where they were last is known better by the running node."""
        friend = self._home.store.friend(name)
        running = self._node.peers.friends.get(friend.key) if self._node is not None else None
        if running is None:
            return friend
        return replace(friend, last_endpoint=running.last_endpoint, told_endpoints=running.told_endpoints)

    def _detail(self, friend: Friend) -> Value:
        """Give all of one friend."""
        from f2ftun.daemon.status import detail

        return detail(self._home, self._node, friend)

    def _free_name(self, name: str | None, key: bytes | None) -> str | None:
        """Check a name for a new friend, who may be one already under this very name. Raises `FriendNameTaken`."""
        if name is None:
            return None
        wanted = parse_name(name)
        try:
            holder = self._home.store.friend(wanted)
        except FriendUnknown:
            return wanted
        if holder.key != key:
            raise FriendNameTaken(name=wanted)
        return wanted

    # Who may reach which port

    async def allow(self, who: str, ports: list[str]) -> list[Value]:
        """Open ports to a friend or to all."""
        for rule in self._parse_rules(who, ports):
            self._home.store.add_rule(rule)
        return await self._applied_rules()

    async def deny(self, who: str, ports: list[str]) -> list[Value]:
        """Close ports to a friend or to all."""
        for rule in self._parse_rules(who, ports):
            self._home.store.remove_rule(rule)
        return await self._applied_rules()

    async def rules(self) -> list[Value]:
        """Give who may reach what."""
        return [{"who": rule.who, "port": rule.ports} for rule in self._home.store.rules()]

    def _parse_rules(self, who: str, ports: list[str]) -> list[Rule]:
        """Read all rules before any is applied."""
        return [parse_rule(who, text) for text in ports]

    async def _applied_rules(self) -> list[Value]:
        """Make the firewall what the store says; give what that is."""
        if self._node is not None:
            await self._node.apply_rules()
        return await self.rules()

    # Reachability

    async def ping(self, target: str, count: float, first: float) -> Value:
        """Send echo requests, one after the other; give the replies with the way they took."""
        node, address = self._running, self._address(target)
        replies = []
        for sequence in range(int(first), int(first) + int(count)):
            reply = await self._ping(node, address, sequence)
            replies += [reply] if reply is not None else []
            if sequence + 1 < first + count:
                import asyncio

                await asyncio.sleep(PING_INTERVAL)
        return {"sent": int(count), "received": len(replies), "replies": replies}

    async def _ping(self, node: Node, address: IPv6Address, sequence: int) -> Value | None:
        """Send one echo request; give the reply, if one comes."""
        assert self._pinger is not None, "a running node has a pinger"
        rtt_s = await self._pinger.ping(address)
        if rtt_s is None:
            return None
        via = "self" if address == node.home.identity.address else "direct"
        return {"seq": sequence, "rtt_ms": round(rtt_s * 1000, 3), "via": via}

    def _address(self, target: str) -> IPv6Address:
        """Give the address that a name, address or key means. Raises `TargetUnknown`, `FriendUnknown`, `KeyRefused`."""
        if target.lower().endswith(SUFFIX):
            return address_of(parse_key(target))
        if ":" in target:
            return _overlay_address(target)
        try:
            return self._home.store.friend(target).address
        except FriendUnknown:
            with contextlib.suppress(AddressValueError):
                IPv4Address(target)
                raise TargetUnknown(target=target) from None
            raise


def _overlay_address(text: str) -> IPv6Address:
    """Read an address in fc00::/8. Raises `TargetUnknown`."""
    try:
        address = IPv6Address(text)
    except AddressValueError:
        raise TargetUnknown(target=text) from None
    if address not in OVERLAY or address.scope_id is not None:
        raise TargetUnknown(target=text)
    return address
