"""Captures that are whole, cut off, and made of any bytes."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire.capture import NotACapture, Record, UdpPayload, read_capture, udp_payload

IPV6_UDP = struct.pack(">IHBB", 6 << 28, 8 + 5, 17, 64) + bytes(15) + b"\1" + bytes(15) + b"\2"
IPV6_UDP += struct.pack(">HHHH", 1000, 2000, 8 + 5, 0) + b"hello"
IPV4_UDP = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 33, 0, 0x4000, 64, 17, 0, b"\xc0\0\2\1", b"\xc0\0\2\2") + IPV6_UDP[40:]
ETHERNET = bytes(12)


def pcap(packets: list[bytes], link: int = 1, order: str = "<", magic: int = 0xA1B2C3D4) -> bytes:
    head = struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, 262144, link)
    return head + b"".join(struct.pack(order + "IIII", 7, 5, len(p), len(p)) + p for p in packets)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def pcapng(packets: list[bytes], link: int = 101, order: str = "<") -> bytes:
    section = block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)
    resolution = struct.pack(order + "HHBxxxHH", 9, 1, 9, 0, 0)
    interface = block(1, struct.pack(order + "HHI", link, 0, 0) + resolution, order)
    return section + interface + b"".join(block(6, packet_body(p, order), order) for p in packets)


def packet_body(packet: bytes, order: str) -> bytes:
    return struct.pack(order + "IIIII", 0, 1, 5, len(packet), len(packet)) + packet + bytes(-len(packet) % 4)


def read(data: bytes) -> list[Record]:
    return list(read_capture(io.BytesIO(data)))


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcap_is_read(order: str) -> None:
    assert read(pcap([b"abc", b""], order=order)) == [Record(7.000005, 1, b"abc"), Record(7.000005, 1, b"")]
    nanoseconds = read(pcap([b"abc"], order=order, magic=0xA1B23C4D))
    assert nanoseconds == [Record(7.000000005, 1, b"abc")]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_is_read(order: str) -> None:
    records = read(pcapng([b"abcd", b"ab"], order=order))
    assert [(record.link, record.data) for record in records] == [(101, b"abcd"), (101, b"ab")]
    assert records[0].captured_at == pytest.approx((2**32 + 5) * 1e-9)


@pytest.mark.parametrize(
    ("link", "data"),
    [
        (1, ETHERNET + b"\x08\x00" + IPV4_UDP + bytes(6)),
        (1, ETHERNET + b"\x81\x00\x00\x01\x08\x00" + IPV4_UDP),
        (101, IPV4_UDP),
        (0, bytes(4) + IPV4_UDP),
        (113, bytes(14) + b"\x08\x00" + IPV4_UDP),
        (276, b"\x08\x00" + bytes(18) + IPV4_UDP),
    ],
)
def test_udp_is_found_under_every_link_header(link: int, data: bytes) -> None:
    assert udp_payload(link, data) == UdpPayload("192.0.2.1:1000", "192.0.2.2:2000", b"hello")


def test_udp_is_found_over_ipv6() -> None:
    assert udp_payload(101, IPV6_UDP) == UdpPayload("[::1]:1000", "[::2]:2000", b"hello")


def test_what_is_no_udp_is_none() -> None:
    fragment = IPV4_UDP[:6] + b"\x20\x00" + IPV4_UDP[8:]
    tcp = IPV6_UDP[:6] + b"\x06" + IPV6_UDP[7:]
    for data in (b"", fragment, tcp, IPV6_UDP[:47], IPV4_UDP[:-1]):
        assert udp_payload(101, data) is None
    assert udp_payload(1, ETHERNET + b"\x08\x06" + IPV4_UDP) is None
    assert udp_payload(147, IPV4_UDP) is None


@pytest.mark.parametrize("whole", [pcap([IPV4_UDP] * 3), pcapng([IPV4_UDP] * 3)])
def test_cut_off_captures_give_what_is_whole(whole: bytes) -> None:
    counts = [len(read(whole[:size])) for size in range(4, len(whole) + 1)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 3)


def test_other_files_are_refused() -> None:
    for data in (b"", b"GIF89a", b"#!/bin/sh\n"):
        with pytest.raises(NotACapture):
            read(data)


MAGICS = [pcap([])[:4], pcap([], order=">")[:4], pcap([]), pcapng([]), pcapng([], order=">"), b"\x0a\x0d\x0d\x0a"]


@given(st.sampled_from(MAGICS), st.binary(max_size=300))
def test_any_bytes_end_quietly(begin: bytes, rest: bytes) -> None:
    for record in read(begin + rest):
        udp_payload(record.link, record.data)


@given(st.sampled_from([0, 1, 101, 113, 276]), st.binary(max_size=120))
def test_any_packet_is_udp_or_none(link: int, data: bytes) -> None:
    udp_payload(link, data)


@given(st.data())
def test_damaged_captures_end_quietly(data: st.DataObject) -> None:
    whole = bytearray(data.draw(st.sampled_from([pcap([IPV4_UDP] * 2, link=101), pcapng([IPV4_UDP] * 2)])))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(whole))
