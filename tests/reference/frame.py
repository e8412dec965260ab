"""Frames as values; `parse` gives `None` for what is malformed or of an unknown kind. Source: docs/protocol.md §5."""

from __future__ import annotations

import struct
from dataclasses import dataclass

NOTHING, FRAGMENT, CONTROL, PROBE, PROBE_REPLY, CIRCUIT, PACKET = range(7)
ALIGNMENT = 16
TOKEN_BYTES = 8
MAX_CONTROL_BYTES = 2300
TCP, UDP = 6, 17
IPV6_HEADER_BYTES = 40
PACKET_HEADER_BYTES = 8
FRAGMENT_HEADER_BYTES = 4
TRANSPORT_HEADER_BYTES = {TCP: 20, UDP: 8}
PARTIAL, JOINED, ZERO = 1 << 11, 1 << 10, (1 << 10) - 1
NEVER_TRAVEL = {0, 43, 60, 135, 139, 140, 253, 254}
"""Next headers that routers act on, and experiments."""


def _pad(kind: int, body: bytes) -> bytes:
    """Put kind and pad before a body, zeros after it."""
    pad = -(1 + len(body)) % ALIGNMENT
    return bytes([kind << 4 | pad]) + body + bytes(pad)


@dataclass(frozen=True)
class Nothing:
    """Says only: I am here."""

    def write(self) -> bytes:
        return b""


@dataclass(frozen=True)
class Fragment:
    """Half of a frame."""

    last: bool
    id: int
    body: bytes

    def write(self) -> bytes:
        return _pad(FRAGMENT, struct.pack(">BH", self.last << 7, self.id) + self.body)


@dataclass(frozen=True)
class Control:
    """A control message."""

    message: bytes

    def write(self) -> bytes:
        return _pad(CONTROL, self.message)


@dataclass(frozen=True)
class Probe:
    """Asks for an answer; `size` is the least length of the frame in bytes."""

    token: bytes
    size: int = ALIGNMENT

    def write(self) -> bytes:
        return _pad(PROBE, self.token + bytes(max(0, self.size - self.size % ALIGNMENT - 1 - TOKEN_BYTES)))


@dataclass(frozen=True)
class ProbeReply:
    """Answers a probe with its token and the size of the UDP payload that carried it."""

    token: bytes
    length: int

    def write(self) -> bytes:
        return _pad(PROBE_REPLY, self.token + struct.pack(">H", self.length))


@dataclass(frozen=True)
class Packet:
    """An IPv6 packet without its addresses and its length."""

    first_word: bytes
    next_header: int
    hop_limit: int
    payload: bytes
    partial: bool = False
    joined: bool = False

    def write(self) -> bytes:
        pad = -(PACKET_HEADER_BYTES + len(self.payload)) % ALIGNMENT
        flags = pad << 12 | (PARTIAL if self.partial else 0) | (JOINED if self.joined else 0)
        return (
            self.first_word + struct.pack(">HBB", flags, self.next_header, self.hop_limit) + self.payload + bytes(pad)
        )

    def restore(self, source: bytes, destination: bytes) -> bytes:
        """Give the whole IPv6 packet, its checksum computed where it was partial."""
        payload = self.payload
        if self.partial:
            payload = fill_checksum(self.next_header, payload, source, destination)
        head = self.first_word + struct.pack(">HBB", len(payload), self.next_header, self.hop_limit)
        return head + source + destination + payload


Frame = Nothing | Fragment | Control | Probe | ProbeReply | Packet


def elide(packet: bytes, *, partial: bool = False, joined: bool = False) -> Packet:
    """Take addresses and length away from a valid IPv6 packet."""
    return Packet(packet[:4], packet[6], packet[7], packet[IPV6_HEADER_BYTES:], partial, joined)


def parse(frame: bytes) -> Frame | None:
    """Read a frame."""
    kind = frame[0] >> 4 if frame else NOTHING
    if kind == PACKET:
        return _parse_packet(frame)
    body = _body(frame)
    reader = _READERS.get(kind)
    return None if body is None or reader is None else reader(body)


def _body(frame: bytes) -> bytes | None:
    """Take kind and pad away; an empty frame has neither."""
    if not frame:
        return b""
    pad = frame[0] & 15
    return None if pad > len(frame) - 1 else frame[1 : len(frame) - pad]


def _parse_nothing(body: bytes) -> Frame | None:
    return Nothing()


def _parse_fragment(body: bytes) -> Frame | None:
    if len(body) < FRAGMENT_HEADER_BYTES - 1 or body[0] & 0x7F:
        return None
    return Fragment(bool(body[0] >> 7), int.from_bytes(body[1:3], "big"), body[3:])


def _parse_control(body: bytes) -> Frame | None:
    return Control(body) if len(body) <= MAX_CONTROL_BYTES else None


def _parse_probe(body: bytes) -> Frame | None:
    return Probe(body[:TOKEN_BYTES], len(body) + 1) if len(body) >= TOKEN_BYTES else None


def _parse_probe_reply(body: bytes) -> Frame | None:
    if len(body) != TOKEN_BYTES + 2:
        return None
    return ProbeReply(body[:TOKEN_BYTES], int.from_bytes(body[TOKEN_BYTES:], "big"))


_READERS = {
    NOTHING: _parse_nothing,
    FRAGMENT: _parse_fragment,
    CONTROL: _parse_control,
    PROBE: _parse_probe,
    PROBE_REPLY: _parse_probe_reply,
}


def _parse_packet(frame: bytes) -> Packet | None:
    if len(frame) < PACKET_HEADER_BYTES:
        return None
    flags, next_header, hop_limit = struct.unpack(">HBB", frame[4:8])
    end = len(frame) - (flags >> 12)
    if end < PACKET_HEADER_BYTES or flags & ZERO or next_header in NEVER_TRAVEL:
        return None
    payload, partial, joined = frame[PACKET_HEADER_BYTES:end], bool(flags & PARTIAL), bool(flags & JOINED)
    if (partial or joined) and not _may_be_partial(next_header, payload, partial):
        return None
    return Packet(frame[:4], next_header, hop_limit, payload, partial, joined)


def _may_be_partial(next_header: int, payload: bytes, partial: bool) -> bool:
    """Say whether a checksum can be missing, or a run continued: TCP or UDP with a whole header."""
    return partial and len(payload) >= TRANSPORT_HEADER_BYTES.get(next_header, 1 << 16)


def fill_checksum(next_header: int, payload: bytes, source: bytes, destination: bytes) -> bytes:
    """Compute the checksum of a TCP segment or UDP datagram over IPv6. Source: RFC 8200 §8.1."""
    at = 16 if next_header == TCP else 6
    blank = payload[:at] + b"\0\0" + payload[at + 2 :]
    total = checksum(source + destination + struct.pack(">IHBB", len(payload), 0, 0, next_header) + blank)
    if next_header == UDP and total == 0:
        total = 0xFFFF
    return payload[:at] + struct.pack(">H", total) + payload[at + 2 :]


def checksum(data: bytes) -> int:
    """Compute the Internet checksum. Source: RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
