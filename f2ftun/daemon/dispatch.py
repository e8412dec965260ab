"""Hand each event of the device to the one whom it concerns: an invite peer, an inviter who was asked, or a friend.

One line per case; what is to be done stands where it is done. Messages that are malformed or too many are dropped
and counted; those that are not for the one who sent them are passed over.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from f2ftun.dataplane import Event, EventKind
from f2ftun.wire import control
from f2ftun.wire.control import Endpoints, Goodbye, KemAnswer, KemOffer

if TYPE_CHECKING:
    from f2ftun.daemon.node import Node

log = logging.getLogger(__name__)


def dispatch(node: Node, event: Event) -> None:
    """Handle one event."""
    if event.kind is EventKind.STOPPED:
        node.handle_stopped(event.payload.decode(errors="replace"))
    elif node.inviter.owns(event.peer):
        _invite_peer(node, event)
    elif node.joiner.owns(event.peer):
        _inviter(node, event)
    elif event.peer in node.peers.friends:
        _friend(node, event)


def _invite_peer(node: Node, event: Event) -> None:
    """Handle what an invite peer of ours does."""
    match event.kind:
        case EventKind.SESSION | EventKind.ROAMED:
            node.inviter.handle_endpoint(event.peer, event.payload.decode())
        case EventKind.CONTROL:
            node.inviter.handle_message(event.peer, _heard(node, event))


def _inviter(node: Node, event: Event) -> None:
    """Handle what an inviter does whom we have asked."""
    match event.kind:
        case EventKind.SESSION:
            node.joiner.handle_session(event.peer)
        case EventKind.CONTROL:
            node.joiner.handle_message(event.peer, _heard(node, event))


def _friend(node: Node, event: Event) -> None:
    """Handle what a friend does."""
    match event.kind:
        case EventKind.SESSION:
            _session(node, event.peer, event.payload.decode())
        case EventKind.ROAMED:
            node.rendezvous.handle_endpoint(event.peer, event.payload.decode())
        case EventKind.CONTROL:
            _message(node, event.peer, _heard(node, event))
        case EventKind.UNREACHABLE:
            node.rendezvous.handle_unreachable(event.peer)
        case EventKind.LOST:
            log.info("%s fell silent", node.peers.friends[event.peer].name)


def _heard(node: Node, event: Event) -> control.Message | None:
    """Read a control message; `None` for one that is dropped."""
    if not node.allowance.take(event.peer, time.monotonic()):
        node.drops["rx_control_excess"] += 1
        return None
    message = control.parse(event.payload)
    node.drops["rx_control_malformed"] += message is None
    return message


def _session(node: Node, key: bytes, endpoint: str) -> None:
    """Handle a new session with a friend."""
    log.debug("session with %s at %s", node.peers.friends[key].name, endpoint)
    node.peers.arrive(key)
    node.inviter.forget_friend(key)
    node.joiner.handle_friend(key)
    node.rendezvous.handle_session(key, endpoint)
    if node.home.config.hybrid:
        node.hybrid.handle_session(key)


def _message(node: Node, key: bytes, message: control.Message | None) -> None:
    """Handle a control message of a friend."""
    match message:
        case Endpoints():
            node.rendezvous.handle_endpoints(key, message)
        case Goodbye():
            log.info("%s said goodbye", node.peers.friends[key].name)
            node.peers.depart(key)
        case KemOffer() if node.home.config.hybrid:
            node.hybrid.handle_offer(key, message)
        case KemAnswer():
            node.hybrid.handle_answer(key, message)
