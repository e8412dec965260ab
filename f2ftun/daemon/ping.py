"""ICMPv6 echo through the kernel: what `ping6` does, so that a reply proves the whole way, TUN and firewall included.

One raw socket, opened before privileges are dropped. Its filter (RFC 3542 §3.2) lets nothing in but echo replies
while a ping waits, and nothing at all otherwise, so that it costs nothing between pings.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from ipaddress import IPv6Address
from typing import Final

from f2ftun.errors import PingImpossible

ECHO_REQUEST: Final = 128
ECHO_REPLY: Final = 129
"""ICMPv6 types. Source: RFC 4443 §4.1, §4.2."""

ICMP6_FILTER: Final = 1
"""Socket option. Source: linux/icmpv6.h."""

PAYLOAD_BYTES: Final = 56
"""As ping6 sends."""

REPLY_TIMEOUT: Final = 2.0
"""Seconds; more than a handshake with two lost datagrams."""

_BLOCK_ALL: Final = b"\xff" * 32
_HEADER: Final = struct.Struct("!BBHHH")


def _pass_only(kind: int) -> bytes:
    """Give the filter that blocks every type but one: bit n of the little-endian words blocks type n."""
    blocked = bytearray(_BLOCK_ALL)
    blocked[kind // 8] &= ~(1 << kind % 8) & 0xFF
    return bytes(blocked)


_PASS_REPLIES: Final = _pass_only(ECHO_REPLY)


class Pinger:
    """Sends echo requests and matches the replies."""

    def __init__(self) -> None:
        self._socket = _open()
        self._ident = int.from_bytes(os.urandom(2))
        self._waiting: dict[tuple[str, int], asyncio.Future[float]] = {}

    async def ping(self, target: IPv6Address, sequence: int) -> float | None:
        """Give the round trip time in seconds, or `None` after `REPLY_TIMEOUT`. Raises `PingImpossible`, `OSError`."""
        if self._socket is None:
            raise PingImpossible
        key = (str(target), sequence & 0xFFFF)
        came = asyncio.get_running_loop().create_future()
        self._open_gate()
        self._waiting[key] = came
        try:
            return await self._round_trip(self._socket, key, came)
        finally:
            self._waiting.pop(key, None)
            self._close_gate()

    async def _round_trip(
        self, socket_: socket.socket, key: tuple[str, int], came: asyncio.Future[float]
    ) -> float | None:
        """Send one request and wait."""
        sent = time.monotonic()
        message = _HEADER.pack(ECHO_REQUEST, 0, 0, self._ident, key[1]) + bytes(PAYLOAD_BYTES)
        socket_.sendto(message, (key[0], 0))
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(came, REPLY_TIMEOUT) - sent
        return None

    def _open_gate(self) -> None:
        """Let replies in, from the first waiting ping on."""
        if self._socket is not None and not self._waiting:
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, _PASS_REPLIES)
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _close_gate(self) -> None:
        """Let nothing in, after the last."""
        if self._socket is not None and not self._waiting:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, _BLOCK_ALL)

    def _read(self) -> None:
        """Take every reply that is there; those of other programs' pings are not ours."""
        while self._socket is not None:
            try:
                message, source = self._socket.recvfrom(2048)
            except OSError:
                return
            self._handle(message, str(IPv6Address(source[0].partition("%")[0])))

    def _handle(self, message: bytes, source: str) -> None:
        """Give one reply to the ping that waits for it."""
        if len(message) < _HEADER.size:
            return
        kind, _, _, ident, sequence = _HEADER.unpack_from(message)
        came = self._waiting.get((source, sequence))
        if kind == ECHO_REPLY and ident == self._ident and came is not None and not came.done():
            came.set_result(time.monotonic())

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _open() -> socket.socket | None:
    """Open the raw socket, closed to everything; `None` without the right to."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    try:
        opened = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
    except PermissionError:
        return None
    opened.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, _BLOCK_ALL)
    return opened
