"""Tell when the underlay changed: another address, another route, a cable pulled and put back.

The kernel announces far more than changes (each router advertisement renews addresses that stay). So announcements only
wake: after a moment of quiet a snapshot is compared with the last one. An address or a link that went away in between
counts even when the same came back: the path behind it may be another.
"""

import socket
import struct
from collections.abc import Iterator
from typing import Self

from f2ftun.linux.announcement import DEBOUNCE_S, ROUTE_ADDRESSES, ROUTE_LINKS, ROUTE_ROUTES, Announcements
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.underlay import IFF_RUNNING, Underlay, read_underlay

_NEWLINK, _DELLINK, _DELADDR = 16, 17, 21
"""Source: linux/rtnetlink.h."""
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiI")
_ADDRESS = struct.Struct("=BBBBi")


class Monitor:
    """An asynchronous context manager and iterator; each item is the underlay as it is now, after a change."""

    def __init__(self, nl: Netlink, *, debounce_s: float = DEBOUNCE_S) -> None:
        self._nl = nl
        groups = ROUTE_LINKS | ROUTE_ADDRESSES | ROUTE_ROUTES
        self._announcements = Announcements((socket.NETLINK_ROUTE, groups), debounce_s=debounce_s)
        self._underlay = Underlay(frozenset(), frozenset(), 0)

    async def __aenter__(self) -> Self:
        self._announcements.__enter__()
        self._underlay = await self._nl.run(read_underlay)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._announcements.__exit__()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Underlay:
        while True:
            batch = await self._announcements.batch()
            lost = any(index in self._underlay.interfaces for _, datagram in batch for index in gone(datagram))
            before, self._underlay = self._underlay, await self._nl.run(read_underlay)
            if lost or before != self._underlay:
                return self._underlay


def gone(datagram: bytes) -> Iterator[int]:
    """Yield the index of each interface that a datagram of the kernel says has lost an address or its carrier."""
    while len(datagram) >= _HEADER.size:
        length, kind, *_ = _HEADER.unpack_from(datagram)
        body = datagram[_HEADER.size : length]
        if kind == _DELADDR and len(body) >= _ADDRESS.size:
            yield _ADDRESS.unpack_from(body)[4]
        elif kind in {_NEWLINK, _DELLINK} and len(body) >= _LINK.size:
            _, _, index, flags = _LINK.unpack_from(body)
            if kind == _DELLINK or not flags & IFF_RUNNING:
                yield index
        datagram = datagram[max(_HEADER.size, (length + 3) & ~3) :]
