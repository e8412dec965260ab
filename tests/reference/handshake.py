"""Initiations, responses and cookie replies of a reference node. Source: docs/protocol.md §3."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.reference import crypto, data
from tests.reference.cookie import Endpoint
from tests.reference.datagram import (
    CookieReply,
    Initiation,
    InitiationPayload,
    Response,
    cookie_key,
    parse_cookie_reply,
    parse_initiation,
    parse_initiation_payload,
    parse_response,
    seal_cookie_reply,
)
from tests.reference.event import Event, Kind
from tests.reference.noise import BadHandshakeError, Initiator, Responder
from tests.reference.peer import SECOND_NS, Peer, Pending
from tests.reference.session import Session

if TYPE_CHECKING:
    from tests.reference.node import Node

DIAL_TIMEOUT, DIAL_TIMEOUT_MAX = 0.25, 4.0
COOKIE_ANSWER_INTERVAL = 1.0
ANSWER_INTERVAL = 0.05
STALE_INTERVAL = 0.5


def dial(node: Node, peer: Peer, now: float) -> None:
    """Replace the initiation under way by a new one, to the friend's address and all endpoints."""
    pending = begin(node, peer, now)
    where = ([peer.endpoint] if peer.endpoint else []) + [e for e in peer.endpoints if e != peer.endpoint]
    for endpoint in where:
        signed = pending.initiation.sign(peer.key, peer.cookie_for(endpoint, now))
        node.transmit(signed.write(), endpoint)
    peer.dial_timeout = min(peer.dial_timeout * 2, DIAL_TIMEOUT_MAX)
    peer.unanswered_dials += 1


def begin(node: Node, peer: Peer, now: float) -> Pending:
    """Make an initiation and remember it as the one under way."""
    if peer.pending is not None:
        node.pending.pop(peer.pending.index, None)
    psk, psk_id = peer.psk_to_dial_with()
    noise = Initiator(peer.private_key, node.entropy(32), peer.key)
    timestamp = peer.next_timestamp(int((node.epoch + now) * SECOND_NS))
    message = noise.write_first(InitiationPayload(timestamp, psk_id, node.features).write())
    initiation = Initiation(node.draw_index(), message[:32], message[32:80], message[80:]).sign(peer.key)
    pending = Pending(initiation.sender, noise, initiation, psk, psk_id, now + peer.dial_timeout)
    peer.pending = pending
    node.pending[pending.index] = (peer, pending)
    return pending


@dataclass
class Caller:
    """Who sent an initiation, once proved."""

    peer: Peer
    noise: Responder
    payload: InitiationPayload
    psk: bytes


def handle_initiation(node: Node, datagram: bytes, source: Endpoint, now: float) -> None:
    """Check in the order of §3.1; answer with a response, a cookie reply or nothing."""
    initiation = parse_initiation(datagram)
    private_key = _addressed_key(node, initiation)
    if initiation is None or private_key is None:
        return node.drop("bad initiation")
    proved = node.cookie_jar.proves(initiation, source, now)
    if not node.load.admits(source, proved=proved, expected=_is_expected(node, source), now=now):
        return answer_with_cookie(node, private_key, initiation, source, now)
    caller = identify(node, private_key, initiation)
    if caller is None:
        return node.drop("refused initiation")
    if not _is_fresh(caller, proved, now):
        return _answer_stale(node, caller, initiation, source, now)
    if now - caller.peer.answered_at < ANSWER_INTERVAL:
        return node.drop("answered just now")
    caller.peer.answered_at, caller.peer.timestamp_seen = now, caller.payload.timestamp
    respond(node, caller, initiation, source, now)
    return None


def _addressed_key(node: Node, initiation: Initiation | None) -> bytes | None:
    """Find the own private key whose public key the sender knows."""
    if initiation is None:
        return None
    own_keys = {node.private_key: None, **{peer.private_key: None for peer in node.peers.values()}}
    return next((key for key in own_keys if initiation.has_mac1(crypto.public_key(key))), None)


def _is_expected(node: Node, source: Endpoint) -> bool:
    return any(source[0] == endpoint[0] for peer in node.peers.values() for endpoint in _known_endpoints(peer))


def _known_endpoints(peer: Peer) -> list[Endpoint]:
    return peer.endpoints + ([peer.endpoint] if peer.endpoint else [])


def answer_with_cookie(node: Node, private_key: bytes, initiation: Initiation, source: Endpoint, now: float) -> None:
    """Send the cookie reply."""
    cookie = node.cookie_jar.make(source, now)
    node.drop("cookie asked for")
    nonce = node.entropy(crypto.COOKIE_NONCE_BYTES)
    node.transmit(seal_cookie_reply(crypto.public_key(private_key), initiation, nonce, cookie).write(), source)


def identify(node: Node, private_key: bytes, initiation: Initiation) -> Caller | None:
    """Read the Noise message; `None` for strangers, forgeries and psks unknown."""
    noise = Responder(private_key)
    try:
        peer = node.peers.get(noise.read_static(initiation.noise))
        if peer is None:
            return None
        payload = parse_initiation_payload(noise.read_payload(initiation.payload))
    except BadHandshakeError:
        return None
    psk = peer.psk_for(payload.psk_id)
    return None if psk is None else Caller(peer, noise, payload, psk)


def _is_fresh(caller: Caller, proved: bool, now: float) -> bool:
    """Judge the timestamp; an older one needs a valid mac2, and is accepted twice a second at most."""
    seen, timestamp = caller.peer.timestamp_seen, caller.payload.timestamp
    if seen is None or timestamp > seen:
        return True
    if not proved or timestamp == seen or now - caller.peer.stale_accepted_at < STALE_INTERVAL:
        return False
    caller.peer.stale_accepted_at = now
    return True


def _answer_stale(node: Node, caller: Caller, initiation: Initiation, source: Endpoint, now: float) -> None:
    peer = caller.peer
    node.drop("old timestamp")
    if now - peer.cookie_answered_at >= COOKIE_ANSWER_INTERVAL:
        peer.cookie_answered_at = now
        answer_with_cookie(node, caller.noise.static_private, initiation, source, now)


def respond(node: Node, caller: Caller, initiation: Initiation, source: Endpoint, now: float) -> None:
    """Send the response; the session is *next* until data comes in on it."""
    peer, features = caller.peer, caller.payload.features & node.features
    index = node.draw_index()
    message = caller.noise.write_second(node.entropy(32), caller.psk, node.answer(features).to_bytes(4, "big"))
    response = Response(index, initiation.sender, message[:32], message[32:]).sign(initiation.ephemeral)
    receive_key, send_key = caller.noise.symmetric.split()
    node.forget(peer.next)
    peer.next = Session(index, initiation.sender, receive_key, send_key, False, now, caller.payload.psk_id, features)
    peer.next_reply_to = source
    node.register(peer, peer.next)
    node.transmit(response.write(), source)


def handle_response(node: Node, datagram: bytes, source: Endpoint, now: float) -> None:
    """Finish the initiation under way and show at once that the session stands."""
    response = parse_response(datagram)
    peer, pending = node.pending.get(response.receiver, (None, None)) if response else (None, None)
    if response is None or peer is None or pending is None or not response.has_mac1(pending.initiation.ephemeral):
        return node.drop("bad response")
    session = _finish(pending, response, now)
    if session is None:
        return node.drop("refused response")
    node.pending.pop(pending.index)
    peer.pending, peer.dial_timeout, peer.unanswered_dials = None, DIAL_TIMEOUT, 0
    node.register(peer, session)
    peer.endpoint = source
    data.make_current(node, peer, session)
    data.send_probe(node, peer, now)
    data.send_waiting(node, peer, now)
    return None


def _finish(pending: Pending, response: Response, now: float) -> Session | None:
    """Read message 2 on a copy, so that a forged one spends nothing."""
    noise = _copy(pending.noise)
    try:
        features = int.from_bytes(noise.read_second(response.noise, pending.psk), "big")
    except BadHandshakeError:
        return None
    send_key, receive_key = noise.symmetric.split()
    return Session(pending.index, response.sender, receive_key, send_key, True, now, pending.psk_id, features)


def _copy(noise: Initiator) -> Initiator:
    twin = copy(noise)
    twin.symmetric = copy(noise.symmetric)
    return twin


def handle_cookie_reply(node: Node, datagram: bytes, source: Endpoint, now: float) -> None:
    """Keep the cookie for the next initiation to where it came from."""
    reply: CookieReply | None = parse_cookie_reply(datagram)
    peer, pending = node.pending.get(reply.receiver, (None, None)) if reply else (None, None)
    if reply is None or peer is None or pending is None:
        return node.drop("bad cookie reply")
    cookie = crypto.unseal_cookie(cookie_key(peer.key), reply.nonce, reply.ciphertext, pending.initiation.mac1)
    if cookie is None:
        return node.drop("bad cookie reply")
    peer.cookies[source] = (cookie, now)
    return node.happened(Event(Kind.COOKIE, peer.key, cookie))
