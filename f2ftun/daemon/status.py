"""The node and its friends as JSON values, in the shape that docs/manual.md gives and scripts stand on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from f2ftun import __version__
from f2ftun.core.friend import Friend
from f2ftun.core.invitation import Invitation
from f2ftun.core.join import PendingJoin
from f2ftun.daemon.home import Home
from f2ftun.wire.invite import write as write_invite
from f2ftun.wire.key import address_of, write_key

if TYPE_CHECKING:
    from f2ftun.daemon.node import Node
    from f2ftun.dataplane import PeerState

ID_CHARACTERS: Final = 8
"""By so much of its key an invitation or a join is called: 32 bits tell a person's few apart."""

Value = dict[str, Any]


def status(node: Node) -> Value:
    """Give the whole of `status`."""
    home = node.home
    states = {state.key: state for state in node.device.peers()}
    friends = sorted(node.peers.friends.values(), key=lambda friend: friend.name)
    return {
        "version": __version__,
        "name": home.config.name,
        "key": write_key(home.identity.node_key),
        "address": str(home.identity.address),
        "interface": home.config.interface,
        "mtu": node.host.mtu,
        "listen": [node.device.listen],
        "uptime_s": round(time.monotonic() - node.started_at, 1),
        "link_rate_bps": home.config.link_rate_bps,
        "friends": [live(node, friend, states.get(friend.key)) for friend in friends],
        "drops": node.device.drops() | node.drops,
        "invitations": invitations(home),
        "joins": joins(home),
    }


def invitations(home: Home) -> list[Value]:
    """Give the invitations that this node made and that can still be used, the oldest first."""
    return [
        {
            "id": made.invite.invite_key.hex()[:ID_CHARACTERS],
            "name": made.name,
            "used_by": home.name_of(made.bound_key) if made.bound_key is not None else None,
            "expires_at": made.invite.expires_at,
        }
        for made in home.store.invitations()
        if not made.invite.expired(time.time())
    ]


def invitation_names(made: Invitation) -> tuple[str | None, ...]:
    """Give all that an invitation may be called: its id, who it is for, the line itself."""
    return made.invite.invite_key.hex()[:ID_CHARACTERS], made.name, write_invite(made.invite)


def joins(home: Home) -> list[Value]:
    """Give the invitations that this node was given and that are not answered yet, the oldest first."""
    return [
        {
            "id": write_key(pending.invite.inviter)[:ID_CHARACTERS],
            "name": _petname(home, pending),
            "key": write_key(pending.invite.inviter),
            "address": str(address_of(pending.invite.inviter)),
            "endpoints": list(pending.invite.endpoints),
            "expires_at": pending.invite.expires_at,
        }
        for pending in home.store.pending_joins()
        if not pending.invite.expired(time.time())
    ]


def join_names(home: Home, pending: PendingJoin) -> tuple[str | None, ...]:
    """Give all that a join may be called: its id, the friend to be, their key or address, the line itself."""
    key = write_key(pending.invite.inviter)
    address = str(address_of(pending.invite.inviter))
    return key[:ID_CHARACTERS], _petname(home, pending), key, address, write_invite(pending.invite)


def _petname(home: Home, pending: PendingJoin) -> str | None:
    """Call an inviter as was wished, or as the friend they are already, or nothing."""
    known = home.store.friend_by_key(pending.invite.inviter)
    return pending.name or (known.name if known is not None else None)


def live(node: Node | None, friend: Friend, state: PeerState | None) -> Value:
    """Give one friend as `status` shows them; `state` is what the device knows, `None` when the node does not run."""
    shown = state_of(node, friend, state)
    return {
        "name": friend.name,
        "key": write_key(friend.key),
        "address": str(friend.address),
        "state": shown,
        "via": "direct" if shown == "up" else None,
        "endpoint": (state.endpoint if state is not None else None) or friend.last_endpoint,
        "rtt_ms": _milliseconds(state.rtt_s) if state is not None and shown == "up" else None,
        "rx_bytes": state.rx_bytes if state is not None else 0,
        "tx_bytes": state.tx_bytes if state is not None else 0,
        "floor_bps": friend.floor_bps,
        "trust": friend.trust.value,
        "last_handshake_s": _tenths(state.last_handshake_s) if state is not None else None,
    }


def state_of(node: Node | None, friend: Friend, state: PeerState | None) -> str | None:
    """Give `up`, `connecting` or `down`; a friend who is being asked to befriend us again is connecting."""
    if node is None:
        return None
    if node.joiner.owns(friend.key):
        return "connecting"
    if state is None or node.peers.departed(friend.key):
        return "down"
    return state.status.value


def detail(home: Home, node: Node | None, friend: Friend) -> Value:
    """Give one friend with all there is to know."""
    state = next((s for s in node.device.peers() if s.key == friend.key), None) if node is not None else None
    return live(node, friend, state) | {
        "endpoints": list(friend.endpoints),
        "told_endpoints": list(friend.told_endpoints),
        "transit": friend.transit.value,
        "visibility": friend.visibility.value,
        "added_at": friend.added_at,
        "hybrid": state.hybrid if state is not None else False,
        "rules": [rule.ports for rule in home.store.rules() if rule.who == friend.name],
    }


def listed(friend: Friend) -> Value:
    """Give one friend as `friend list` shows them, daemon or not."""
    return {
        "name": friend.name,
        "key": write_key(friend.key),
        "address": str(friend.address),
        "endpoints": list(friend.endpoints),
        "floor_bps": friend.floor_bps,
        "trust": friend.trust.value,
        "transit": friend.transit.value,
        "visibility": friend.visibility.value,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def _tenths(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)
