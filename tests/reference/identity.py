"""Seeds, keys, addresses and invite lines. Source: docs/protocol.md §2, §8."""

from __future__ import annotations

import hashlib
import ipaddress
import struct
from dataclasses import dataclass

from tests.reference import crypto

ALPHABET = "0123456789bcdfghjklmnpqrstuvwxyz"
INVITE_PREFIX = "f2f1:"
MAX_ENDPOINTS = 16
MAX_INVITE_BYTES = 512


def node_private_key(seed: bytes) -> bytes:
    """Derive the X25519 private key of a device."""
    return crypto.hkdf_sha256(seed, b"f2ftun v1 x25519")


def signing_seed(seed: bytes) -> bytes:
    """Derive the Ed25519 seed of a device."""
    return crypto.hkdf_sha256(seed, b"f2ftun v1 ed25519")


def address_of(node_key: bytes) -> bytes:
    """Give the 16 bytes of a key's address, whatever they begin with."""
    return hashlib.sha512(hashlib.sha512(node_key).digest()).digest()[:16]


def write_base32(data: bytes) -> str:
    """Write bytes with the bits taken least significant first, ceil(8n/5) characters."""
    number, length = int.from_bytes(data, "little"), (len(data) * 8 + 4) // 5
    return "".join(ALPHABET[(number >> (5 * place)) & 31] for place in range(length))


def parse_base32(text: str) -> bytes | None:
    """Read what `write_base32` wrote; `None` for anything else."""
    number = 0
    for place, character in enumerate(text):
        digit = ALPHABET.find(character)
        if digit < 0:
            return None
        number |= digit << (5 * place)
    size = len(text) * 5 // 8
    if number >> (8 * size) or (size * 8 + 4) // 5 != len(text):
        return None
    return number.to_bytes(size, "little")


def write_key(node_key: bytes) -> str:
    """Write a node key: 52 characters and `.k`."""
    return write_base32(node_key) + ".k"


@dataclass(frozen=True)
class Device:
    """The keys of one device."""

    seed: bytes

    @property
    def private_key(self) -> bytes:
        return node_private_key(self.seed)

    @property
    def key(self) -> bytes:
        return crypto.public_key(self.private_key)

    @property
    def address(self) -> bytes:
        return address_of(self.key)


def device_from(name: str) -> Device:
    """Find the first seed made of a name and a number whose address begins with fc."""
    number = 0
    while True:
        device = Device(crypto.hash32(f"{name} {number}".encode()))
        if device.address[0] == 0xFC:
            return device
        number += 1


@dataclass(frozen=True)
class Invite:
    """What an invite line says."""

    inviter: bytes
    secret: bytes
    expires_at: int
    endpoints: tuple[tuple[str, int], ...]

    def write(self) -> str:
        """Write the line."""
        body = b"\x01" + self.inviter + self.secret + struct.pack(">QB", self.expires_at, len(self.endpoints))
        body += b"".join(_write_endpoint(host, port) for host, port in self.endpoints)
        return INVITE_PREFIX + write_base32(body + hashlib.sha256(body).digest()[:4])

    @property
    def peer_private_key(self) -> bytes:
        """The one-time invite peer's X25519 private key."""
        return crypto.hkdf_sha256(self.secret, b"f2ftun v1 invite key")

    @property
    def peer_psk(self) -> bytes:
        """The psk of the session with the invite peer."""
        return crypto.hkdf_sha256(self.secret, b"f2ftun v1 invite psk")

    @property
    def friend_psk(self) -> bytes:
        """The psk of the friendship."""
        return crypto.hkdf_sha256(self.secret, b"f2ftun v1 friend psk")


def parse_invite(line: str) -> Invite | None:
    """Read an invite line; `None` for anything that is not one."""
    data = parse_base32(line.removeprefix(INVITE_PREFIX)) if line.startswith(INVITE_PREFIX) else None
    if data is None or not 78 <= len(data) <= MAX_INVITE_BYTES or data[0] != 1:
        return None
    body, check = data[:-4], data[-4:]
    endpoints = _parse_endpoints(body[74:], body[73])
    if hashlib.sha256(body).digest()[:4] != check or endpoints is None:
        return None
    return Invite(body[1:33], body[33:65], int.from_bytes(body[65:73], "big"), endpoints)


def _parse_endpoints(data: bytes, count: int) -> tuple[tuple[str, int], ...] | None:
    endpoints: list[tuple[str, int]] = []
    while data:
        head, size = (2, data[1] if len(data) > 1 else 0) if data[0] == 0 else (1, {4: 4, 6: 16}.get(data[0], -1))
        host, rest = data[head : head + size], data[head + size :]
        if size < 1 or len(host) != size or len(rest) < 2:
            return None
        text = host.decode("ascii", "replace") if data[0] == 0 else str(ipaddress.ip_address(host))
        endpoints.append((text, int.from_bytes(rest[:2], "big")))
        data = rest[2:]
    return tuple(endpoints) if len(endpoints) == count <= MAX_ENDPOINTS else None


def _write_endpoint(host: str, port: int) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        return bytes([0, len(name)]) + name + struct.pack(">H", port)
    return bytes([address.version]) + address.packed + struct.pack(">H", port)


def hybrid_psk(psk: bytes, shared_secret: bytes, encapsulation_key: bytes, ciphertext: bytes) -> bytes:
    """Derive psk'. Source: docs/protocol.md §9."""
    transcript = hashlib.sha256(encapsulation_key + ciphertext).digest()
    return crypto.hkdf_sha256(shared_secret, b"f2ftun v1 hybrid" + transcript, salt=psk)
