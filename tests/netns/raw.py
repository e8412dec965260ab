"""Packets byte by byte, at a TUN and on a cable, for tests of what the host lets through."""

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

VNET_HEADER = bytes(10)
ETH_P_ALL, ETH_P_IPV6 = 0x0003, 0x86DD
TCP, UDP, ICMPV6 = 6, 17, 58
SYN, RST, ACK = 0x02, 0x04, 0x10
ECHO_REQUEST, ECHO_REPLY, NEIGHBOR_SOLICITATION = 128, 129, 135
ROUTER_ADVERTISEMENT = 134
DESTINATION_UNREACHABLE, PORT_UNREACHABLE = 1, 4


def checksum(data: bytes) -> int:
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv6(
    source: IPv6Address, destination: IPv6Address, protocol: int, body: bytes, check_at: int, hops: int = 64
) -> bytes:
    pseudo = source.packed + destination.packed + struct.pack("!II", len(body), protocol)
    body = body[:check_at] + struct.pack("!H", checksum(pseudo + body) or 0xFFFF) + body[check_at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, hops) + source.packed + destination.packed + body


def tcp(
    source: IPv6Address, destination: IPv6Address, sport: int, dport: int, flags: int, seq: int = 1, ack: int = 0
) -> bytes:
    body = struct.pack("!HHIIBBHHH", sport, dport, seq, ack, 5 << 4, flags, 65535, 0, 0)
    return ipv6(source, destination, TCP, body, 16)


def udp(source: IPv6Address, destination: IPv6Address, sport: int, dport: int, payload: bytes = b"hello") -> bytes:
    return ipv6(source, destination, UDP, struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload, 6)


def icmp(
    source: IPv6Address, destination: IPv6Address, kind: int, rest: bytes = bytes(4), hops: int = 64, code: int = 0
) -> bytes:
    return ipv6(source, destination, ICMPV6, struct.pack("!BBH", kind, code, 0) + rest, 2, hops)


def ipv4_ping(source: IPv4Address, destination: IPv4Address) -> bytes:
    body = struct.pack("!BBHI", 8, 0, 0, 0)
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    head = struct.pack("!BBHIBBH", 0x45, 0, 20 + len(body), 0, 64, 1, 0) + source.packed + destination.packed
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + body


def inject(tun: int, packet: bytes) -> None:
    """Let a packet come out of the TUN, as if a friend had sent it."""
    os.write(tun, VNET_HEADER + packet)


def read_packets(tun: int, wait_s: float) -> Iterator[bytes]:
    """Yield what the host sends into the TUN, until nothing came for `wait_s`."""
    while select.select([tun], [], [], wait_s)[0]:
        yield os.read(tun, 65550)[len(VNET_HEADER) :]


def answers(tun: int, packet: bytes, wait_s: float = 0.15) -> list[bytes]:
    """Inject a packet; return what is sent to its source within `wait_s`."""
    inject(tun, packet)
    return [found for found in read_packets(tun, wait_s) if found[24:40] == packet[8:24]]


def tcp_flags(packet: bytes) -> int:
    return packet[40 + 13]


def capture(interface: str) -> socket.socket:
    """Open a socket that captures whatever passes an interface of the namespace one is in."""
    sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sniffer.bind((interface, ETH_P_ALL))
    sniffer.setblocking(False)
    return sniffer


def captured(sniffer: socket.socket, wait_s: float = 0.2) -> list[bytes]:
    """Return the frames that came until nothing did for `wait_s`, at most 3 s."""
    frames: list[bytes] = []
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline and select.select([sniffer], [], [], wait_s)[0]:
        frames.append(sniffer.recv(65535))
    return frames


def overlay_frames(frames: list[bytes]) -> list[bytes]:
    """Choose the IPv6 frames with a source or destination in fc00::/8."""
    ours = [f for f in frames if f[12:14] == struct.pack("!H", ETH_P_IPV6)]
    return [f for f in ours if f[14 + 8] == 0xFC or f[14 + 24] == 0xFC]
