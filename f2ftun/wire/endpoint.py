"""Where a node can be reached: an address or host name, and a UDP port.

As text: `192.0.2.7:4242`, `[2001:db8::7]:4242`, `host.example:4242`. One endpoint has one way to be written: addresses
in their shortest form, host names in lower case. An overlay address (fc00::/8), a `.f2f` name and what cannot be sent
to are no endpoints.

Source: docs/protocol.md §6.1, §8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from f2ftun.errors import EndpointUnreadable

OVERLAY = IPv6Network("fc00::/8")
MAX_HOST_CHARACTERS = 253
"""Source: RFC 1035 §2.3.4, without the final dot."""
MAX_CHARACTERS = MAX_HOST_CHARACTERS + len(":65535")

_SPLIT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})")
_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host (an address, or a name in lower case) and a port, 1 to 65535 (0 only to listen on)."""

    host: IPv4Address | IPv6Address | str
    port: int

    def __str__(self) -> str:
        """Write it as `parse_endpoint` reads it."""
        return f"[{self.host}]:{self.port}" if isinstance(self.host, IPv6Address) else f"{self.host}:{self.port}"

    @property
    def literal(self) -> bool:
        """Whether it is an address and needs no resolving."""
        return not isinstance(self.host, str)


def parse_endpoint(text: str) -> Endpoint:
    """Read where to send to. Raises `EndpointUnreadable` that says why."""
    host, port = _split(text)
    reason = _unreachable(host)
    if port == 0:
        reason = "port 0 does not exist"
    if reason:
        raise EndpointUnreadable(text=text, reason=reason)
    return Endpoint(host, port)


def parse_listen(text: str) -> Endpoint:
    """Read where to listen: an address, perhaps `[::]`, and a port, perhaps 0 for any. Raises `EndpointUnreadable`."""
    host, port = _split(text)
    if isinstance(host, str):
        raise EndpointUnreadable(text=text, reason="one listens on an address, not on a name")
    if host.is_multicast or host in OVERLAY:
        raise EndpointUnreadable(text=text, reason="one cannot listen on that address")
    return Endpoint(host, port)


def _split(text: str) -> tuple[IPv4Address | IPv6Address | str, int]:
    match = _SPLIT.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None:
        raise EndpointUnreadable(text=text, reason="an endpoint is a host, a colon and a port")
    if int(match[3]) > 65535:
        raise EndpointUnreadable(text=text, reason="the highest port is 65535")
    return _host(text, match[1], match[2]), int(match[3])


def _host(text: str, bracketed: str | None, bare: str) -> IPv4Address | IPv6Address | str:
    try:
        if bracketed is None:
            return IPv4Address(bare)
        address = IPv6Address(bracketed)
    except ValueError:
        return _name(text, f"[{bracketed}]" if bracketed else bare.lower())
    return address.ipv4_mapped or address


def _name(text: str, host: str) -> str:
    if _HOST.fullmatch(host) is None or len(host) > MAX_HOST_CHARACTERS:
        raise EndpointUnreadable(text=text, reason="that is neither an address nor a host name")
    if host.endswith(".f2f"):
        raise EndpointUnreadable(text=text, reason="a .f2f name is reached over the tunnel, it cannot carry it")
    return host


def _unreachable(host: IPv4Address | IPv6Address | str) -> str | None:
    """Say why nothing can be sent to a host, if so."""
    if isinstance(host, str):
        return None
    if host in OVERLAY:
        return "an address in fc00::/8 is reached over the tunnel, it cannot carry it"
    if host.is_unspecified or host.is_multicast or host == IPv4Address("255.255.255.255"):
        return "that is not the address of one host"
    return "a link-local address means something else on every link" if host.is_link_local else None
