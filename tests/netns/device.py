"""A real data plane with a TUN in a namespace, and reference friends of it on the namespace's loopback."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import pytun

from f2ftun import dataplane
from f2ftun.dataplane import Device, EventKind, PeerState
from f2ftun.linux.tun import Tun, open_tun
from tests.netns.lab import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE, SOL_PACKET, Namespace
from tests.reference.event import Event, Kind
from tests.reference.identity import Device as Identity
from tests.reference.identity import address_of
from tests.reference.node import Node
from tests.reference.superpacket import mark_runs
from tests.reference.udp import UdpNode, bind

INTERFACE, MTU = "f2f0", 1400
LOOPBACK = "127.0.0.1"
N = TypeVar("N", bound=Node)


def text(address: bytes) -> str:
    """Write 16 bytes as an IPv6 address."""
    return socket.inet_ntop(socket.AF_INET6, address)


def address_interface(namespace: Namespace, address: bytes, mtu: int) -> None:
    """Give the TUN in a namespace what a daemon gives it."""
    namespace.run("ip", "link", "set", INTERFACE, "mtu", str(mtu), "addrgenmode", "none", "up")
    namespace.run("ip", "address", "add", f"{text(address)}/128", "dev", INTERFACE, "nodad", "noprefixroute")
    namespace.run("ip", "route", "add", "fc00::/8", "dev", INTERFACE)


class Inbox:
    """A socket and all that came to it; a context manager."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.setblocking(False)
        self._came: list[bytes] = []

    def __enter__(self) -> Inbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.sock.close()

    def came(self) -> list[bytes]:
        """List all that came so far."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._came.append(self.sock.recv(1 << 17))
        return self._came


class RealNode:
    """A `Device` with the TUN, address and route that a daemon gives it; a context manager."""

    def __init__(
        self, namespace: Namespace, identity: Identity, *, mtu: int = MTU, listen: str = f"{LOOPBACK}:0"
    ) -> None:
        self.namespace, self.identity = namespace, identity
        self.key, self.address = identity.key, identity.address
        self.events: list[dataplane.Event] = []
        with namespace.entered():
            self.tun: Tun = open_tun(INTERFACE)
            self.device = Device(
                private_key=identity.private_key,
                tun_fd=self.tun.fileno(),
                listen=listen,
                mtu=mtu,
                underlay_mtu=1500,
                keylog=str(namespace.folder / "keylog"),
            )
        address_interface(namespace, self.address, mtu)
        self.device.start()

    def __enter__(self) -> RealNode:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.device.stop()
        self.tun.close()

    @property
    def endpoint(self) -> tuple[str, int]:
        """Where it can be reached on the loopback."""
        host, _, port = self.device.listen.rpartition(":")
        return LOOPBACK if host == "[::]" else host.strip("[]"), int(port)

    def befriend(self, friend: UdpNode, *, psk: bytes = bytes(32), dial: bool = False, known: bool = True) -> None:
        """Make a reference node and this one friends; with `dial` the endpoint is told, with `known` the other way."""
        where = [friend.where] if dial else []
        self.device.set_peer(friend.node.key, address=friend.node.address, psk=psk, endpoints=where)
        friend.node.add_peer(self.key, psk=psk, endpoints=[self.endpoint] if known else [])

    def state(self, key: bytes) -> PeerState:
        """Read the state of a friend."""
        return next(state for state in self.device.peers() if state.key == key)

    def happened(self, kind: EventKind, key: bytes) -> list[bytes]:
        """List the payloads of all events so far of one kind with one friend."""
        while (event := self.device.poll_event()) is not None:
            self.events.append(event)
        return [event.payload for event in self.events if (event.kind, event.peer) == (kind, key)]

    def inbox(self, port: int = 0) -> Inbox:
        """Open a UDP socket at the overlay address."""
        udp = self.namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM)
        udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        udp.bind((text(self.address), port))
        return Inbox(udp)

    def watch(self) -> Inbox:
        """Open a socket that sees every packet which comes out of the TUN, from its IPv6 header on."""
        with self.namespace.entered():
            watcher = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            watcher.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            watcher.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            watcher.bind((INTERFACE, ETH_P_ALL))
        return Inbox(watcher)

    def reference(self, make: Callable[[bytes], N], identity: Identity, at: str = LOOPBACK) -> UdpNode:
        """Put a reference node on this namespace's loopback."""
        with self.namespace.entered():
            return UdpNode(make(identity.private_key), bind(at))


def resident_bytes() -> int:
    """Tell how much memory this process holds."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class ReferenceHost:
    """A reference node with a TUN of its own in another namespace: the kernel there talks TCP through it."""

    def __init__(self, namespace: Namespace, friend: UdpNode, to: bytes) -> None:
        self.friend, self._to = friend, to
        self.came: list[Event] = []
        with namespace.entered():
            self.tun = pytun.TunTapDevice(name=INTERFACE, flags=pytun.IFF_TUN | pytun.IFF_NO_PI)
        address_interface(namespace, friend.node.address, MTU)
        os.set_blocking(self.tun.fileno(), False)

    def step(self) -> None:
        """Carry what is there, both ways."""
        packets: list[bytes] = []
        with contextlib.suppress(BlockingIOError):
            while len(packets) < 64:
                packets.append(os.read(self.tun.fileno(), 1 << 16))
        for frame in mark_runs([packet for packet in packets if packet[24:40] == address_of(self._to)]):
            self.friend.node.send_frame(self._to, frame.write(), self.friend.now)
        self.friend.step(0.0 if packets else 0.001)
        for event in self.friend.happened(Kind.PACKET):
            os.write(self.tun.fileno(), event.payload)
        self.came += self.friend.happened(Kind.PACKET)
        self.friend.events.clear()

    def close(self) -> None:
        """Let the TUN go."""
        self.tun.close()
