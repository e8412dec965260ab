"""Hear what the kernel announces, in batches: one change of the host comes as ten announcements within milliseconds.

The sockets are plain ones, which every event loop can watch, uvloop too; pyroute2's cannot be watched there.
"""

import asyncio
import socket
from typing import Self

DEBOUNCE_S = 0.1
MAX_WAIT_S = 1.0
"""A host whose announcements never pause is looked at this often."""
ROUTE_LINKS, ROUTE_ADDRESSES, ROUTE_ROUTES, ROUTE_RULES = 0x1, 0x10 | 0x100, 0x40 | 0x400, 1 << 18
"""Groups of NETLINK_ROUTE, IPv4 and IPv6. Source: RTMGRP_*, RTNLGRP_IPV6_RULE in linux/rtnetlink.h."""
NETFILTER = 12
NETFILTER_TABLES = 1 << 6
"""NETLINK_NETFILTER and its group for nftables. Source: linux/netlink.h, linux/netfilter/nfnetlink.h."""
_MAX_DATAGRAM_BYTES = 65536
_KERNEL = 0
"""The sender's port of what the kernel itself says; another program's word counts nothing."""


class Announcements:
    """A context manager inside a running loop. `sources`: (netlink protocol, mask of groups)."""

    def __init__(self, *sources: tuple[int, int], debounce_s: float = DEBOUNCE_S) -> None:
        self._sources = sources
        self._debounce_s = debounce_s
        self._woken = asyncio.Event()
        self._heard: list[tuple[int, bytes]] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        for protocol, groups in self._sources:
            opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            self._sockets.append(opened)
            opened.bind((0, groups))
            asyncio.get_running_loop().add_reader(opened.fileno(), self._read, protocol, opened)
        return self

    def __exit__(self, *_: object) -> None:
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened.fileno())
            opened.close()
        self._sockets.clear()

    async def batch(self) -> list[tuple[int, bytes]]:
        """Wait for an announcement, then until none came for a while; return all, each with its protocol.

        An empty datagram stands for those that the socket had no room for.
        """
        await self._woken.wait()
        deadline = asyncio.get_running_loop().time() + MAX_WAIT_S
        while self._woken.is_set() and asyncio.get_running_loop().time() < deadline:
            self._woken.clear()
            await asyncio.sleep(self._debounce_s)
        self._woken.clear()
        heard, self._heard = self._heard, []
        return heard

    def _read(self, protocol: int, opened: socket.socket) -> None:
        try:
            datagram, (sender, _) = opened.recvfrom(_MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:  # ENOBUFS
            datagram, sender = b"", _KERNEL
        if sender == _KERNEL:
            self._heard.append((protocol, datagram))
            self._woken.set()
