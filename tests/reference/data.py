"""Data datagrams and frames of a reference node. Source: docs/protocol.md §4, §5, §6.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.reference import frame as frames
from tests.reference.cookie import Endpoint
from tests.reference.datagram import DATA_MIN_BYTES, FRAME_ALIGNMENT, parse_data
from tests.reference.event import Event, Kind
from tests.reference.frame import FRAGMENT_HEADER_BYTES, Control, Fragment, Frame, Nothing, Packet, Probe, ProbeReply
from tests.reference.peer import Candidate, Peer
from tests.reference.session import Session

if TYPE_CHECKING:
    from tests.reference.node import Node

CHALLENGE_INTERVAL = 0.5
SMALLEST_PROBE_BYTES = DATA_MIN_BYTES + FRAME_ALIGNMENT


@dataclass(frozen=True)
class Arrival:
    """Where and how a frame came."""

    peer: Peer
    session: Session
    counter: int
    datagram_bytes: int
    source: Endpoint
    now: float


def handle_data(node: Node, datagram: bytes, source: Endpoint, now: float) -> None:
    """Find the session, open, and only then let anything change."""
    data = parse_data(datagram)
    peer, session = node.sessions.get(data.receiver, (None, None)) if data else (None, None)
    if data is None or peer is None or session is None or session.is_expired(now):
        return node.drop("no session")
    frame = session.open(data)
    if frame is None:
        return node.drop("replayed or forged")
    counter = session.counter_of(data)
    newest = counter == session.window.next - 1
    peer.unanswered_since, peer.life_probes = None, 0
    _promote(node, peer, session, source, now)
    if source != peer.endpoint:
        peer.owe(source, len(datagram))
    if newest and session is peer.current:
        _challenge(node, peer, source, now)
    handle_frame(node, Arrival(peer, session, counter, len(datagram), source, now), frame)
    return None


def _promote(node: Node, peer: Peer, session: Session, source: Endpoint, now: float) -> None:
    """Make *next* current at its first authentic datagram; from where the response went, that proves the address."""
    if session is not peer.next:
        return
    peer.next = None
    make_current(node, peer, session)
    if source == peer.next_reply_to:
        peer.endpoint = source
    send_waiting(node, peer, now)


def make_current(node: Node, peer: Peer, session: Session) -> None:
    """Put a session first; the one before it becomes *previous*."""
    node.forget(peer.previous)
    peer.previous, peer.current = peer.current, session
    node.happened(Event(Kind.SESSION, peer.key))


def _challenge(node: Node, peer: Peer, source: Endpoint, now: float) -> None:
    """Probe an address that is not the friend's, with no more than came from it, each 500 ms at most."""
    candidate = peer.candidate
    waits = candidate and candidate.endpoint == source and now - candidate.sent_at < CHALLENGE_INTERVAL
    if source == peer.endpoint or waits or peer.current is None or not peer.may_send(source, SMALLEST_PROBE_BYTES):
        return
    peer.candidate = Candidate(source, node.entropy(frames.TOKEN_BYTES), now)
    node.transmit(node.seal(peer.current, Probe(peer.candidate.token).write()), source)


def handle_frame(node: Node, arrival: Arrival, frame: bytes, *, whole: bool = False) -> None:
    """Send a frame to what handles its kind."""
    parsed = frames.parse(frame)
    if parsed is None or (whole and not isinstance(parsed, Control | Packet)):
        node.drop("malformed frame")
    else:
        _HANDLERS[type(parsed)](node, arrival, parsed)


def _on_nothing(node: Node, arrival: Arrival, frame: Frame) -> None:
    node.happened(Event(Kind.NOTHING, arrival.peer.key, counter=arrival.counter))


def _on_fragment(node: Node, arrival: Arrival, frame: Frame) -> None:
    assert isinstance(frame, Fragment)
    whole = arrival.peer.join_fragment(frame.id, frame.last, frame.body, arrival.now)
    if whole is not None:
        handle_frame(node, arrival, whole, whole=True)


def _on_control(node: Node, arrival: Arrival, frame: Frame) -> None:
    assert isinstance(frame, Control)
    node.happened(Event(Kind.CONTROL, arrival.peer.key, frame.message, arrival.counter))


def _on_probe(node: Node, arrival: Arrival, frame: Frame) -> None:
    assert isinstance(frame, Probe)
    node.happened(Event(Kind.PROBE, arrival.peer.key, frame.token, arrival.counter))
    if arrival.peer.may_send(arrival.source, SMALLEST_PROBE_BYTES):
        reply = ProbeReply(frame.token, arrival.datagram_bytes).write()
        node.transmit(node.seal(arrival.peer.current or arrival.session, reply), arrival.source)


def _on_probe_reply(node: Node, arrival: Arrival, frame: Frame) -> None:
    assert isinstance(frame, ProbeReply)
    peer, candidate = arrival.peer, arrival.peer.candidate
    if candidate is not None and candidate.token == frame.token:
        peer.endpoint, peer.candidate = candidate.endpoint, None
        node.happened(Event(Kind.ROAMED, peer.key))
    elif peer.probes.pop(frame.token, None) is not None:
        node.happened(Event(Kind.PROBE_REPLY, peer.key, frame.token, frame.length))
    else:
        node.drop("unasked probe reply")


def _on_packet(node: Node, arrival: Arrival, frame: Frame) -> None:
    assert isinstance(frame, Packet)
    peer = arrival.peer
    if not peer.address:
        return node.drop("packet of an invite peer")
    packet = frame.restore(peer.address, node.address)
    return node.happened(Event(Kind.PACKET, peer.key, packet, arrival.counter, frame.joined))


_HANDLERS: dict[type[Frame], Callable[[Node, Arrival, Frame], None]] = {
    Nothing: _on_nothing,
    Fragment: _on_fragment,
    Control: _on_control,
    Probe: _on_probe,
    ProbeReply: _on_probe_reply,
    Packet: _on_packet,
}


def send_frame(node: Node, peer: Peer, frame: bytes, now: float) -> bool:
    """Send a frame, in two fragments where the path is too small for it; say whether a session could carry it."""
    if peer.current is None or peer.endpoint is None or peer.current.is_expired(now):
        return False
    room = (peer.datagram_bytes - DATA_MIN_BYTES) // FRAME_ALIGNMENT * FRAME_ALIGNMENT
    if len(frame) <= room:
        _send(node, peer, frame, now)
    elif len(frame) <= 2 * (room - FRAGMENT_HEADER_BYTES):
        _send_halves(node, peer, frame, room - FRAGMENT_HEADER_BYTES, now)
    else:
        node.drop("frame too large")
    return True


def _send_halves(node: Node, peer: Peer, frame: bytes, first_bytes: int, now: float) -> None:
    fragment_id, peer.next_fragment_id = peer.next_fragment_id, (peer.next_fragment_id + 1) & 0xFFFF
    _send(node, peer, Fragment(False, fragment_id, frame[:first_bytes]).write(), now)
    _send(node, peer, Fragment(True, fragment_id, frame[first_bytes:]).write(), now)


def _send(node: Node, peer: Peer, frame: bytes, now: float) -> None:
    assert peer.current is not None
    assert peer.endpoint is not None
    node.transmit(node.seal(peer.current, frame), peer.endpoint)
    peer.sent_at = now
    expects_answer = frame != b"" and frame[0] >> 4 in (frames.PROBE, frames.PACKET, frames.FRAGMENT)
    if peer.unanswered_since is None and expects_answer:
        peer.unanswered_since = now


def send_probe(node: Node, peer: Peer, now: float, size: int = FRAME_ALIGNMENT) -> bytes:
    """Probe the friend's address, whatever the size, in one piece; give the token."""
    token = node.entropy(frames.TOKEN_BYTES)
    peer.probes[token] = now
    if peer.current is not None and peer.endpoint is not None:
        _send(node, peer, Probe(token, size).write(), now)
    return token


def send_waiting(node: Node, peer: Peer, now: float) -> None:
    """Send what waited for a session."""
    if peer.endpoint is None:
        return
    waiting, peer.waiting = peer.waiting, []
    for frame in waiting:
        send_frame(node, peer, frame, now)
