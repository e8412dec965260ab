"""What time brings to a reference node: rekeying, dialling, signs of life. Source: docs/protocol.md §3.5, §6.2."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.reference import data, handshake
from tests.reference.peer import Peer
from tests.reference.session import ERASE_AFTER, REJECT_AFTER

if TYPE_CHECKING:
    from tests.reference.node import Node

SILENCE, LIFE_PROBE_INTERVAL, LIFE_PROBES = 0.5, 0.3, 3


def deadlines(peer: Peer) -> list[float]:
    """List the times at which something is due for a friend."""
    due = [session.born_at + REJECT_AFTER for session in peer.sessions()]
    if peer.pending is not None:
        due.append(peer.pending.retry_at)
    if peer.current is not None and peer.endpoint is not None:
        due += [_life_at(peer)] if peer.unanswered_since is not None else []
        due += [peer.sent_at + peer.keepalive] if peer.keepalive else []
        due += [peer.current.rekey_at()] if peer.pending is None and peer.keepalive else []
    return due


def _life_at(peer: Peer) -> float:
    return (peer.unanswered_since or 0.0) + SILENCE + LIFE_PROBE_INTERVAL * peer.life_probes


def handle_timeout(node: Node, peer: Peer, now: float) -> None:
    """Do for a friend what is due."""
    _expire(node, peer, now)
    if peer.pending is not None and now >= peer.pending.retry_at:
        handshake.dial(node, peer, now)
    if peer.current is None or peer.endpoint is None:
        return
    if peer.keepalive:
        rekey_if_due(node, peer, now)
    if peer.unanswered_since is not None and now >= _life_at(peer):
        _ask_for_life(node, peer, now)
    if peer.keepalive and now >= peer.sent_at + peer.keepalive:
        data.send_probe(node, peer, now)


def rekey_if_due(node: Node, peer: Peer, now: float) -> None:
    """Start the next handshake in time."""
    if peer.current is not None and peer.pending is None and now >= peer.current.rekey_at():
        handshake.dial(node, peer, now)


def _expire(node: Node, peer: Peer, now: float) -> None:
    """Erase sessions that may carry nothing more; `REJECT_AFTER` is well before `ERASE_AFTER`."""
    assert REJECT_AFTER < ERASE_AFTER
    for slot in ("previous", "current", "next"):
        session = getattr(peer, slot)
        if session is not None and session.is_expired(now):
            node.forget(session)
            setattr(peer, slot, None)


def _ask_for_life(node: Node, peer: Peer, now: float) -> None:
    if peer.life_probes < LIFE_PROBES:
        peer.life_probes += 1
        data.send_probe(node, peer, now)
        return
    peer.unanswered_since, peer.life_probes = None, 0
    handshake.dial(node, peer, now)
