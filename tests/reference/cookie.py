"""Cookies: proof that one receives at an address, given out under load. Source: docs/protocol.md §3.4."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Callable

from tests.reference import crypto
from tests.reference.datagram import Initiation

Endpoint = tuple[str, int]

COOKIE_LIFETIME = 120.0
INITIATIONS_PER_SECOND = 200
EXPECTED_PER_SECOND = 4
PROVED_PER_SECOND = 10
LOAD_LINGERS = 1.0


def address_bytes(endpoint: Endpoint) -> bytes:
    """Write an endpoint as 18 bytes: IP address (IPv4 mapped) and port."""
    address = ipaddress.ip_address(endpoint[0])
    packed = address.packed if address.version == 6 else bytes(10) + b"\xff\xff" + address.packed
    return packed + endpoint[1].to_bytes(2, "big")


class CookieJar:
    """The own secrets of which cookies are made: the newest and the one before."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        """Draw the first secret at the first use."""
        self._entropy = entropy
        self._secrets: list[bytes] = []
        self._drawn_at = 0.0

    def make(self, endpoint: Endpoint, now: float) -> bytes:
        """Make the cookie for an address."""
        self._turn(now)
        return crypto.mac16(self._secrets[0], address_bytes(endpoint))

    def proves(self, initiation: Initiation, endpoint: Endpoint, now: float) -> bool:
        """Say whether an initiation's mac2 proves the address it came from."""
        self._turn(now)
        where = address_bytes(endpoint)
        return any(initiation.has_mac2(crypto.mac16(secret, where)) for secret in self._secrets)

    def _turn(self, now: float) -> None:
        if self._secrets and now - self._drawn_at < COOKIE_LIFETIME:
            return
        keep = self._secrets[:1] if now - self._drawn_at < 2 * COOKIE_LIFETIME else []
        self._secrets, self._drawn_at = [self._entropy(32), *keep], now


class LoadMeter:
    """Counts initiations with a valid mac1: overall, and for addresses at which a friend is expected."""

    def __init__(self) -> None:
        """Start idle."""
        self._recent: deque[float] = deque()
        self._expected: dict[str, deque[float]] = {}
        self._proved: dict[str, deque[float]] = {}
        self.loaded_until = -1.0

    def admits(self, endpoint: Endpoint, *, proved: bool, expected: bool, now: float) -> bool:
        """Count an initiation; say whether it is served: all without load, else few of each address."""
        if _count(self._recent, now) > INITIATIONS_PER_SECOND:
            self.loaded_until = now + LOAD_LINGERS
        if now > self.loaded_until:
            return True
        if proved:
            return _count(self._proved.setdefault(_network(endpoint[0]), deque()), now) <= PROVED_PER_SECOND
        return expected and _count(self._expected.setdefault(endpoint[0], deque()), now) <= EXPECTED_PER_SECOND


def _network(host: str) -> str:
    """Give the IPv4 address or the IPv6 /64 of a host."""
    address = ipaddress.ip_address(host)
    return host if address.version == 4 else str(ipaddress.ip_network((address, 64), strict=False))


def _count(times: deque[float], now: float) -> int:
    """Note one more and count those of the last second."""
    times.append(now)
    while times[0] <= now - 1.0:
        times.popleft()
    return len(times)
