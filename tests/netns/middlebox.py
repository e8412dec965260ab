"""A wire that can be made bad: between two interfaces, frame by frame, in a thread of the test.

Frames that the impairments let through keep their addresses, so neither end can tell that the box is there. An
impairment takes one frame and returns those to be sent on, each perhaps later; a chain of them makes a bad day. About
100,000 frames per second without impairments.
"""

from __future__ import annotations

import heapq
import os
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from tests.netns.lab import Lab, Namespace, v4, v6
from tests.netns.packet import UdpFrame, read_udp

NOBODIES = (98, 99)
"""Hosts that are not there, to whom both ends would send if they were led to: their link-layer address is known."""

Direction = int
"""Toward the first end (0) or the second (1)."""


@dataclass(slots=True)
class Frame:
    """One Ethernet frame on its way `toward` an end, to be sent `delay_s` from now."""

    raw: bytes
    toward: Direction
    delay_s: float = 0.0

    @property
    def udp(self) -> UdpFrame | None:
        """The datagram in it, if it carries one."""
        return read_udp(self.raw)


Impairment = Callable[[Frame], Iterable[Frame]]


def loss(share: float, chance: random.Random) -> Impairment:
    """Lose a share of the datagrams."""
    return lambda frame: [] if chance.random() < share else [frame]


def duplicate(share: float, chance: random.Random) -> Impairment:
    """Send a share of the datagrams twice."""
    return lambda frame: [frame, frame] if chance.random() < share else [frame]


def delay(seconds: float) -> Impairment:
    """Send every frame later, in order."""
    return lambda frame: [replace(frame, delay_s=frame.delay_s + seconds)]


def reorder(share: float, seconds: float, chance: random.Random) -> Impairment:
    """Hold a share of the datagrams back, each for up to `seconds`, so that later ones overtake."""

    def held(frame: Frame) -> list[Frame]:
        late = chance.random() * seconds if chance.random() < share else 0.0
        return [replace(frame, delay_s=frame.delay_s + late)]

    return held


def corrupt(share: float, chance: random.Random) -> Impairment:
    """Flip one bit in a share of the datagrams' payloads, and repair the UDP checksum so that they arrive."""

    def flipped(frame: Frame) -> list[Frame]:
        udp = frame.udp if chance.random() < share else None
        if udp is None or not udp.payload:
            return [frame]
        payload = bytearray(udp.payload)
        payload[chance.randrange(len(payload))] ^= 1 << chance.randrange(8)
        return [replace(frame, raw=udp.rebuilt(payload=bytes(payload)))]

    return flipped


def black_hole(ip_bytes: int) -> Impairment:
    """Swallow datagrams whose IP packet is larger than `ip_bytes`, silently, as a path without ICMP does."""
    return lambda frame: [] if frame.udp and len(frame.raw) - 14 > ip_bytes else [frame]


def cut() -> Impairment:
    """Swallow every datagram."""
    return lambda frame: [] if frame.udp else [frame]


@dataclass(slots=True)
class Hold:
    """Keep the datagrams that `wanted` picks, until released."""

    wanted: Callable[[Frame], bool]
    held: list[Frame] = field(default_factory=list)

    def __call__(self, frame: Frame) -> list[Frame]:
        """Keep or pass one."""
        if self.wanted(frame):
            self.held.append(frame)
            return []
        return [frame]


class Middlebox:
    """The box: a thread that moves frames between two interfaces of one namespace."""

    def __init__(self, namespace: Namespace, interfaces: Sequence[str]) -> None:
        self.namespace = namespace
        self.impairments: list[Impairment] = []
        self.recorded: list[Frame] | None = None
        self.moved = 0
        self._sockets = [namespace.packet_socket(interface) for interface in interfaces]
        self._later: list[tuple[float, int, Frame]] = []
        self._order = 0
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._running = True
        self._thread = threading.Thread(target=self._move, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the sockets."""
        self._running = False
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        for each in self._sockets:
            each.close()
        os.close(self._wake)

    def impair(self, *impairments: Impairment) -> None:
        """Treat datagrams so from now on; none means a good wire. Frames that are not UDP always pass."""
        self.impairments = list(impairments)

    def record(self) -> list[Frame]:
        """Start keeping every datagram that arrives at the box, and return the growing list."""
        self.recorded = []
        return self.recorded

    def inject(self, raw: bytes, toward: Direction) -> None:
        """Send one frame of one's own."""
        self._sockets[toward].send(raw)

    def _move(self) -> None:
        poll = select.poll()
        by_fd = {each.fileno(): end for end, each in enumerate(self._sockets)}
        for fd in (*by_fd, self._wake):
            poll.register(fd, select.POLLIN)
        while self._running:
            for fd, _ in poll.poll(self._patience_ms()):
                if fd in by_fd:
                    self._drain(by_fd[fd])
            self._release()

    def _patience_ms(self) -> float | None:
        if not self._later:
            return None
        return max(0.0, (self._later[0][0] - time.monotonic()) * 1000)

    def _drain(self, end: int) -> None:
        source, toward = self._sockets[end], 1 - end
        send = self._sockets[toward].send
        for _ in range(64):
            try:
                raw = source.recv(65600, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self.moved += 1
            if self.impairments or self.recorded is not None:
                self._treat(Frame(raw, toward))
            else:
                _offer(send, raw)

    def _treat(self, frame: Frame) -> None:
        if frame.udp is None:
            _offer(self._sockets[frame.toward].send, frame.raw)
            return
        if self.recorded is not None:
            self.recorded.append(frame)
        frames = [frame]
        for impairment in list(self.impairments):
            frames = [out for each in frames for out in impairment(each)]
        for each in frames:
            self._dispatch(each)

    def _dispatch(self, frame: Frame) -> None:
        if frame.delay_s <= 0:
            _offer(self._sockets[frame.toward].send, frame.raw)
            return
        self._order += 1
        heapq.heappush(self._later, (time.monotonic() + frame.delay_s, self._order, frame))

    def _release(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            frame = heapq.heappop(self._later)[2]
            _offer(self._sockets[frame.toward].send, frame.raw)


def _offer(send: Callable[[bytes], int], raw: bytes) -> None:
    try:
        send(raw)
    except OSError:
        return  # the far interface is down or full: a wire would lose the frame too


def join(lab: Lab, a: Namespace, b: Namespace, *, network: int = 0, mtu: int = 1500) -> Middlebox:
    """Put a box between two namespaces, which are hosts 1 and 2 of a network, and see nothing of it."""
    between = lab.namespace(f"box{network}")
    interfaces = []
    for host, end in enumerate((a, b), 1):
        outer, inner = lab.wire(end, between, mtu=mtu)
        lab.address(end, outer, network, host)
        end.offloads_off(outer)
        between.run("ip", "link", "set", inner, "addrgenmode", "none")
        for nobody in NOBODIES:
            argv = ("ip", "neigh", "replace", v4(network, nobody), "lladdr", f"02:00:00:00:00:{nobody}", "dev", outer)
            end.run(*argv)
        interfaces.append(inner)
    box = Middlebox(between, interfaces)
    lab.defer(box.stop)
    return box


__all__ = ["Direction", "Frame", "Hold", "Impairment", "Middlebox", "join", "v4", "v6"]
