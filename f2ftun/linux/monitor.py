"""Tell when the underlay changed: another address, another route, a cable pulled and put back.

The kernel announces far more than changes (each router advertisement renews addresses that stay), and one change comes
as ten announcements. So announcements only wake: after `debounce_s` of quiet a snapshot is compared with the last one.
An address or a link that went away in between counts even when the same came back: the path behind it may be another.

The socket is a plain one, which every event loop can watch, uvloop too; the snapshot is read in the netlink thread.
"""

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Self

from f2ftun.linux.netlink import Netlink
from f2ftun.linux.underlay import IFF_RUNNING, Underlay, read_underlay

DEBOUNCE_S = 0.1
MAX_WAIT_S = 1.0
"""A host whose announcements never pause is looked at this often."""

_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""Links; addresses and routes of IPv4 and of IPv6. Source: RTMGRP_* in linux/rtnetlink.h."""
_NEWLINK, _DELLINK, _DELADDR = 16, 17, 21
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BxHiI")
_ADDRESS = struct.Struct("=BBBBi")
_MAX_DATAGRAM_BYTES = 65536


class Monitor:
    """An asynchronous context manager and iterator; each item is the underlay as it is now, unlike the last one."""

    def __init__(self, nl: Netlink, *, debounce_s: float = DEBOUNCE_S) -> None:
        self._nl = nl
        self._debounce_s = debounce_s
        self._woken = asyncio.Event()
        self._lost = False
        self._socket: socket.socket | None = None
        self._underlay = Underlay(frozenset(), frozenset(), 0)

    async def __aenter__(self) -> Self:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _GROUPS))
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)
        self._underlay = await self._nl.run(read_underlay)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Underlay:
        while True:
            await self._settle()
            if await self._look():
                return self._underlay

    async def _settle(self) -> None:
        """Wait for an announcement, then until none came for a while."""
        await self._woken.wait()
        deadline = asyncio.get_running_loop().time() + MAX_WAIT_S
        while asyncio.get_running_loop().time() < deadline:
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), self._debounce_s)
            except TimeoutError:
                return

    async def _look(self) -> bool:
        lost, self._lost = self._lost, False
        before, self._underlay = self._underlay, await self._nl.run(read_underlay)
        return lost or before != self._underlay

    def _read(self) -> None:
        assert self._socket is not None
        try:
            datagram, (sender, _) = self._socket.recvfrom(_MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS: more was announced than the socket holds
            sender, datagram = 0, b""
        if sender == 0:
            self._lost = self._lost or any(index in self._underlay.interfaces for index in gone(datagram))
            self._woken.set()


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
