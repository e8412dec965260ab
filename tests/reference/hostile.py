"""The hostile peer: a reference node that holds a valid key and bends every field, frame and state.

`frame_hook` sees each frame before it is sealed, `datagram_hook` each datagram before it is sent. The functions below
make single messages that no honest node sends. `Mutator` makes many, by structure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.reference import crypto
from tests.reference.cookie import Endpoint
from tests.reference.datagram import Initiation, InitiationPayload, mac1_key
from tests.reference.node import Node
from tests.reference.noise import Initiator, SymmetricState
from tests.reference.session import Session

LOW_ORDER_POINTS = tuple(
    bytes.fromhex(point)
    for point in (
        "00" * 32,
        "01" + "00" * 31,
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""All points whose X25519 is zero with any scalar, canonical or not. Source: cr.yp.to/ecdh.html, "validate"."""

Bend = Callable[[bytes], bytes]


class HostileNode(Node):
    """A node that lets hooks bend what it sends, and records it; both hooks change nothing to begin with."""

    def __init__(self, private_key: bytes, **options: Any) -> None:
        """Take what a `Node` takes."""
        super().__init__(private_key, **options)
        self.frame_hook: Bend = lambda frame: frame
        self.datagram_hook: Bend = lambda datagram: datagram
        self.claimed_features = 0
        self.recorded: list[bytes] = []

    def transmit(self, datagram: bytes, destination: Endpoint) -> None:
        """Queue a bent datagram."""
        bent = self.datagram_hook(datagram)
        self.recorded.append(bent)
        super().transmit(bent, destination)

    def seal(self, session: Session, frame: bytes) -> bytes:
        """Seal a bent frame."""
        return super().seal(session, self.frame_hook(frame))

    def answer(self, features: int) -> int:
        """Claim more than was offered."""
        return features | self.claimed_features

    def seal_at(self, key: bytes, counter: int, frame: bytes) -> bytes:
        """Seal a frame under any counter on the current session with a friend."""
        session = self.peers[key].current
        assert session is not None
        kept, session.counter = session.counter, counter
        datagram = session.seal(frame)
        session.counter = kept
        return datagram


class _ZeroState(SymmetricState):
    """A handshake in which every Diffie-Hellman of a low-order point gives zero, as it does for who does not check."""

    def mix_exchange(self, private_key: bytes, public: bytes) -> None:
        self.mix_key(crypto.exchange(private_key, public) or bytes(32))


def low_order_initiation(node: Node, responder: bytes, point: bytes, payload: InitiationPayload) -> bytes:
    """Make an initiation with a low-order ephemeral that decrypts for a responder who does not refuse it."""
    state = _ZeroState(b"f2ftun v1")
    state.mix_hash(responder)
    state.mix_ephemeral(point)
    state.mix_key(bytes(32))
    static = state.encrypt(node.key)
    state.mix_exchange(node.private_key, responder)
    return Initiation(node.draw_index(), point, static, state.encrypt(payload.write())).sign(responder).write()


def bent_initiation(node: Node, responder: bytes, payload: bytes, bend: Callable[[Initiation], Initiation]) -> bytes:
    """Make an initiation with any payload and bend its fields; both macs are right for what comes of it."""
    noise = Initiator(node.private_key, node.entropy(32), responder)
    message = noise.write_first(payload)
    initiation = Initiation(node.draw_index(), message[:32], message[32:80], message[80:116].ljust(36, b"\0"))
    return bend(initiation).sign(responder).write()


def stranger_initiations(responder: bytes, entropy: Callable[[int], bytes]) -> Iterator[bytes]:
    """Make initiations of which only mac1 is valid: what a flood from who knows the node key is made of."""
    key = mac1_key(responder)
    while True:
        body = b"\x01" + entropy(120)
        yield body + crypto.mac16(key, body) + bytes(16)


INTERESTING_BYTES = (0, 1, 0x0F, 0x10, 0x20, 0x40, 0x5F, 0x60, 0x6F, 0x70, 0x7F, 0x80, 0xF0, 0xFF)
INTERESTING_SIZES = (
    0,
    1,
    3,
    4,
    7,
    8,
    9,
    11,
    12,
    15,
    16,
    17,
    28,
    31,
    40,
    48,
    60,
    100,
    600,
    1183,
    1184,
    1200,
    1400,
    1440,
)


class Mutator:
    """Mutates by structure, from a seed: frames for a valid session, datagrams for none."""

    def __init__(self, seed: int) -> None:
        """Begin a row of mutations that the seed repeats."""
        self.random = random.Random(seed)
        self._frame_makers = (
            self._fragment,
            self._control,
            self._probe,
            self._probe_reply,
            self._packet,
            self._transport,
            self._any_kind,
        )

    def frame(self) -> bytes:
        """Make a frame of any kind, well formed or not."""
        made = self.random.choice(self._frame_makers)()
        return self.bend(made) if self.random.random() < 0.3 else made

    def aligned_frame(self) -> bytes:
        """Make a frame whose datagram has a right length."""
        frame = self.frame()
        return frame + bytes(-len(frame) % 16)

    def bend(self, data: bytes) -> bytes:
        """Flip, cut, lengthen, repeat or overwrite."""
        way, size = self.random.randrange(6), len(data)
        at = self.random.randrange(size) if size else 0
        if way == 0 or not size:
            return data + self.random.randbytes(self.random.choice(INTERESTING_SIZES))
        if way == 1:
            return data[:at]
        if way == 2:
            return data[:at] + bytes([data[at] ^ 1 << self.random.randrange(8)]) + data[at + 1 :]
        if way == 3:
            return data[:at] + bytes([self.random.choice(INTERESTING_BYTES)]) + data[at + 1 :]
        if way == 4:
            return data[:at] + data[at:] * 2
        return data[:at] + self.random.randbytes(min(8, size - at)) + data[at + 8 :]

    def _bytes(self) -> bytes:
        return self.random.randbytes(self.random.choice(INTERESTING_SIZES))

    def _head(self, kind: int) -> bytes:
        return bytes([kind << 4 | self.random.randrange(16)])

    def _fragment(self) -> bytes:
        inner = self.frame() if self.random.random() < 0.7 else self._bytes()
        flags = self.random.choice((0, 0x80, 0x80, 0, 0x7F, 0xFF))
        return self._head(1) + bytes([flags, 0, self.random.randrange(3)]) + inner

    def _control(self) -> bytes:
        return self._head(2) + self.random.choice(self._protobufs())()

    def _protobufs(self) -> tuple[Callable[[], bytes], ...]:
        """Messages that break protobuf readers: over-long varints and lengths, depth, doubled and unknown fields."""
        number = self.random.randrange(1, 16)
        tag = bytes([number << 3 | 2])
        return (
            self._bytes,
            lambda: tag + b"\xff" * 9 + b"\x7f",
            lambda: tag + b"\xff\xff\xff\xff\x0f" + self._bytes(),
            lambda: (tag + b"\x80\x01") * 400,
            lambda: bytes([number << 3 | 3]) * 1100,
            lambda: (tag + b"\x20" + bytes(32)) * 3,
            lambda: bytes([number << 3]) + b"\xff" * 11,
            lambda: tag + b"\x05" + bytes([number << 3 | 2, 3, number << 3, 0xFF, 0xFF]),
            lambda: b"",
        )

    def _probe(self) -> bytes:
        return self._head(3) + self._bytes()

    def _probe_reply(self) -> bytes:
        return self._head(4) + self.random.randbytes(8) + self.random.choice((b"", b"\xff\xff", b"\0\0", bytes(30)))

    def _packet(self) -> bytes:
        flags = self.random.randrange(1 << 16).to_bytes(2, "big")
        next_header = self.random.choice((0, 1, 4, 6, 17, 41, 43, 44, 50, 58, 59, 60, 255))
        return (
            self.random.choice((b"\x60\0\0\0", b"\x6f\xff\xff\xff")) + flags + bytes([next_header, 64]) + self._bytes()
        )

    def _transport(self) -> bytes:
        """Make a TCP or UDP packet, partial and perhaps joined, with header lengths and sizes that lie."""
        next_header = self.random.choice((6, 17))
        flags = self.random.choice((0x0800, 0x0C00, 0x0C00, 0x0400))
        header = bytearray(self.random.randbytes(self.random.choice((0, 7, 8, 19, 20, 32, 60))))
        if len(header) >= 20 and self.random.random() < 0.8:
            header[12] = self.random.choice((0x50, 0x80, 0xF0, 0x00, 0x10))
        if len(header) >= 8:
            header[:4] = b"\x9c\x40\0\x50"
        body = bytes(self.random.choice((0, 1, 100, 1000, 1000, 1000, 1100)))
        return b"\x60\0\0\0" + flags.to_bytes(2, "big") + bytes([next_header, 64]) + bytes(header) + body

    def _any_kind(self) -> bytes:
        return self._head(self.random.randrange(16)) + self._bytes()

    def datagram(self, recorded: list[bytes]) -> bytes:
        """Bend a recorded datagram, or make one of any type with any bytes."""
        if recorded and self.random.random() < 0.8:
            return self.bend(self.random.choice(recorded))
        return bytes([self.random.choice((0, 1, 2, 3, 4, 5, 255))]) + self._bytes()

    def initiation(self, node: Node, responder: bytes) -> bytes:
        """Make an initiation that passes mac1, with a payload or a field bent."""
        payload = InitiationPayload(node.entropy(12), self.random.choice((bytes(4), node.entropy(4))), 0xFFFFFFFF)
        fields = ("sender", "ephemeral", "static", "payload")
        return bent_initiation(
            node, responder, payload.write(), lambda i: self._bend_field(i, self.random.choice(fields))
        )

    def _bend_field(self, initiation: Initiation, field: str) -> Initiation:
        if field == "sender":
            return replace(initiation, sender=self.random.choice((0, 1, 0xFFFFFFFF)))
        if field == "ephemeral":
            return replace(initiation, ephemeral=self.random.choice(LOW_ORDER_POINTS))
        if field == "static":
            return replace(initiation, static=self.random.choice((bytes(48), self.random.randbytes(48))))
        return replace(initiation, payload=self.random.choice((bytes(36), self.random.randbytes(36))))
