"""What a captured UDP payload says: its datagrams, and with their keys the frames inside, as plain values.

A payload of many segments, captured before the kernel cut it (or after it joined them), is cut here. Only what dissects
imports this module, because `layers` needs scapy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from f2ftun.wire.keylog import DataKey, open_data
from f2ftun.wire.layers import DATA_MIN_BYTES, FRAME_ALIGNMENT, Data, Layer, parse_datagram, parse_frame

Fields = dict[str, int | str]
Dissection = dict[str, Any]

LARGEST_UNSEGMENTED_BYTES = 1472
"""What a datagram over IPv4 on Ethernet carries: a longer payload may be many."""
_HEAD_BYTES = 5


def dissect_payload(payload: bytes, keys: Mapping[int, DataKey]) -> list[Dissection]:
    """Read all datagrams of a UDP payload; empty for one that is not f2ftun's. `keys` are by receiver index."""
    dissections = [_dissect_datagram(datagram, keys) for datagram in split_segments(payload)]
    return [dissection for dissection in dissections if dissection is not None]


def split_segments(payload: bytes) -> list[bytes]:
    """Cut a payload where data datagrams of one size and one receiver index follow one another."""
    size = _segment_bytes(payload)
    return [payload[at : at + size] for at in range(0, len(payload), size)] if size else [payload]


def _segment_bytes(payload: bytes) -> int:
    """Find the size at which the type and receiver index come again and again; 0 where they do not."""
    head = payload[:_HEAD_BYTES]
    if len(payload) <= LARGEST_UNSEGMENTED_BYTES or head[0] != 4:
        return 0
    at = payload.find(head, DATA_MIN_BYTES)
    while at > 0:
        fits = (at - DATA_MIN_BYTES) % FRAME_ALIGNMENT == 0
        if fits and all(payload.startswith(head, start) for start in range(at, len(payload), at)):
            return at
        at = payload.find(head, at + 1)
    return 0


def _dissect_datagram(datagram: bytes, keys: Mapping[int, DataKey]) -> Dissection | None:
    layer = parse_datagram(datagram)
    if layer is None:
        return None
    dissection = {"type": layer.name, "bytes": len(datagram), "fields": _fields(layer, without={"type"})}
    if isinstance(layer, Data) and (key := keys.get(layer.receiver_index)) is not None:
        dissection |= _dissect_frame(key, datagram)
    return dissection


def _dissect_frame(key: DataKey, datagram: bytes) -> Dissection:
    """Open a data datagram; what its key does not open is called forged."""
    opened = open_data(key, datagram)
    if opened is None:
        return {"forged": True}
    counter, frame = opened
    if not frame:
        return {"counter": counter, "frame": {"kind": "nothing"}}
    layer = parse_frame(frame)
    if layer is None:
        return {"counter": counter, "frame": {"kind": "malformed", "body": frame.hex()}}
    return {"counter": counter, "frame": {"kind": layer.name, **_fields(layer, without={"kind", "padding", "zero"})}}


def _fields(layer: Layer, without: set[str]) -> Fields:
    """Give fields by name: numbers as they are, bytes and indices as hex."""
    return {
        field.name: _plain(field.name, layer.getfieldval(field.name))
        for field in layer.fields_desc
        if field.name not in without
    }


def _plain(name: str, value: int | bytes) -> int | str:
    if isinstance(value, bytes):
        return value.hex()
    return f"{value:08x}" if name.endswith("_index") else f"{value:016x}" if name == "masked_counter" else int(value)
