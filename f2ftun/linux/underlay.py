"""What the host has beside the overlay: interfaces that are up, their addresses, their routes.

An address in fc00::/8 belongs to an overlay, ours or another's, wherever it stands; so whatever carries only such
addresses is no underlay, and a rogue router advertisement cannot make one.
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Any

from pyroute2 import IPRoute

from f2ftun.linux.netlink import Netlink

OVERLAY = IPv6Network("fc00::/8")
"""Source: design.md §4, cjdns."""

DEFAULT_MTU_BYTES = 1500
"""Ethernet's, for a host without any network yet."""

IFF_UP, IFF_LOOPBACK, IFF_RUNNING = 0x1, 0x8, 0x40
"""Source: linux/if.h."""
IFA_F_TEMPORARY, IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE = 0x01, 0x08, 0x20, 0x40
"""Source: linux/if_addr.h. For IPv4 the first means: secondary."""
_LOCAL_TABLE = 255

Address = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A route of the underlay; `gateway` is empty where the destination is on the link, `interface` the index."""

    destination: str
    gateway: str
    interface: int
    priority: int


@dataclass(frozen=True, slots=True)
class Underlay:
    """A snapshot. `addresses`: (interface index, address), usable now; `mtu`: the smallest, in bytes."""

    addresses: frozenset[tuple[int, Address]]
    routes: frozenset[Route]
    mtu: int

    @property
    def interfaces(self) -> frozenset[int]:
        """The indices of the interfaces that have an address."""
        return frozenset(index for index, _ in self.addresses)


async def underlay_mtu(nl: Netlink) -> int:
    """Return the smallest MTU among the underlay's interfaces, in bytes; `DEFAULT_MTU_BYTES` where there is none."""
    return (await nl.run(read_underlay)).mtu


async def own_addresses(nl: Netlink) -> list[Address]:
    """Return the addresses at which others may reach this host, those of the default route's interface first.

    Global before private, IPv6 before IPv4; no link-local, temporary, deprecated or fc00::/8 address.
    """
    underlay = await nl.run(read_underlay)
    default = {route.interface for route in underlay.routes if route.destination == "default"}
    ranked = sorted(
        (index not in default, not address.is_global, -address.version, address)
        for index, address in underlay.addresses
    )
    return list(dict.fromkeys(address for *_, address in ranked))


def read_underlay(ip: IPRoute) -> Underlay:
    """Read a snapshot from the kernel, in some milliseconds."""
    up = {link["index"]: link for link in ip.get_links() if _is_up(link["flags"])}
    addresses = frozenset(
        (message["index"], address)
        for message in ip.get_addr()
        if message["index"] in up and (address := _usable(message)) is not None
    )
    indices = {index for index, _ in addresses}
    mtu = min((int(up[index].get("mtu")) for index in indices), default=DEFAULT_MTU_BYTES)
    routes = frozenset(_route(message) for message in ip.get_routes() if _leads(message, indices))
    return Underlay(addresses, routes, mtu)


def _is_up(flags: int) -> bool:
    return bool(flags & IFF_UP and flags & IFF_RUNNING and not flags & IFF_LOOPBACK)


def _usable(message: Any) -> Address | None:
    text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS") or 0
    unfit = IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE
    if message["family"] == socket.AF_INET6:
        unfit |= IFA_F_TEMPORARY
    if text is None or flags & unfit:
        return None
    address = ip_address(text)
    return address if _is_unicast(address) else None


def _is_unicast(address: Address) -> bool:
    special = address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified
    return not special and address not in OVERLAY


def _leads(message: Any, interfaces: set[int]) -> bool:
    return message.get("oif") in interfaces and message.get("table") != _LOCAL_TABLE and message["type"] == 1


def _route(message: Any) -> Route:
    destination = f"{message.get('dst')}/{message['dst_len']}" if message.get("dst") else "default"
    return Route(
        destination=destination,
        gateway=str(message.get("gateway") or ""),
        interface=message.get("oif"),
        priority=message.get("priority") or 0,
    )
