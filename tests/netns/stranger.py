"""The reference node on a real socket: a friend of Python, who may turn hostile, or somebody nobody knows."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

from tests.netns.lab import Namespace, v4, wait_for
from tests.netns.node import PORT, Node
from tests.reference.event import Event, Kind
from tests.reference.identity import Device, address_of, write_key
from tests.reference.node import Node as ReferenceNode

Endpoint = tuple[str, int]


def draw_device() -> Device:
    """Draw keys whose address begins with fc."""
    while True:
        device = Device(os.urandom(32))
        if device.address[0] == 0xFC:
            return device


def draw_keys(count: int) -> list[str]:
    """Draw public keys of nobody, fast: X25519 points whose address begins with fc."""
    keys: list[str] = []
    while len(keys) < count:
        key = os.urandom(31) + bytes([os.urandom(1)[0] & 0x7F])
        if address_of(key)[0] == 0xFC:
            keys.append(write_key(key))
    return keys


class Stranger:
    """A reference node that runs in a thread at an IPv4 address of a namespace."""

    def __init__(self, namespace: Namespace, *, port: int = PORT, device: Device | None = None) -> None:
        self.device = device or draw_device()
        self.name = namespace.label
        self.node = ReferenceNode(self.device.private_key, epoch=time.time() - time.monotonic())
        self.key = write_key(self.device.key)
        self.address = str(ipaddress.IPv6Address(self.device.address))
        self.events: list[Event] = []
        self.received: list[tuple[bytes, Endpoint]] = []
        self.lock = threading.RLock()
        self.socket = namespace.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("0.0.0.0", port))
        self.socket.settimeout(0.02)
        self._running = True
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._running = False
        self._thread.join()
        self.socket.close()

    def knows(self, node: Node, endpoint: Endpoint, *, psk: bytes = bytes(32), keepalive: float = 25.0) -> bytes:
        """Take a real node for a friend; return its key."""
        key = key_bytes(node)
        with self.lock:
            self.node.add_peer(key, psk=psk, endpoints=[endpoint], keepalive=keepalive)
        return key

    @contextlib.contextmanager
    def acting(self) -> Iterator[ReferenceNode]:
        """Hold the node still, do something with it, then send what comes of that."""
        with self.lock:
            yield self.node
            self._flush()

    def dial(self, key: bytes) -> None:
        """Begin a handshake."""
        with self.acting() as node:
            node.dial(key, time.monotonic())

    def connect(self, key: bytes, timeout: float = 5.0) -> None:
        """Dial and wait for the session."""
        self.dial(key)
        wait_for(lambda: self.node.peers[key].current is not None, "the stranger's session", timeout)

    def send_frame(self, key: bytes, frame: bytes) -> None:
        """Send one frame over the session."""
        with self.acting() as node:
            node.send_frame(key, frame, time.monotonic())

    def send_packet(self, key: bytes, packet: bytes) -> None:
        """Send an IPv6 packet, its addresses elided."""
        with self.acting() as node:
            node.send_packet(key, packet, time.monotonic())

    def send_raw(self, datagram: bytes, to: Endpoint) -> None:
        """Send a datagram of any content."""
        self.socket.sendto(datagram, to)

    def packets(self) -> list[bytes]:
        """List the IPv6 packets that came."""
        return [event.payload for event in list(self.events) if event.kind is Kind.PACKET]

    def probe(self, key: bytes, timeout: float = 3.0) -> bool:
        """Say whether a probe over the session is answered."""
        with self.acting() as node:
            token = node.probe(key, time.monotonic())
        answered: Callable[[], bool] = lambda: any(  # noqa: E731
            event.kind is Kind.PROBE_REPLY and event.payload == token for event in list(self.events)
        )
        with contextlib.suppress(Exception):
            wait_for(answered, "a probe's answer", timeout)
        return answered()

    def _live(self) -> None:
        while self._running:
            arrived = self._receive()
            with self.lock:
                now = time.monotonic()
                if arrived:
                    self.received.append(arrived)
                    self.node.handle_datagram(*arrived, now)
                self.node.handle_timeout(now)
                self._flush()

    def _receive(self) -> tuple[bytes, Endpoint] | None:
        try:
            return self.socket.recvfrom(65535)
        except OSError:
            return None

    def _flush(self) -> None:
        while (transmit := self.node.poll_transmit()) is not None:
            with contextlib.suppress(OSError):
                self.socket.sendto(transmit.datagram, transmit.destination)
        while (event := self.node.poll_event()) is not None:
            self.events.append(event)


def key_bytes(node: Node) -> bytes:
    """Read a real node's key."""
    from tests.reference.identity import parse_base32

    key = parse_base32(node.key.removesuffix(".k"))
    assert key is not None
    return key


def join(stranger: Stranger, node: Node, host: int, *, of: int = 1, network: int = 0) -> bytes:
    """Make a stranger at `host` and a real node at host `of` friends, let them shake hands; return the node's key."""
    endpoint = f"{v4(network, host)}:{PORT}"
    node.verb("friend_add", name=stranger.name, key=stranger.key, endpoints=[endpoint])
    key = stranger.knows(node, (v4(network, of), PORT))
    stranger.connect(key)
    return key
