"""Captured packets: pcap and pcapng files, and the UDP payloads in what they hold.

A capture may be cut off, damaged or hostile: what cannot be read ends or skips, nothing raises but `NotACapture`.
Sources: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng; link types of tcpdump.org/linktypes.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import BinaryIO

MAX_RECORD_BYTES = 1 << 18
"""Longer records are no packets: tcpdump's largest snapshot length."""

UDP = 17
_ETHERTYPE_IPV4, _ETHERTYPE_IPV6, _ETHERTYPE_VLAN = 0x0800, 0x86DD, 0x8100
_PCAP_MAGIC = {
    b"\xd4\xc3\xb2\xa1": ("<", 1e-6),
    b"\xa1\xb2\xc3\xd4": (">", 1e-6),
    b"\x4d\x3c\xb2\xa1": ("<", 1e-9),
    b"\xa1\xb2\x3c\x4d": (">", 1e-9),
}
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDER = {b"\x4d\x3c\x2b\x1a": "<", b"\x1a\x2b\x3c\x4d": ">"}
_SECTION, _INTERFACE, _SIMPLE_PACKET, _PACKET = 0x0A0D0D0A, 1, 3, 6
_TIMESTAMP_RESOLUTION = 9
_LINK_NULL, _LINK_ETHERNET, _LINK_SLL, _LINK_SLL2 = 0, 1, 113, 276
LINK_RAW = 101
_LINKS_RAW = {12, 14, LINK_RAW, 228, 229}


class NotACapture(ValueError):
    """The file begins like neither pcap nor pcapng."""


@dataclass(frozen=True, slots=True)
class Record:
    """One captured packet: Unix seconds, link type, bytes from the link header on."""

    captured_at: float
    link: int
    data: bytes


@dataclass(frozen=True, slots=True)
class UdpPayload:
    """A UDP payload and between which endpoints it travelled."""

    source: str
    destination: str
    payload: bytes


def read_capture(stream: BinaryIO) -> Iterator[Record]:
    """Read packets until the end or the first damage. Raises `NotACapture`, with the first packet asked for."""
    magic = stream.read(4)
    if magic in _PCAP_MAGIC:
        yield from _read_pcap(stream, *_PCAP_MAGIC[magic])
    elif magic == _PCAPNG_MAGIC:
        yield from _read_pcapng(stream)
    else:
        raise NotACapture


def _read_pcap(stream: BinaryIO, order: str, unit: float) -> Iterator[Record]:
    header = stream.read(20)
    if len(header) < 20:
        return
    link = struct.unpack(order + "I", header[16:])[0] & 0xFFFF
    while len(head := stream.read(16)) == 16:
        seconds, fraction, size, _ = struct.unpack(order + "IIII", head)
        if size > MAX_RECORD_BYTES or len(data := stream.read(size)) < size:
            return
        yield Record(seconds + fraction * unit, link, data)


def _read_pcapng(stream: BinaryIO) -> Iterator[Record]:
    interfaces: list[tuple[int, float]] = []
    for kind, order, body in _pcapng_blocks(stream):
        if kind == _SECTION:
            interfaces = []
        elif kind == _INTERFACE and len(body) >= 8:
            interfaces.append((struct.unpack(order + "H", body[:2])[0], _timestamp_unit(order, body[8:])))
        elif kind == _PACKET and len(body) >= 20:
            yield from _enhanced_packet(order, body, interfaces)
        elif kind == _SIMPLE_PACKET and len(body) >= 4 and interfaces:
            yield Record(0.0, interfaces[0][0], body[4 : 4 + struct.unpack(order + "I", body[:4])[0]])


def _pcapng_blocks(stream: BinaryIO) -> Iterator[tuple[int, str, bytes]]:
    """Read blocks: type, byte order, body; the magic of the first has been read."""
    order, kind_bytes = "<", _PCAPNG_MAGIC
    while len(kind_bytes) == 4 and len(size_bytes := stream.read(4)) == 4:
        body = b""
        if kind_bytes == _PCAPNG_MAGIC:
            body = stream.read(4)
            order = _BYTE_ORDER.get(body, "")
        if not order:
            return
        kind, size = struct.unpack(order + "II", kind_bytes + size_bytes)
        left = size - 12 - len(body)
        if not 0 <= left <= MAX_RECORD_BYTES or len(rest := stream.read(left + 4)) < left + 4:
            return
        yield kind, order, body + rest[:-4]
        kind_bytes = stream.read(4)


def _timestamp_unit(order: str, options: bytes) -> float:
    """Find the unit of an interface's timestamps, in seconds; microseconds unless an option says otherwise."""
    while len(options) >= 4:
        code, size = struct.unpack(order + "HH", options[:4])
        if code == _TIMESTAMP_RESOLUTION and size == 1 and len(options) > 4:
            resolution = options[4]
            return float(2 ** -(resolution & 127) if resolution & 128 else 10**-resolution)
        options = options[4 + (size + 3) // 4 * 4 :]
    return 1e-6


def _enhanced_packet(order: str, body: bytes, interfaces: list[tuple[int, float]]) -> Iterator[Record]:
    interface, high, low, size = struct.unpack(order + "IIII", body[:16])
    if interface < len(interfaces):
        link, unit = interfaces[interface]
        yield Record((high << 32 | low) * unit, link, body[20 : 20 + size])


def udp_payload(link: int, data: bytes) -> UdpPayload | None:
    """Find the UDP payload in a captured packet; `None` for anything else, and for fragments of IP."""
    packet = _network_packet(link, data)
    if len(packet) >= 28 and packet[0] >> 4 == 4:
        return _udp_over_ipv4(packet)
    if len(packet) >= 48 and packet[0] >> 4 == 6:
        return _udp_over_ipv6(packet)
    return None


def _network_packet(link: int, data: bytes) -> bytes:
    """Take the link header away; empty where there is no IP beneath."""
    if link in _LINKS_RAW:
        return data
    if link == _LINK_NULL:
        return data[4:]
    at, size = {_LINK_ETHERNET: (12, 14), _LINK_SLL: (14, 16), _LINK_SLL2: (0, 20)}.get(link, (0, 0))
    ethertype = int.from_bytes(data[at : at + 2], "big")
    if link == _LINK_ETHERNET and ethertype == _ETHERTYPE_VLAN:
        ethertype, size = int.from_bytes(data[16:18], "big"), 18
    return data[size:] if size and ethertype in (_ETHERTYPE_IPV4, _ETHERTYPE_IPV6) else b""


def _udp_over_ipv4(packet: bytes) -> UdpPayload | None:
    header_bytes, fragment = (packet[0] & 15) * 4, int.from_bytes(packet[6:8], "big") & 0x3FFF
    if packet[9] != UDP or fragment or header_bytes < 20:
        return None
    source, destination = IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
    return _udp(packet[header_bytes:], str(source), str(destination))


def _udp_over_ipv6(packet: bytes) -> UdpPayload | None:
    if packet[6] != UDP:
        return None
    source, destination = IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    return _udp(packet[40:], f"[{source}]", f"[{destination}]")


def _udp(segment: bytes, source: str, destination: str) -> UdpPayload | None:
    if len(segment) < 8:
        return None
    source_port, destination_port, size = struct.unpack(">HHH", segment[:6])
    if not 8 <= size <= len(segment):
        return None
    return UdpPayload(f"{source}:{source_port}", f"{destination}:{destination_port}", segment[8:size])
