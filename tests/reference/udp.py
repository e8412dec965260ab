"""A reference node on a real socket: a real friend of a real daemon, on loopback or in a namespace.

Nothing runs in the background: time passes, and datagrams are handled, inside `run_until`.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import time
from collections.abc import Callable
from types import TracebackType

from tests.reference.cookie import Endpoint
from tests.reference.event import Event, Kind, Transmit
from tests.reference.node import Node

RECEIVE_BYTES = 1 << 16
SOCKET_BUFFER_BYTES = 4 << 20
SOL_UDP, UDP_SEGMENT = 17, 103
"""Source: Linux udp.h."""
MAX_TRAIN = 40


def bind(address: str = "127.0.0.1", port: int = 0) -> socket.socket:
    """Open a UDP socket in the namespace of the calling thread."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    sock.bind((address, port))
    sock.setblocking(False)
    return sock


class UdpNode:
    """A node and its socket; `node.epoch` becomes the wall clock's.

    Datagrams over `path_bytes` are lost, as on a path with a small MTU; `received` and `events` keep what came.
    """

    def __init__(self, node: Node, sock: socket.socket) -> None:
        """Take over an unblocking bound socket."""
        self.node = node
        self.sock = sock
        self._started = time.monotonic()
        node.epoch = time.time()
        self.events: list[Event] = []
        self.received: list[tuple[bytes, Endpoint]] = []
        self.sent_bytes = 0
        self.path_bytes = RECEIVE_BYTES

    def __enter__(self) -> UdpNode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    @property
    def now(self) -> float:
        """Seconds since the node started."""
        return time.monotonic() - self._started

    @property
    def endpoint(self) -> Endpoint:
        """Where others reach it."""
        host, port = self.sock.getsockname()[:2]
        return host, port

    @property
    def where(self) -> str:
        """The endpoint as ADDR:PORT."""
        host, port = self.endpoint
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def happened(self, kind: Kind) -> list[Event]:
        """List the events so far of one kind."""
        return [event for event in self.events if event.kind is kind]

    def move(self, sock: socket.socket) -> None:
        """Go on from another address."""
        self.sock.close()
        self.sock = sock

    def run_until(self, condition: Callable[[], bool], timeout: float = 5.0) -> None:
        """Handle datagrams and time until a condition holds. Raises `TimeoutError`."""
        deadline = time.monotonic() + timeout
        self.step(0.0)
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not so within {timeout} s; dropped: {dict(self.node.drops)}")
            self.step(0.02)

    def run_for(self, seconds: float) -> None:
        """Handle datagrams and time for so long: to see that something does not happen."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.step(0.01)

    def step(self, wait: float) -> None:
        """Handle what is there, waiting so long for the first datagram."""
        self._send()
        due = self.node.poll_timeout()
        patience = wait if due is None else max(0.0, min(wait, due - self.now))
        select.select([self.sock], [], [], patience)
        self._receive()
        self.node.handle_timeout(self.now)
        self._send()
        while (event := self.node.poll_event()) is not None:
            self.events.append(event)

    def send_raw(self, datagram: bytes, destination: Endpoint) -> None:
        """Send bytes as they are; what the kernel refuses is lost."""
        try:
            self.sock.sendto(datagram, destination)
            self.sent_bytes += len(datagram)
        except OSError:
            self.node.drop("send refused")

    def _receive(self) -> None:
        while True:
            try:
                datagram, source = self.sock.recvfrom(RECEIVE_BYTES)[:2]
            except (BlockingIOError, ConnectionRefusedError):
                return
            endpoint = (str(ipaddress.ip_address(source[0].split("%")[0])), source[1])
            if len(datagram) > self.path_bytes:
                continue
            self.received.append((datagram, endpoint))
            self.node.handle_datagram(datagram, endpoint, self.now)

    def send_train(self, datagrams: list[bytes], destination: Endpoint) -> None:
        """Send equally long datagrams, but for the last, in one system call: they arrive together."""
        size = struct.pack("=H", len(datagrams[0]))
        self.sock.sendmsg([b"".join(datagrams)], [(SOL_UDP, UDP_SEGMENT, size)], 0, destination)
        self.sent_bytes += sum(map(len, datagrams))

    def _send(self) -> None:
        train: list[Transmit] = []
        while (transmit := self.node.poll_transmit()) is not None:
            if train and not _continues(train, transmit):
                self._send_transmits(train)
                train = []
            train.append(transmit)
        self._send_transmits(train)

    def _send_transmits(self, train: list[Transmit]) -> None:
        if len(train) > 1:
            self.send_train([transmit.datagram for transmit in train], train[0].destination)
        elif train:
            self.send_raw(train[0].datagram, train[0].destination)


def _continues(train: list[Transmit], transmit: Transmit) -> bool:
    """Say whether a datagram may be the next of a train."""
    size = len(train[0].datagram)
    return (
        transmit.destination == train[0].destination
        and 0 < len(transmit.datagram) <= size == len(train[-1].datagram)
        and len(train) < MAX_TRAIN
    )
