"""An invitation: one line of text that makes two nodes friends.

It carries the inviter's node key, a secret that was drawn for it alone, an expiry and where the inviter can be reached.
From the secret come a one-time key pair (the *invite peer*, as which the invited node dials first), the psk of that
session, and the psk of the friendship. Four check bytes tell a damaged line from a foreign one.

Source: docs/protocol.md §8.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address, ip_address

from f2ftun.errors import EndpointUnreadable, InviteDamaged, InviteNewer, InviteUnreadable
from f2ftun.wire.endpoint import Endpoint, parse_endpoint
from f2ftun.wire.hkdf import hkdf_sha256
from f2ftun.wire.key import KEY_BYTES, base32_decode, base32_encode, check_key

PREFIX = "f2f1:"
VERSION = 1
SECRET_BYTES = 32
CHECK_BYTES = 4
MAX_ENDPOINTS = 16
MAX_INVITE_BYTES = 512
"""All of these: docs/protocol.md §8."""
MAX_INVITE_CHARACTERS = len(PREFIX) + -(-MAX_INVITE_BYTES * 8 // 5)
MAX_EXPIRY = 253402300799
"""The last second of the year 9999, in Unix time: the last that can be shown as a date."""

_FIXED_BYTES = 1 + KEY_BYTES + SECRET_BYTES + 8 + 1
_HOST_NAME, _IPV4, _IPV6 = 0, 4, 6


@dataclass(frozen=True)
class Invite:
    """What an invitation says: 32-byte node key of the inviter, 32-byte secret, Unix seconds, at most 16 endpoints.

    The endpoints are texts as `str(parse_endpoint(text))` writes them. Raises `ValueError` for what an invitation
    cannot say.
    """

    inviter: bytes
    secret: bytes = field(repr=False)
    expires_at: int
    endpoints: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.inviter) != KEY_BYTES or len(self.secret) != SECRET_BYTES:
            raise ValueError("an invitation has a key and a secret of 32 bytes each")
        if not 0 <= self.expires_at <= MAX_EXPIRY:
            raise ValueError("an invitation expires between 1970 and 9999")
        if any(str(parse_endpoint(endpoint)) != endpoint for endpoint in self.endpoints):
            raise ValueError("an endpoint is written in its one form")
        if len(self.endpoints) > MAX_ENDPOINTS or len(_body(self)) + CHECK_BYTES > MAX_INVITE_BYTES:
            raise ValueError("an invitation holds at most 16 endpoints and 512 bytes")

    @cached_property
    def invite_private_key(self) -> bytes:
        """The X25519 private key, 32 bytes, as which the invited node dials."""
        return hkdf_sha256(self.secret, b"f2ftun v1 invite key")

    @cached_property
    def invite_key(self) -> bytes:
        """The public key, 32 bytes, that the inviter accepts until the expiry."""
        from nacl.bindings import crypto_scalarmult_base

        return crypto_scalarmult_base(self.invite_private_key)

    @cached_property
    def invite_psk(self) -> bytes:
        """The psk, 32 bytes, of the session between inviter and invite peer."""
        return hkdf_sha256(self.secret, b"f2ftun v1 invite psk")

    @cached_property
    def friend_psk(self) -> bytes:
        """The psk, 32 bytes, of the friendship that comes of it."""
        return hkdf_sha256(self.secret, b"f2ftun v1 friend psk")

    def expired(self, unix_now: float) -> bool:
        """Say whether the invitation is no longer good at a time in Unix seconds."""
        return unix_now >= self.expires_at


def fitting_endpoints(endpoints: tuple[str, ...]) -> tuple[str, ...]:
    """Keep as many endpoints, from the first, as one invitation holds, each once."""
    room = MAX_INVITE_BYTES - CHECK_BYTES - _FIXED_BYTES
    kept: list[str] = []
    for endpoint in dict.fromkeys(endpoints):
        size = len(_written_endpoint(endpoint))
        if len(kept) < MAX_ENDPOINTS and size <= room:
            kept.append(endpoint)
            room -= size
    return tuple(kept)


def write(invite: Invite) -> str:
    """Write an invitation as one line, at most 825 characters."""
    body = _body(invite)
    return PREFIX + base32_encode(body + _check(body))


def parse(text: str) -> Invite:
    """Read an invitation, without regard to white space. Raises an `InviteRefused` or a `KeyRefused` that says why."""
    if len(text) > 4 * MAX_INVITE_CHARACTERS:
        raise InviteUnreadable(reason="it is too long")
    line = "".join(text.split())
    if not line.startswith(PREFIX):
        raise InviteUnreadable(reason="it does not begin as one")
    data = _decoded(line.removeprefix(PREFIX))
    if len(data) > MAX_INVITE_BYTES:
        raise InviteUnreadable(reason="it is too long")
    if data[0] != VERSION:
        raise InviteNewer(version=data[0])
    return _parsed_body(data[:-CHECK_BYTES])


def _decoded(text: str) -> bytes:
    """Decode and check; what comes back holds at least a version and a check."""
    try:
        data = base32_decode(text)
    except ValueError:
        raise InviteDamaged from None
    if len(data) <= CHECK_BYTES or _check(data[:-CHECK_BYTES]) != data[-CHECK_BYTES:]:
        raise InviteDamaged
    return data


def _parsed_body(body: bytes) -> Invite:
    if len(body) < _FIXED_BYTES:
        raise InviteUnreadable(reason="it is too short")
    inviter, secret = body[1:33], body[33:65]
    check_key(inviter)
    try:
        endpoints = _parsed_endpoints(body[_FIXED_BYTES:], body[_FIXED_BYTES - 1])
        return Invite(inviter, secret, int.from_bytes(body[65:73], "big"), endpoints)
    except (ValueError, IndexError, EndpointUnreadable):
        raise InviteUnreadable(reason="what it says makes no sense") from None


def _parsed_endpoints(data: bytes, count: int) -> tuple[str, ...]:
    """Read exactly `count` endpoints from all of the bytes. Raises `ValueError` or `IndexError` if they are not."""
    endpoints = []
    for _ in range(count):
        host, data = _parsed_host(data)
        port = int.from_bytes(data[:2], "big")
        endpoints.append(str(parse_endpoint(str(Endpoint(host, port)))))
        data = data[2:]
    if data:
        raise ValueError("bytes are left over")
    return tuple(endpoints)


def _parsed_host(data: bytes) -> tuple[IPv4Address | IPv6Address | str, bytes]:
    kind = data[0]
    if kind == _HOST_NAME:
        end = 2 + data[1]
        return data[2:end].decode("ascii"), data[end:]
    if kind not in (_IPV4, _IPV6):
        raise ValueError("no such kind of endpoint")
    end = 1 + (4 if kind == _IPV4 else 16)
    return ip_address(data[1:end]), data[end:]


def _body(invite: Invite) -> bytes:
    return b"".join(
        (
            bytes([VERSION]),
            invite.inviter,
            invite.secret,
            invite.expires_at.to_bytes(8, "big"),
            bytes([len(invite.endpoints)]),
            *map(_written_endpoint, invite.endpoints),
        )
    )


def _written_endpoint(text: str) -> bytes:
    endpoint = parse_endpoint(text)
    port = endpoint.port.to_bytes(2, "big")
    if isinstance(endpoint.host, str):
        return bytes([_HOST_NAME, len(endpoint.host)]) + endpoint.host.encode("ascii") + port
    return bytes([endpoint.host.version]) + endpoint.host.packed + port


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:CHECK_BYTES]
