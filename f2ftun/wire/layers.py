"""The datagrams and frames of a link as scapy layers, for the dissector and for tests.

`parse_datagram` and `parse_frame` give a layer, or `None` for bytes that are none; `bytes(layer)` gives them back.
Fields have the names of docs/protocol.md (§3, §4, §5), but for what scapy keeps for itself: a Noise payload is
`sealed`, what a frame carries is `body`. A frame made with `pad` left out is padded. Nothing here decrypts, and only
what dissects imports this module, because scapy is no dependency of the daemon.
"""

from __future__ import annotations

from typing import Any

from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ByteField,
    ShortField,
    StrField,
    XBitField,
    XIntField,
    XLELongField,
    XStrField,
    XStrFixedLenField,
)
from scapy.packet import Packet

FRAME_ALIGNMENT = 16
"""Frames are a multiple of this many bytes. Source: docs/protocol.md §5."""
DATA_MIN_BYTES = 29
"""A data datagram around an empty frame. Source: docs/protocol.md §1."""

DATAGRAM_TYPES = {1: "initiation", 2: "response", 3: "cookie reply", 4: "data"}
FRAME_KINDS = {0: "nothing", 1: "fragment", 2: "control", 3: "probe", 4: "probe reply", 5: "circuit", 6: "packet"}


class Layer(Packet):
    """A layer that holds all of its bytes itself: nothing follows it."""

    def extract_padding(self, remain: bytes) -> tuple[bytes, bytes]:
        """Leave nothing to a next layer."""
        return b"", remain


class Initiation(Layer):
    """Type 1, 153 bytes. Source: docs/protocol.md §3.1."""

    name = "initiation"
    fields_desc = (
        ByteEnumField("type", 1, DATAGRAM_TYPES),
        XIntField("sender_index", 0),
        XStrFixedLenField("ephemeral", bytes(32), 32),
        XStrFixedLenField("static", bytes(48), 48),
        XStrFixedLenField("sealed", bytes(36), 36),
        XStrFixedLenField("mac1", bytes(16), 16),
        XStrFixedLenField("mac2", bytes(16), 16),
    )


class Response(Layer):
    """Type 2, 93 bytes. Source: docs/protocol.md §3.2."""

    name = "response"
    fields_desc = (
        ByteEnumField("type", 2, DATAGRAM_TYPES),
        XIntField("sender_index", 0),
        XIntField("receiver_index", 0),
        XStrFixedLenField("ephemeral", bytes(32), 32),
        XStrFixedLenField("sealed", bytes(20), 20),
        XStrFixedLenField("mac1", bytes(16), 16),
        XStrFixedLenField("mac2", bytes(16), 16),
    )


class CookieReply(Layer):
    """Type 3, 61 bytes. Source: docs/protocol.md §3.4."""

    name = "cookie reply"
    fields_desc = (
        ByteEnumField("type", 3, DATAGRAM_TYPES),
        XIntField("receiver_index", 0),
        XStrFixedLenField("nonce", bytes(24), 24),
        XStrFixedLenField("sealed", bytes(32), 32),
    )


class Data(Layer):
    """Type 4, 29 bytes and more; `sealed` is ciphertext and tag. Source: docs/protocol.md §4."""

    name = "data"
    fields_desc = (
        ByteEnumField("type", 4, DATAGRAM_TYPES),
        XIntField("receiver_index", 0),
        XLELongField("masked_counter", 0),
        XStrField("sealed", bytes(16)),
    )


class _BodyField(XStrField):
    """What a frame carries: all that is left but for `pad` bytes."""

    def getfield(self, pkt: Any, s: bytes) -> tuple[bytes, bytes]:
        """Split what is left into body and padding."""
        end = len(s) - pkt.pad
        return s[end:], s[:end]


class Frame(Layer):
    """A decrypted frame; a `pad` of `None` is computed. Source: docs/protocol.md §5."""

    pad_at = 0
    pad_shift = 0

    def post_build(self, pkt: bytes, pay: bytes) -> bytes:
        """Pad to a multiple of 16."""
        if self.pad is not None or not pkt:
            return pkt + pay
        pad = -len(pkt) % FRAME_ALIGNMENT
        padded = bytearray(pkt + bytes(pad))
        padded[self.pad_at] |= pad << self.pad_shift
        return bytes(padded) + pay


def _head(kind: int) -> tuple[Any, ...]:
    return BitEnumField("kind", kind, 4, FRAME_KINDS), BitField("pad", None, 4)


_PADDING = StrField("padding", b"")


class NothingFrame(Frame):
    """Kind 0, which says: I am here."""

    name = "nothing"
    fields_desc = (*_head(0), _BodyField("body", b""), _PADDING)


class FragmentFrame(Frame):
    """Kind 1: half of a frame. Source: docs/protocol.md §5.2."""

    name = "fragment"
    fields_desc = (
        *_head(1),
        BitField("last", 0, 1),
        BitField("zero", 0, 7),
        ShortField("id", 0),
        _BodyField("body", b""),
        _PADDING,
    )


class ControlFrame(Frame):
    """Kind 2: a protobuf message. Source: docs/protocol.md §5.3."""

    name = "control"
    fields_desc = (*_head(2), _BodyField("body", b""), _PADDING)


class ProbeFrame(Frame):
    """Kind 3; `body` is zeros. Source: docs/protocol.md §5.4."""

    name = "probe"
    fields_desc = (*_head(3), XStrFixedLenField("token", bytes(8), 8), _BodyField("body", b""), _PADDING)


class ProbeReplyFrame(Frame):
    """Kind 4; `length` is that of the UDP payload which carried the probe. Source: docs/protocol.md §5.4."""

    name = "probe reply"
    fields_desc = (
        *_head(4),
        XStrFixedLenField("token", bytes(8), 8),
        ShortField("length", 0),
        _BodyField("body", b""),
        _PADDING,
    )


class CircuitFrame(Frame):
    """Kind 5, reserved."""

    name = "circuit"
    fields_desc = (*_head(5), _BodyField("body", b""), _PADDING)


class PacketFrame(Frame):
    """Kind 6: an IPv6 packet without addresses and length. Source: docs/protocol.md §5.1."""

    name = "packet"
    pad_at = 4
    pad_shift = 4
    fields_desc = (
        BitEnumField("kind", 6, 4, FRAME_KINDS),
        XBitField("traffic_class", 0, 8),
        XBitField("flow_label", 0, 20),
        BitField("pad", None, 4),
        BitField("partial", 0, 1),
        BitField("joined", 0, 1),
        BitField("zero", 0, 10),
        ByteField("next_header", 59),
        ByteField("hop_limit", 64),
        _BodyField("body", b""),
        _PADDING,
    )


_DATAGRAMS: dict[int, tuple[type[Layer], int]] = {
    1: (Initiation, 153),
    2: (Response, 93),
    3: (CookieReply, 61),
}
_FRAMES: dict[int, tuple[type[Frame], int]] = {
    0: (NothingFrame, 1),
    1: (FragmentFrame, 4),
    2: (ControlFrame, 1),
    3: (ProbeFrame, 9),
    4: (ProbeReplyFrame, 11),
    5: (CircuitFrame, 1),
    6: (PacketFrame, 8),
}


def parse_datagram(datagram: bytes) -> Layer | None:
    """Read a UDP payload; `None` for an unknown type or a wrong length. Source: docs/protocol.md §1."""
    if datagram[:1] == b"\x04":
        fits = len(datagram) >= DATA_MIN_BYTES and (len(datagram) - DATA_MIN_BYTES) % FRAME_ALIGNMENT == 0
        return Data(datagram) if fits else None
    layer, size = _DATAGRAMS.get(datagram[0] if datagram else 0, (Layer, -1))
    return layer(datagram) if len(datagram) == size else None


def parse_frame(frame: bytes) -> Frame | None:
    """Read a frame; `None` for an empty one, an unknown kind, or one shorter than its header and padding."""
    layer, header_bytes = _FRAMES.get(frame[0] >> 4 if frame else 15, (Frame, 0))
    if not header_bytes or len(frame) < header_bytes:
        return None
    pad = frame[layer.pad_at] >> layer.pad_shift & 15
    return layer(frame) if len(frame) - pad >= header_bytes else None
