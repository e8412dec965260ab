"""ICMPv6 echo through the kernel: what `ping6` does, so that a reply proves the whole way, TUN and firewall included.

One socket, opened before privileges are dropped. Its filter (RFC 3542 §3.2) lets nothing in but echo replies
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


KEPT: Final = "F2FTUN_PING_FD"
"""In the environment: the raw socket's descriptor, for the program that this process may become."""

_inherited: Final = [os.environ[KEPT]] if KEPT in os.environ else []


class Pinger:
    """Sends echo requests and matches the replies; `close` when done."""

    def __init__(self) -> None:
        self._gate = _open()
        self._sequence = 0
        self._waiting: dict[tuple[str, int], asyncio.Future[float]] = {}

    async def ping(self, target: IPv6Address) -> float | None:
        """Give the round trip time in seconds, or `None` after `REPLY_TIMEOUT`. Raises `PingImpossible`."""
        if self._gate is None:
            raise PingImpossible
        self._sequence = (self._sequence + 1) & 0xFFFF
        key = (str(target), self._sequence)
        came = asyncio.get_running_loop().create_future()
        self._listen(self._gate)
        self._waiting[key] = came
        try:
            return await _round_trip(self._gate, key, came)
        finally:
            del self._waiting[key]
            self._rest(self._gate)

    def _listen(self, gate: Gate) -> None:
        """Let replies in, from the first waiting ping on."""
        if not self._waiting:
            gate.pass_replies(True)
            asyncio.get_running_loop().add_reader(gate.socket.fileno(), self._read, gate)

    def _rest(self, gate: Gate) -> None:
        """Let nothing in, after the last."""
        if not self._waiting:
            asyncio.get_running_loop().remove_reader(gate.socket.fileno())
            gate.pass_replies(False)

    def _read(self, gate: Gate) -> None:
        """Take every reply that is there; those to other programs are not ours."""
        while True:
            try:
                message, source = gate.socket.recvfrom(2048)
            except OSError:
                return
            reply = gate.parse(message)
            came = self._waiting.get((str(IPv6Address(source[0].partition("%")[0])), reply))
            if came is not None and not came.done():
                came.set_result(time.monotonic())

    def close(self) -> None:
        """Close the socket."""
        if self._gate is not None:
            self._gate.socket.close()
            self._gate = None


async def _round_trip(gate: Gate, key: tuple[str, int], came: asyncio.Future[float]) -> float | None:
    """Send one request and wait; a kernel that has no way there is no reply either."""
    sent_at = time.monotonic()
    with contextlib.suppress(OSError, TimeoutError):
        gate.socket.sendto(gate.request(key[1]), (key[0], 0))
        async with asyncio.timeout(REPLY_TIMEOUT):
            return await came - sent_at
    return None


class Gate:
    """A socket for ICMPv6 echo: raw, with a filter, or the kernel's ping socket, which needs none and no rights."""

    def __init__(self, opened: socket.socket, raw: bool) -> None:
        self.socket = opened
        self._raw = raw
        self._ident = int.from_bytes(os.urandom(2)) if raw else 0
        self.pass_replies(False)

    def pass_replies(self, wanted: bool) -> None:
        """Let echo replies in, or nothing."""
        if self._raw:
            self.socket.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, _PASS_REPLIES if wanted else _BLOCK_ALL)

    def request(self, sequence: int) -> bytes:
        """Write an echo request; the kernel fills in the checksum, and a ping socket's ident."""
        return _HEADER.pack(ECHO_REQUEST, 0, 0, self._ident, sequence) + bytes(PAYLOAD_BYTES)

    def parse(self, message: bytes) -> int:
        """Give the sequence of a reply to us; -1 for anything else."""
        if len(message) < _HEADER.size:
            return -1
        kind, _, _, ident, sequence = _HEADER.unpack_from(message)
        ours = kind == ECHO_REPLY and (not self._raw or ident == self._ident)
        return int(sequence) if ours else -1


def _open() -> Gate | None:
    """Open a socket, or take the one that this process had before it began anew; `None` where neither kind is allowed.

    A raw one outlives `exec`, because the right to open another does not.
    """
    kept = _kept(_inherited.pop() if _inherited else "")
    gate = Gate(kept, raw=True) if kept is not None else _open_new()
    if gate is not None and gate.socket.type == socket.SOCK_RAW:
        gate.socket.set_inheritable(True)
        os.environ[KEPT] = str(gate.socket.fileno())
    return gate


def _kept(descriptor: str) -> socket.socket | None:
    """Give the raw socket from before, if that is what the environment named."""
    with contextlib.suppress(ValueError, OSError, OverflowError):
        found = socket.socket(fileno=int(descriptor))
        kind = found.family, found.type, found.proto
        if kind == (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6):
            return found
        found.detach()
    return None


def _open_new() -> Gate | None:
    """Open a socket; `None` where the kernel allows neither kind."""
    for kind in (socket.SOCK_RAW, socket.SOCK_DGRAM):
        with contextlib.suppress(PermissionError):
            flags = kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            return Gate(socket.socket(socket.AF_INET6, flags, socket.IPPROTO_ICMPV6), kind == socket.SOCK_RAW)
    return None
