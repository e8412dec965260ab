"""A whole node in memory: datagrams, packets and `now` in; datagrams, events and drops out.

Written from docs/protocol.md alone, to find out whether that page says enough, and to be the friend, or the enemy,
that the real data plane meets in tests. `handle_*` are inputs, `poll_*` are outputs; there is no clock and no socket
here. One file per part: `handshake.py` reads and writes types 1 to 3, `data.py` type 4 and frames, `path.py` follows
time; this one holds the tables and sends each datagram to its part.
"""

from __future__ import annotations

import ipaddress
import os
from collections import Counter, deque
from collections.abc import Callable

from tests.reference import crypto, data, handshake, path
from tests.reference.cookie import CookieJar, Endpoint, LoadMeter
from tests.reference.datagram import COOKIE_REPLY, DATA, FEATURES_KNOWN, INITIATION, RESPONSE
from tests.reference.event import Event, Transmit
from tests.reference.frame import elide
from tests.reference.identity import address_of
from tests.reference.peer import Peer, Pending
from tests.reference.session import Session

Entropy = Callable[[int], bytes]
OVERLAY = ipaddress.ip_network("fc00::/8")


class Node:
    """The tables of a node, and what comes in and goes out."""

    def __init__(
        self, private_key: bytes, *, entropy: Entropy = os.urandom, epoch: float = 1_800_000_000.0, features: int = 0
    ) -> None:
        """Take the X25519 private key; `epoch` is the Unix time at `now` = 0."""
        self.private_key = private_key
        self.key = crypto.public_key(private_key)
        self.address = address_of(self.key)
        self.entropy = entropy
        self.epoch = epoch
        self.features = features & FEATURES_KNOWN
        self.peers: dict[bytes, Peer] = {}
        self.sessions: dict[int, tuple[Peer, Session]] = {}
        self.pending: dict[int, tuple[Peer, Pending]] = {}
        self.cookie_jar = CookieJar(entropy)
        self.load = LoadMeter()
        self.drops: Counter[str] = Counter()
        self.log: list[Session] = []
        self._transmits: deque[Transmit] = deque()
        self._events: deque[Event] = deque()

    def add_peer(
        self,
        key: bytes,
        *,
        psk: bytes = bytes(32),
        endpoints: list[Endpoint] | None = None,
        own_private_key: bytes | None = None,
        has_address: bool = True,
        keepalive: float = 25.0,
    ) -> Peer:
        """Add a friend, or with `has_address` false an invite peer."""
        address = address_of(key) if has_address else b""
        private_key = own_private_key or self.private_key
        peer = Peer(key, psk, private_key, address, list(endpoints or []), keepalive)
        self.peers[key] = peer
        return peer

    def handle_datagram(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """Take what came from the network; the overlay is no network."""
        if ipaddress.ip_address(source[0]) in OVERLAY:
            return self.drop("from the overlay")
        reader = _READERS.get(datagram[0] if datagram else 0)
        if reader is None:
            return self.drop("unknown type")
        return reader(self, datagram, source, now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due."""
        for peer in list(self.peers.values()):
            path.handle_timeout(self, peer, now)

    def poll_timeout(self) -> float | None:
        """Give the time at which something is due next."""
        deadlines = [deadline for peer in self.peers.values() for deadline in path.deadlines(peer)]
        return min(deadlines, default=None)

    def poll_transmit(self) -> Transmit | None:
        """Take the oldest datagram to be sent."""
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> Event | None:
        """Take the oldest event."""
        return self._events.popleft() if self._events else None

    def dial(self, key: bytes, now: float) -> None:
        """Send an initiation to all endpoints of a friend."""
        handshake.dial(self, self.peers[key], now)

    def send_frame(self, key: bytes, frame: bytes, now: float) -> None:
        """Send a written frame, or keep it until a session stands."""
        peer = self.peers[key]
        if data.send_frame(self, peer, frame, now):
            path.rekey_if_due(self, peer, now)
            return
        peer.waiting.append(frame)
        if peer.pending is None:
            handshake.dial(self, peer, now)

    def send_packet(self, key: bytes, packet: bytes, now: float) -> None:
        """Send an IPv6 packet, its addresses elided."""
        self.send_frame(key, elide(packet).write(), now)

    def probe(self, key: bytes, now: float, size: int = 16) -> bytes:
        """Probe a friend's address; give the token."""
        return data.send_probe(self, self.peers[key], now, size)

    def drop(self, reason: str) -> None:
        """Count something dropped."""
        self.drops[reason] += 1

    def transmit(self, datagram: bytes, destination: Endpoint) -> None:
        """Queue a datagram."""
        self._transmits.append(Transmit(datagram, destination))

    def seal(self, session: Session, frame: bytes) -> bytes:
        """Make a data datagram of a frame."""
        return session.seal(frame)

    def answer(self, features: int) -> int:
        """Give the features that a response carries."""
        return features

    def happened(self, event: Event) -> None:
        """Queue an event."""
        self._events.append(event)

    def draw_index(self) -> int:
        """Draw an index that nothing here uses."""
        while True:
            index = int.from_bytes(self.entropy(4), "big")
            if index not in self.sessions and index not in self.pending:
                return index

    def register(self, peer: Peer, session: Session) -> None:
        """Make a session findable by its index."""
        self.sessions[session.own_index] = (peer, session)
        self.log.append(session)

    def forget(self, session: Session | None) -> None:
        """Let go of a session."""
        if session is not None:
            self.sessions.pop(session.own_index, None)


_READERS: dict[int, Callable[[Node, bytes, Endpoint, float], None]] = {
    INITIATION: handshake.handle_initiation,
    RESPONSE: handshake.handle_response,
    COOKIE_REPLY: handshake.handle_cookie_reply,
    DATA: data.handle_data,
}
