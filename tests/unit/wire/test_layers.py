"""The scapy layers against the stored known answers and the reference codecs, and against any bytes at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire.layers import (
    FragmentFrame,
    Frame,
    PacketFrame,
    ProbeFrame,
    ProbeReplyFrame,
    parse_datagram,
    parse_frame,
)
from tests.reference import frame as reference

VECTORS = Path(__file__).parents[2] / "vectors"


def cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((VECTORS / f"{name}.json").read_text())
    return loaded


@pytest.mark.parametrize(
    ("file", "field"),
    [("handshake", "initiation"), ("handshake", "response"), ("cookie", "cookie_reply"), ("data", "datagram")],
)
def test_known_datagrams_are_read_and_written_back(file: str, field: str) -> None:
    for case in cases(file):
        datagram = bytes.fromhex(case[field])
        layer = parse_datagram(datagram)
        assert layer is not None
        layer.clear_cache()
        assert bytes(layer) == datagram
        assert layer.name == field.replace("_", " ").replace("datagram", "data")


def test_known_frames_are_read_and_written_back() -> None:
    for case in cases("frames"):
        frame = bytes.fromhex(case["frame"])
        layer = parse_frame(frame)
        if not frame:
            assert layer is None
            continue
        assert layer is not None
        assert layer.name == case["kind"]
        layer.clear_cache()
        assert bytes(layer) == frame


def test_fields_are_those_of_the_frame() -> None:
    for case in cases("frames"):
        layer = parse_frame(bytes.fromhex(case["frame"]))
        if isinstance(layer, FragmentFrame):
            assert (bool(layer.last), layer.id, layer.body.hex()) == (case["last"], case["id"], case["body"])
        elif isinstance(layer, PacketFrame):
            assert (bool(layer.partial), bool(layer.joined)) == (case["partial"], case["joined"])
            assert layer.next_header == int(case["packet"][12:14], 16)
        elif isinstance(layer, ProbeReplyFrame):
            assert (layer.token.hex(), layer.length) == (case["token"], case["length"])


def test_a_frame_pads_itself() -> None:
    assert bytes(ProbeFrame(token=b"12345678")) == b"\x3712345678" + bytes(7)
    assert bytes(ProbeFrame(token=b"12345678", body=bytes(7))) == reference.Probe(b"12345678").write()
    packet = reference.Packet(b"\x60\x00\x00\x00", 59, 64, b"abc")
    assert bytes(PacketFrame(body=b"abc")) == packet.write()


@given(st.binary(max_size=64))
def test_what_the_reference_reads_is_read_here_too(frame: bytes) -> None:
    layer, known = parse_frame(frame), reference.parse(frame)
    assert layer is not None or known is None or not frame
    if isinstance(layer, Frame) and isinstance(known, reference.Packet):
        assert layer.body == known.payload


@given(st.sampled_from([0, 1, 2, 3, 4, 5, 255]), st.binary(max_size=200))
def test_any_bytes_are_a_datagram_or_none(first: int, rest: bytes) -> None:
    datagram = bytes([first]) + rest
    layer = parse_datagram(datagram)
    assert layer is None or bytes(layer) == datagram
