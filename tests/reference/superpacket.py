"""A TCP or UDP superpacket over IPv6, cut into packet frames and rejoined. Source: docs/protocol.md §5.1.

Checksums are 0 in what is made here: they are partial on the way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.reference.frame import IPV6_HEADER_BYTES, TCP, Packet, elide

FIN, PSH, CWR = 0x01, 0x08, 0x80
TCP_FLAGS_AT = 13


@dataclass(frozen=True)
class Superpacket:
    """An IPv6 packet to be cut into segments of at most `segment_bytes` of transport payload."""

    packet: bytes
    segment_bytes: int


def segment(superpacket: Superpacket) -> list[Packet]:
    """Cut into packet frames, each a whole valid packet."""
    whole = elide(superpacket.packet, partial=True)
    header_bytes = transport_header_bytes(whole)
    header, body, size = whole.payload[:header_bytes], whole.payload[header_bytes:], superpacket.segment_bytes
    starts = range(0, max(len(body), 1), size)
    return [
        replace(
            whole,
            payload=_segment_header(whole.next_header, header, at, len(body[at : at + size]), at + size >= len(body))
            + body[at : at + size],
            joined=at > 0,
        )
        for at in starts
    ]


def transport_header_bytes(packet: Packet) -> int:
    """Give the length of the TCP or UDP header."""
    return (packet.payload[12] >> 4) * 4 if packet.next_header == TCP else 8


def _segment_header(next_header: int, header: bytes, at: int, size: int, last: bool) -> bytes:
    if next_header != TCP:
        return header[:4] + struct.pack(">HH", len(header) + size, 0)
    sequence = (int.from_bytes(header[4:8], "big") + at) & 0xFFFFFFFF
    flags = header[TCP_FLAGS_AT] & ~(0 if last else FIN | PSH) & ~(CWR if at else 0)
    head = header[:4] + struct.pack(">I", sequence) + header[8:TCP_FLAGS_AT] + bytes([flags])
    return head + header[14:16] + b"\0\0" + header[18:]


def rejoin(run: Sequence[Packet], source: bytes, destination: bytes) -> Superpacket:
    """Put a run, complete and in order, together again."""
    first, last = run[0], run[-1]
    header_bytes = transport_header_bytes(first)
    body = b"".join(packet.payload[header_bytes:] for packet in run)
    header = bytearray(first.payload[:header_bytes])
    if first.next_header == TCP:
        header[TCP_FLAGS_AT] |= last.payload[TCP_FLAGS_AT] & (FIN | PSH)
        header[16:18] = b"\0\0"
    else:
        header[4:8] = struct.pack(">HH", header_bytes + len(body), 0)
    restored = replace(first, payload=bytes(header) + body, partial=False).restore(source, destination)
    return Superpacket(restored, len(first.payload) - header_bytes)


def tcp_packet(source: bytes, destination: bytes, body: bytes, *, flags: int = 0x10, options: bytes = b"") -> bytes:
    """Make a TCP packet between fixed ports, sequence 1000, for tests and vectors; its checksum is 0."""
    offset = (20 + len(options)) // 4
    tcp = struct.pack(">HHIIBBHHH", 40000, 80, 1000, 2000, offset << 4, flags, 0x7210, 0, 0) + options + body
    return ipv6(source, destination, TCP, tcp)


def udp_packet(source: bytes, destination: bytes, body: bytes) -> bytes:
    """Make a UDP packet between fixed ports, for tests and vectors; its checksum is 0."""
    return ipv6(source, destination, 17, struct.pack(">HHHH", 40000, 5000, 8 + len(body), 0) + body)


def ipv6(source: bytes, destination: bytes, next_header: int, payload: bytes, first_word: int = 0x60012345) -> bytes:
    """Make an IPv6 packet with hop limit 64."""
    assert len(source) == len(destination) == (IPV6_HEADER_BYTES - 8) // 2
    return struct.pack(">IHBB", first_word, len(payload), next_header, 64) + source + destination + payload


def continues(before: bytes, after: bytes, run_bytes: int) -> bool:
    """Say whether one whole packet may be *joined* to the one before in a run of segments of so many bytes."""
    first, second = elide(before), elide(after)
    header_bytes = transport_header_bytes(first)
    if (first.first_word, first.next_header, first.hop_limit) != (
        second.first_word,
        second.next_header,
        second.hop_limit,
    ):
        return False
    sizes = len(first.payload) - header_bytes == run_bytes >= len(second.payload) - header_bytes
    if first.next_header != TCP:
        return sizes and first.payload[:4] == second.payload[:4]
    whole = replace(first, partial=True), replace(second, partial=True)
    return sizes and not second.payload[TCP_FLAGS_AT] & CWR and _continues(*whole, run_bytes)


def mark_runs(packets: Sequence[bytes]) -> list[Packet]:
    """Elide packets that follow one another, and mark those TCP segments that continue the one before."""
    marked: list[Packet] = []
    run_bytes = 0
    for packet in packets:
        frame = elide(packet, partial=packet[6] == TCP)
        size = len(frame.payload) - transport_header_bytes(frame) if frame.partial else 0
        if marked and run_bytes and size <= run_bytes and _continues(marked[-1], frame, run_bytes):
            marked.append(replace(frame, joined=True))
            run_bytes = size if size == run_bytes else 0
        else:
            marked.append(frame)
            run_bytes = size
    return marked


def _continues(before: Packet, after: Packet, run_bytes: int) -> bool:
    """Say whether a TCP segment with data follows a full one: all equal but sequence, checksum and the last flags."""
    header_bytes = transport_header_bytes(after)
    if not before.partial or not after.partial or header_bytes != transport_header_bytes(before):
        return False
    sequence = (int.from_bytes(before.payload[4:8], "big") + run_bytes) & 0xFFFFFFFF
    return (
        int.from_bytes(after.payload[4:8], "big") == sequence
        and len(before.payload) == header_bytes + run_bytes
        and len(after.payload) > header_bytes
        and not before.payload[TCP_FLAGS_AT] & (FIN | PSH)
        and _constant_part(before, header_bytes) == _constant_part(after, header_bytes)
    )


def _constant_part(packet: Packet, header_bytes: int) -> tuple[bytes, ...]:
    """Give what the segments of one TCP superpacket share."""
    tcp = packet.payload
    flags = bytes([tcp[TCP_FLAGS_AT] & ~(FIN | PSH | CWR)])
    return packet.first_word, bytes([packet.hop_limit]), tcp[:4], tcp[8:13], flags, tcp[14:16], tcp[18:header_bytes]
