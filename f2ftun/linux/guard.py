"""Tell when another program took away what keeps the overlay shut.

`nft flush ruleset` stands at the top of many a firewall's start script, and programs that manage interfaces set down
what they do not know. The daemon puts back what a guard names. What the daemon itself changes is not told: after a
moment of quiet, all is there.
"""

import socket
from ipaddress import IPv6Address
from typing import Self

from f2ftun.linux import firewall, link, routing
from f2ftun.linux.announcement import (
    DEBOUNCE_S,
    NETFILTER,
    NETFILTER_TABLES,
    ROUTE_ADDRESSES,
    ROUTE_LINKS,
    ROUTE_ROUTES,
    ROUTE_RULES,
    Announcements,
)
from f2ftun.linux.netlink import Netlink

_ROUTE_GROUPS = ROUTE_LINKS | ROUTE_ADDRESSES | ROUTE_ROUTES | ROUTE_RULES


class Guard:
    """An asynchronous context manager and iterator; each item names what is gone, e.g. `["the firewall table"]`.

    Needs CAP_NET_ADMIN, for the announcements of nftables.
    """

    def __init__(self, nl: Netlink, interface: str, address: IPv6Address, *, debounce_s: float = DEBOUNCE_S) -> None:
        self._nl = nl
        self._interface = interface
        self._address = address
        self._announcements = Announcements(
            (socket.NETLINK_ROUTE, _ROUTE_GROUPS), (NETFILTER, NETFILTER_TABLES), debounce_s=debounce_s
        )

    async def __aenter__(self) -> Self:
        self._announcements.__enter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._announcements.__exit__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[str]:
        while True:
            batch = await self._announcements.batch()
            if gaps := await self._gaps({protocol for protocol, _ in batch}):
                return gaps

    async def _gaps(self, protocols: set[int]) -> list[str]:
        """Look only at what was announced: the firewall costs a child process."""
        gaps = []
        if socket.NETLINK_ROUTE in protocols:
            gaps += await self._nl.run(routing.look_for_gaps, self._interface)
            gaps += await self._nl.run(link.look_for_gaps, self._interface, self._address)
        if NETFILTER in protocols and not await firewall.stands():
            gaps.append("the firewall table")
        return gaps
