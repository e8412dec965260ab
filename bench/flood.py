"""A flood: prebuilt frames put on a wire at a steady rate, with one system call for many.

Run as `python -m bench.flood KIND INTERFACE MAC RATE SECONDS [KEY]` in the attacker's namespace; KIND is `junk` or
`handshakes`, MAC that of the victim's interface, KEY its node key in hex. It prints `ready` when the frames are made,
begins at a line on stdin, and prints the number of frames sent.

*Junk* is of all lengths and of random bytes, two fifths of it as long as a data datagram and typed as one, a fifth
typed as the other datagrams. *Handshakes* are initiations whose mac1 is right, because the attacker knows the node
key, and all else random. Sources are drawn from 198.18.0.0/15 (RFC 2544: benchmarks), nearly each frame from another.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

from bench.lab import OUTSIDE_UNDERLAY

PORT = 4242
POOL = 32_768
"""Frames made before the flood and sent in turn."""

BATCH = 256
"""Frames in one system call, at most."""

PAUSE = 0.0005
"""Seconds the sender sleeps when it is ahead."""

MAX_PAYLOAD = 1472
"""Bytes: what an MTU of 1500 leaves for the payload of UDP over IPv4."""

SIZES = {1: 153, 2: 93, 3: 61}
"""Bytes of the datagrams of fixed size, by type. Source: docs/protocol.md §1."""

SOURCES = int.from_bytes(socket.inet_aton("198.18.0.0"), "big"), 1 << 17

SOL_PACKET, PACKET_QDISC_BYPASS = 263, 20
"""Source: Linux socket.h, if_packet.h."""

Payload = Callable[[random.Random], bytes]


def junk(dice: random.Random) -> bytes:
    """Make a datagram that is none."""
    kind = dice.randrange(5)
    if kind < 2:
        return dice.randbytes(dice.randint(0, MAX_PAYLOAD))
    if kind < 4:
        return b"\x04" + dice.randbytes(28 + 16 * dice.randint(0, (MAX_PAYLOAD - 29) // 16))
    number = dice.choice(list(SIZES))
    return bytes([number]) + dice.randbytes(SIZES[number] - 1)


def initiations(node_key: bytes) -> Payload:
    """Make initiations of which only mac1 is valid. Source: docs/protocol.md §3.1."""
    key = hashlib.blake2s(b"f2ftun mac1" + node_key).digest()

    def initiation(dice: random.Random) -> bytes:
        body = b"\x01" + dice.randbytes(120)
        return body + hashlib.blake2s(body, key=key, digest_size=16).digest() + bytes(16)

    return initiation


def frame(mac: bytes, source: int, port: int, payload: bytes) -> bytes:
    """Write an Ethernet frame with an IPv4 packet with a UDP datagram without a checksum."""
    udp = struct.pack("!HHHH", port, PORT, 8 + len(payload), 0)
    start, end = struct.pack("!BBHHHBB", 0x45, 0, 28 + len(payload), 0, 0x4000, 64, 17), struct.pack("!I", source)
    end += socket.inet_aton(OUTSIDE_UNDERLAY[0])
    return mac + b"\x02\0\0\0\0\x01\x08\0" + start + _checksum(start + end) + end + udp + payload


def _checksum(header: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF)


def frames(mac: bytes, payload: Payload, count: int = POOL) -> list[bytes]:
    """Make the frames of a flood."""
    dice = random.Random(os.urandom(16))
    first, span = SOURCES
    return [frame(mac, first + dice.randrange(span), dice.randint(1024, 65535), payload(dice)) for _ in range(count)]


class Sender:
    """A packet socket, and the arguments of `sendmmsg` for all frames, made once. Source: sendmmsg(2)."""

    HEADER_BYTES = 64
    """sizeof(struct mmsghdr) on a 64-bit machine: name, name length, iovec, their number, control, its length, flags;
    then the length sent."""

    def __init__(self, interface: str, pool: Sequence[bytes]) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._socket.bind((interface, 0))
        self._socket.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
        self._count = len(pool)
        self._bytes = ctypes.create_string_buffer(b"".join(pool))
        self._vectors = ctypes.create_string_buffer(16 * len(pool))
        self._headers = ctypes.create_string_buffer(self.HEADER_BYTES * len(pool))
        self._call = ctypes.CDLL(None, use_errno=True).sendmmsg
        self._call.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
        self._write(pool)

    def _write(self, pool: Sequence[bytes]) -> None:
        at, vectors = ctypes.addressof(self._bytes), ctypes.addressof(self._vectors)
        for i, one in enumerate(pool):
            struct.pack_into("=QQ", self._vectors, 16 * i, at, len(one))
            struct.pack_into("=QQQQQQQQ", self._headers, self.HEADER_BYTES * i, 0, 0, vectors + 16 * i, 1, 0, 0, 0, 0)
            at += len(one)

    def send(self, first: int, count: int) -> int:
        """Send up to `count` frames, the pool over and over, beginning with number `first`; return how many went."""
        start = first % self._count
        where = ctypes.addressof(self._headers) + self.HEADER_BYTES * start
        return max(0, int(self._call(self._socket.fileno(), where, min(count, self._count - start), 0)))


def flood(sender: Sender, rate: float, seconds: float) -> int:
    """Send at `rate` frames a second for `seconds`; return how many went."""
    sent, began = 0, time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * rate) - sent
        sent += sender.send(sent, min(due, BATCH)) if due > 0 else 0
        if due < BATCH:
            time.sleep(PAUSE)
    return sent


def main(argv: Sequence[str]) -> None:
    """Make the frames, wait for the word, flood."""
    kind, interface, mac, rate, seconds = argv[:5]
    payload = junk if kind == "junk" else initiations(bytes.fromhex(argv[5]))
    sender = Sender(interface, frames(bytes.fromhex(mac.replace(":", "")), payload))
    print("ready", flush=True)
    sys.stdin.readline()
    print(flood(sender, float(rate), float(seconds)))


if __name__ == "__main__":
    main(sys.argv[1:])
