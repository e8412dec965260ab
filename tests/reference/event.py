"""What a reference node says and sends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tests.reference.cookie import Endpoint


class Kind(Enum):
    """What an event is about."""

    SESSION = "session"
    PACKET = "packet"
    CONTROL = "control"
    PROBE = "probe"
    PROBE_REPLY = "probe reply"
    NOTHING = "nothing"
    ROAMED = "roamed"
    COOKIE = "cookie"


@dataclass(frozen=True)
class Event:
    """Something that happened with a friend.

    `payload`: the whole IPv6 packet, the control message, the token, the cookie. `counter` is that of the datagram.
    """

    kind: Kind
    peer: bytes
    payload: bytes = b""
    counter: int = -1
    joined: bool = False


@dataclass(frozen=True)
class Transmit:
    """A datagram to send."""

    datagram: bytes
    destination: Endpoint
