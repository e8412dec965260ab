"""A data plane and a host that live in memory: devices wired to each other, and a kernel that only remembers."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from nacl.bindings import crypto_scalarmult_base

from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home, create
from f2ftun.daemon.node import Node
from f2ftun.daemon.ping import Pinger
from f2ftun.dataplane import Event, EventKind, PeerState, PeerStatus
from f2ftun.linux import firewall
from f2ftun.linux.underlay import Underlay
from f2ftun.wire.endpoint import parse_endpoint


@dataclass
class FakePeer:
    """What a device was told of a peer, and who it is to them."""

    own_key: bytes
    address: bytes | None
    psk: bytes
    endpoints: list[str]
    keepalive_s: float
    session: FakeDevice | None = None
    hybrid_psk: bytes | None = None
    dialled: int = 0


class FakeDevice:
    """A device on a wire with others: a session stands where both ends know each other and the psk."""

    def __init__(self, wire: Wire, name: str, **options: Any) -> None:
        self.wire = wire
        self.options = options
        self.key = crypto_scalarmult_base(options["private_key"])
        self.endpoint = f"192.0.2.{len(wire.devices) + 1}:4242"
        self.name = name
        self.table: dict[bytes, FakePeer] = {}
        self.sent: list[tuple[bytes, bytes]] = []
        self.network_changes = 0
        self.running = False
        self._events: deque[Event] = deque()
        self._eventfd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        wire.devices.append(self)

    listen = "[::]:4242"
    offloads: list[str] = ["tso", "uso", "udp-gso", "udp-gro", "priority"]  # noqa: RUF012 - never changed

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False
        if self in self.wire.devices:
            self.wire.devices.remove(self)
            os.close(self._eventfd)

    def set_peer(
        self,
        key: bytes,
        *,
        address: bytes | None,
        psk: bytes,
        endpoints: list[str],
        keepalive_s: float = 25.0,
        own_private_key: bytes | None = None,
    ) -> None:
        if len(endpoints) > 16 or not all(parse_endpoint(text).literal for text in endpoints):
            raise ValueError("as the native one says")
        own_key = crypto_scalarmult_base(own_private_key) if own_private_key else self.key
        peer = FakePeer(own_key, address, psk, endpoints, keepalive_s)
        before = self.table.get(key)
        if before is not None and (before.own_key, before.psk) == (own_key, psk):
            peer.session, peer.hybrid_psk = before.session, before.hybrid_psk
        self.table[key] = peer

    def remove_peer(self, key: bytes) -> bool:
        return self.table.pop(key, None) is not None

    def set_hybrid_psk(self, key: bytes, psk: bytes, *, initiate: bool) -> bool:
        self.table[key].hybrid_psk = psk
        return initiate

    def send_control(self, key: bytes, payload: bytes) -> bool:
        peer = self.table.get(key)
        if peer is None or peer.session is None:
            return False
        self.sent.append((key, payload))
        peer.session.push(EventKind.CONTROL, peer.own_key, payload)
        return True

    def dial(self, key: bytes) -> bool:
        if key in self.table:
            self.table[key].dialled += 1
        return key in self.table

    def network_changed(self, underlay_mtu: int | None = None) -> None:
        self.network_changes += 1

    def peers(self) -> list[PeerState]:
        return [self._state(key, peer) for key, peer in self.table.items()]

    def _state(self, key: bytes, peer: FakePeer) -> PeerState:
        status = PeerStatus.UP if peer.session else PeerStatus.CONNECTING
        endpoint = peer.session.endpoint if peer.session else None
        rtt = 0.0004 if peer.session else None
        return PeerState(key, status, endpoint, rtt, rtt and 3.14, 7, 9, 1, 1, 1452, peer.hybrid_psk is not None)

    def drops(self) -> dict[str, int]:
        return {"rx_bad_source": 0, "rx_replayed": 3}

    def push(self, kind: EventKind, peer: bytes, payload: bytes = b"") -> None:
        """Have something to say."""
        if self not in self.wire.devices:
            return
        self._events.append(Event(kind, peer, payload))
        os.eventfd_write(self._eventfd, 1)

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def event_fd(self) -> int:
        return self._eventfd


@dataclass
class Wire:
    """What all devices hang on."""

    devices: list[FakeDevice] = field(default_factory=list)

    def connect(self) -> bool:
        """Make every session that can stand and does not; say whether there was one."""
        pairs = [(a, b) for a in self.devices for b in self.devices if a is not b]
        return sum(_connect(a, b) for a, b in pairs) > 0


def _connect(one: FakeDevice, other: FakeDevice) -> bool:
    """Connect two devices under every pair of keys that fits."""
    made = False
    for key, peer in one.table.items():
        back = other.table.get(peer.own_key)
        if back is None or key != back.own_key or peer.psk != back.psk or not (peer.endpoints or back.endpoints):
            continue
        if peer.session is None or back.session is None:
            peer.session, back.session = other, one
            one.push(EventKind.SESSION, key, other.endpoint.encode())
            other.push(EventKind.SESSION, peer.own_key, one.endpoint.encode())
            made = True
    return made


class FakeHost:
    """A host whose kernel only remembers what it was told."""

    def __init__(self, addresses: Iterable[IPv4Address | IPv6Address] = (IPv4Address("192.0.2.1"),)) -> None:
        self.mtu = 1400
        self.underlay_mtu = 1500
        self.found = list(addresses)
        self.rules: list[firewall.Rule] = []
        self.opened = False
        self.applied = 0
        self.change = asyncio.Event()
        self.gap = asyncio.Event()
        self.kept_shut = False
        self.delays: Iterator[float] = iter(())

    async def open(self, mtu: int | None, rules: Iterable[firewall.Rule]) -> int:
        self.mtu = mtu or self.mtu
        self.rules = list(rules)
        self.opened = True
        return -1

    async def apply(self, rules: Iterable[firewall.Rule]) -> None:
        self.applied += 1
        self.rules = list(rules)

    async def apply_rules(self, rules: Iterable[firewall.Rule]) -> None:
        wanted = list(rules)
        await asyncio.sleep(next(self.delays, 0))
        self.rules = wanted

    async def addresses(self) -> list[IPv4Address | IPv6Address]:
        return self.found

    @asynccontextmanager
    async def monitor(self) -> AsyncIterator[AsyncIterator[Underlay]]:
        async def changes() -> AsyncIterator[Underlay]:
            while True:
                await self.change.wait()
                self.change.clear()
                yield Underlay(frozenset(), frozenset(), 1500)

        yield changes()

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[AsyncIterator[list[str]]]:
        async def gaps() -> AsyncIterator[list[str]]:
            while True:
                await self.gap.wait()
                self.gap.clear()
                yield ["the firewall table"]

        yield gaps()

    async def close(self, *, keep_shut: bool = False) -> None:
        self.opened = False
        self.kept_shut = keep_shut


class FakePinger(Pinger):
    """Answers every ping from a list of round trip times."""

    def __init__(self, *times: float | None) -> None:
        self.times = list(times)

    async def ping(self, target: IPv6Address) -> float | None:
        return self.times.pop(0)


@dataclass
class Running:
    """A node that runs, and what is around it."""

    node: Node
    control: Control
    host: FakeHost

    @property
    def device(self) -> FakeDevice:
        device: Any = self.node.device
        assert isinstance(device, FakeDevice)
        return device

    async def ask(self, verb: str, **args: object) -> Any:
        """Ask one verb, as the server does."""
        return await ask(self.control, verb, **args)


async def ask(control: Control, verb: str, **args: object) -> Any:
    """Ask one verb of a node, by way of the schema."""
    from f2ftun.api import schema

    return await control.answer(schema.parse_request(schema.write_request(verb, args)))


@asynccontextmanager
async def running(home: Home, wire: Wire, *pings: float | None) -> AsyncIterator[Running]:
    """Run a node on a wire."""
    host: Any = FakeHost()

    def make_device(**options: Any) -> Any:
        return FakeDevice(wire, home.config.name, **options)

    node = Node(home, host, make_device)
    await node.open()
    try:
        yield Running(node, Control(home, node, FakePinger(*pings)), host)
    finally:
        await node.close()


def new_home(folder: Path, name: str, **settings: str) -> Home:
    """Make a node in a folder of its own."""
    return create(folder / name / "config.yaml", name=name, **settings)


async def settle(wire: Wire, until: Callable[[], bool]) -> None:
    """Let events flow and sessions stand until something is true."""
    async with asyncio.timeout(5.0):
        while not until():
            wire.connect()
            await asyncio.sleep(0)


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run a test that waits."""

    async def run() -> None:
        await story()

    asyncio.run(run())
