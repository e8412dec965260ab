"""Control messages between friends' daemons: dataclasses to protobuf bytes and back.

What comes in is from a friend, which makes it authentic, not honest: a message that is too long, empty, unknown or of
which a value is not as `control.proto` describes it is `None`.

Source: docs/protocol.md §7 to §9; f2ftun/wire/control.proto.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from google.protobuf.message import DecodeError

from f2ftun.errors import EndpointUnreadable
from f2ftun.wire import control_pb2 as pb
from f2ftun.wire.endpoint import parse_endpoint
from f2ftun.wire.invite import MAX_ENDPOINTS

MAX_CONTROL_BYTES = 2300
"""Source: docs/protocol.md §5.3."""
KEM_KEY_BYTES = 1184
KEM_CIPHERTEXT_BYTES = 1088
"""ML-KEM-768. Source: FIPS 203, table 3."""


class Reason(Enum):
    """Why a node says goodbye: it stops, or it is no friend any more."""

    UNSPECIFIED = 0
    STOPPING = 1
    UNFRIENDED = 2


@dataclass(frozen=True, slots=True)
class Join:
    """The invited node's device record, and its user's device list or nothing."""

    record: bytes
    devices: bytes = b""


@dataclass(frozen=True, slots=True)
class Welcome:
    """The inviter's device record, and its user's device list or nothing."""

    record: bytes
    devices: bytes = b""


@dataclass(frozen=True, slots=True)
class Refuse:
    """The invitation is not good, for whatever reason."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the sender can be reached now: at most 16 texts as `str(parse_endpoint(text))` writes them."""

    endpoints: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The sender goes, and that is not a failure."""

    reason: Reason = Reason.STOPPING


@dataclass(frozen=True, slots=True)
class KemOffer:
    """A fresh ML-KEM-768 encapsulation key, 1184 bytes; `epoch` (64 bits) tells offers apart."""

    epoch: int
    key: bytes


@dataclass(frozen=True, slots=True)
class KemAnswer:
    """The ciphertext, 1088 bytes, for the offer with this epoch."""

    epoch: int
    ciphertext: bytes


Message = Join | Welcome | Refuse | Endpoints | Goodbye | KemOffer | KemAnswer


def write(message: Message) -> bytes:
    """Write a message. Raises `ValueError` when it is longer than 2,300 bytes or holds a number out of range."""
    data = pb.Control(**_WRITERS[type(message)](message)).SerializeToString(deterministic=True)
    if len(data) > MAX_CONTROL_BYTES:
        raise ValueError(f"a control message has at most {MAX_CONTROL_BYTES} bytes, not {len(data)}")
    return data


def parse(data: bytes) -> Message | None:
    """Read a message; `None` for anything that is not one."""
    if len(data) > MAX_CONTROL_BYTES:
        return None
    try:
        control = pb.Control.FromString(data)
    except DecodeError:
        return None
    kind = control.WhichOneof("message")
    return _PARSERS[kind](getattr(control, kind)) if kind else None


_WRITERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    Join: lambda m: {"join": pb.Join(record=m.record, devices=m.devices)},
    Welcome: lambda m: {"welcome": pb.Welcome(record=m.record, devices=m.devices)},
    Refuse: lambda _: {"refuse": pb.Refuse()},
    Endpoints: lambda m: {"endpoints": pb.Endpoints(endpoints=m.endpoints)},
    Goodbye: lambda m: {"goodbye": pb.Goodbye(reason=m.reason.value)},
    KemOffer: lambda m: {"kem_offer": pb.KemOffer(epoch=m.epoch, key=m.key)},
    KemAnswer: lambda m: {"kem_answer": pb.KemAnswer(epoch=m.epoch, ciphertext=m.ciphertext)},
}


def _parsed_endpoints(message: pb.Endpoints) -> Endpoints | None:
    if len(message.endpoints) > MAX_ENDPOINTS:
        return None
    try:
        return Endpoints(tuple(str(parse_endpoint(text)) for text in message.endpoints))
    except EndpointUnreadable:
        return None


def _parsed_goodbye(message: pb.Goodbye) -> Goodbye:
    known = {reason.value for reason in Reason}
    return Goodbye(Reason(message.reason) if message.reason in known else Reason.UNSPECIFIED)


def _parsed_offer(message: pb.KemOffer) -> KemOffer | None:
    return KemOffer(message.epoch, message.key) if len(message.key) == KEM_KEY_BYTES else None


def _parsed_answer(message: pb.KemAnswer) -> KemAnswer | None:
    return KemAnswer(message.epoch, message.ciphertext) if len(message.ciphertext) == KEM_CIPHERTEXT_BYTES else None


_PARSERS: dict[str, Callable[[Any], Message | None]] = {
    "join": lambda m: Join(m.record, m.devices),
    "welcome": lambda m: Welcome(m.record, m.devices),
    "refuse": lambda _: Refuse(),
    "endpoints": _parsed_endpoints,
    "goodbye": _parsed_goodbye,
    "kem_offer": _parsed_offer,
    "kem_answer": _parsed_answer,
}
