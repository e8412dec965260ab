"""How friends who both change address find each other again, with no server between.

Whenever a session comes up or the network changes, each tells the other where it can be reached now (`Endpoints`,
straight to that friend and to nobody else). Where a session stood is remembered in the store. When a friend does not
answer anywhere, names among the endpoints are resolved anew, a few at a time and ever more rarely.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final, Protocol

from f2ftun.core.friend import MAX_ENDPOINTS, Friend
from f2ftun.daemon.peers import Peers, is_literal
from f2ftun.dataplane import PeerState, PeerStatus
from f2ftun.errors import EndpointUnreadable, F2ftunError
from f2ftun.wire.control import Endpoints, write
from f2ftun.wire.endpoint import Endpoint, parse_endpoint, parse_listen

RESOLVERS: Final = 8
"""Names resolved at once; the resolver's own threads are no more."""

RESOLVE_TIMEOUT: Final = 5.0
"""Seconds for one name: glibc's own for one server."""

RESOLVE_INTERVAL: Final = 5.0
MAX_RESOLVE_INTERVAL: Final = 300.0
"""Seconds between two looks at the names of a friend who does not answer; doubled each time, up to the second."""

FLUSH_DELAY: Final = 1.0
"""Seconds in which endpoints that were seen are gathered before they are stored, all in one transaction."""

TELL_CHUNK: Final = 64
"""Friends told before others may have the loop."""

log = logging.getLogger(__name__)

Address = IPv4Address | IPv6Address


class Sender(Protocol):
    """What of a device is needed here. Source: f2ftun/dataplane.py."""

    def send_control(self, key: bytes, payload: bytes) -> bool:
        """Send one control message."""

    def dial(self, key: bytes) -> bool:
        """Try all endpoints of a peer now."""

    def peers(self) -> list[PeerState]:
        """Read the state of every peer."""


def answering(device: Sender) -> list[bytes]:
    """Give the peers who have a session: asking the device once costs less than sending to thousands in vain."""
    return [state.key for state in device.peers() if state.status is PeerStatus.UP]


class Rendezvous:
    """Keeps endpoints fresh, ours with friends and theirs with us.

    `save` stores where friends were last; `spawn` runs a task.
    """

    def __init__(
        self,
        peers: Peers,
        device: Sender,
        save: Callable[[list[Friend]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._peers = peers
        self._device = device
        self._save = save
        self._spawn = spawn
        self._own: tuple[str, ...] = ()
        self._seen: set[bytes] = set()
        self._tries: dict[bytes, tuple[int, float]] = {}

    def open(self) -> None:
        """Resolve the names of all friends who have some."""
        for friend in self._peers.friends.values():
            self.resolve(friend)

    def close(self) -> None:
        """Store what was seen."""
        self._flush()

    def handle_session(self, key: bytes, endpoint: str) -> None:
        """Remember where a friend is, and tell them where we are."""
        self._tries.pop(key, None)
        self.handle_endpoint(key, endpoint)
        if self._own:
            self._device.send_control(key, write(Endpoints(self._own)))

    def handle_endpoint(self, key: bytes, endpoint: str) -> None:
        """Remember where a friend is."""
        friend = self._peers.friends.get(key)
        if friend is None or friend.last_endpoint == endpoint or not is_literal(endpoint):
            return
        self._peers.note(replace(friend, last_endpoint=endpoint))
        self._remember(key)

    def _remember(self, key: bytes) -> None:
        """Store soon what was seen of a friend."""
        if not self._seen:
            asyncio.get_running_loop().call_later(FLUSH_DELAY, self._flush)
        self._seen.add(key)

    def _flush(self) -> None:
        """Store what was seen; a full disk costs only the memory of it."""
        seen = [self._peers.friends[key] for key in self._seen if key in self._peers.friends]
        self._seen.clear()
        if not seen:
            return
        try:
            self._save(seen)
        except F2ftunError as error:
            log.warning("where friends are was not stored: %s", error)

    def handle_endpoints(self, key: bytes, message: Endpoints) -> None:
        """Hear from a friend where they can be reached: more endpoints to try, from now on and after a restart."""
        friend = self._peers.friends[key]
        told = tuple(text for text in message.endpoints if is_tellable(text))
        if told != friend.told_endpoints:
            self._peers.put(replace(friend, told_endpoints=told))
            self._remember(key)

    def handle_unreachable(self, key: bytes) -> None:
        """Resolve the names of a friend anew, unless that was just done."""
        friend = self._peers.friends.get(key)
        count, due_at = self._tries.get(key, (0, 0.0))
        now = time.monotonic()
        if friend is None or now < due_at:
            return
        self._tries[key] = (count + 1, now + min(RESOLVE_INTERVAL * 2**count, MAX_RESOLVE_INTERVAL))
        self.resolve(friend)

    def resolve(self, friend: Friend) -> None:
        """Begin to resolve a friend's names, if there are any, and dial what comes of it."""
        names = [text for text in friend.endpoints if not is_literal(text)]
        if names:
            self._spawn(self._resolve(friend.key, names))

    async def _resolve(self, key: bytes, names: list[str]) -> None:
        """Resolve and dial."""
        found: list[str] = []
        for name in names:
            found += await lookup(parse_endpoint(name))
        if found and self._peers.learn(key, found):
            self._device.dial(key)

    async def tell_all(self, own: tuple[str, ...]) -> None:
        """Tell every friend who answers where we can be reached now, if that changed."""
        if own == self._own:
            return
        self._own = own
        message = write(Endpoints(own))
        for count, key in enumerate(answering(self._device)):
            self._device.send_control(key, message)
            if count % TELL_CHUNK == 0:
                await asyncio.sleep(0)


_resolving: Final = asyncio.Semaphore(RESOLVERS)


async def lookup(endpoint: Endpoint) -> list[str]:
    """Resolve an endpoint to literal ones, at most 16; to none if that fails or takes longer than `RESOLVE_TIMEOUT`."""
    async with _resolving:
        with contextlib.suppress(OSError, TimeoutError, UnicodeError):
            async with asyncio.timeout(RESOLVE_TIMEOUT):
                return await _resolve(endpoint)
    return []


async def _resolve(endpoint: Endpoint) -> list[str]:
    """Resolve an endpoint. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(str(endpoint.host), endpoint.port, type=socket.SOCK_DGRAM)
    texts = (str(Endpoint(ip_address(str(address[0]).partition("%")[0]), endpoint.port)) for *_, address in found)
    return [text for text in dict.fromkeys(texts) if is_literal(text)][:MAX_ENDPOINTS]


def is_tellable(text: str) -> bool:
    """Say whether a friend may send us there: an address, and not one of this host itself."""
    try:
        host = parse_endpoint(text).host
    except EndpointUnreadable:
        return False
    return not isinstance(host, str) and not host.is_loopback


def own_endpoints(listen: str, addresses: Iterable[Address], public: Iterable[str]) -> tuple[str, ...]:
    """Give where this node can be reached: the public endpoints of its config, then its addresses, at most 16.

    `listen` is the address and port, 0 if not known yet; `addresses` are the host's, best first.
    """
    bound = parse_listen(listen)
    hosts = [address for address in addresses if bound.port and _covers(bound.host, address)]
    every = [*public, *(str(Endpoint(host, bound.port)) for host in hosts)]
    return tuple(dict.fromkeys(every))[:MAX_ENDPOINTS]


def _covers(bound: Address | str, address: Address) -> bool:
    """Say whether a socket that is bound to one address receives what is sent to another."""
    if bound == IPv6Address("::"):
        return True
    return bound == address or (bound == IPv4Address("0.0.0.0") and address.version == 4)
