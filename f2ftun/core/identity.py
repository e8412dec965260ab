"""Who a device is: one 32-byte seed, and what follows from it.

HKDF of the seed gives the X25519 node key, from which the address comes, and the Ed25519 signing key; neither is
converted into the other. Seeds are drawn until the address begins with fc, which takes 256 tries on average.

Source: docs/protocol.md §2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from f2ftun.errors import SeedRefused
from f2ftun.wire.hkdf import hkdf_sha256
from f2ftun.wire.key import address_of

if TYPE_CHECKING:
    from nacl.signing import SigningKey

SEED_BYTES = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """A device's secrets (32 bytes each, never shown) and the 32-byte public node key that they make."""

    seed: bytes = field(repr=False)
    node_private_key: bytes = field(repr=False)
    node_key: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Derive a device from its seed. Raises `ValueError` for a wrong size, `SeedRefused` when it is not in fc."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, not {len(seed)}")
        identity = _derived(seed)
        if identity.address.packed[0] != 0xFC:
            raise SeedRefused
        return identity

    @classmethod
    def draw(cls, entropy: Callable[[int], bytes]) -> Identity:
        """Draw seeds from `entropy` (e.g. `os.urandom`) until one has an address in fc."""
        while True:
            identity = _derived(entropy(SEED_BYTES))
            if identity.address.packed[0] == 0xFC:
                return identity

    @property
    def address(self) -> IPv6Address:
        """The device's overlay address."""
        return address_of(self.node_key)

    @property
    def signing_key(self) -> SigningKey:
        """The Ed25519 key with which the device signs its record."""
        from nacl.signing import SigningKey

        return SigningKey(hkdf_sha256(self.seed, b"f2ftun v1 ed25519"))


def _derived(seed: bytes) -> Identity:
    from nacl.bindings import crypto_scalarmult_base

    private_key = hkdf_sha256(seed, b"f2ftun v1 x25519")
    return Identity(seed, private_key, crypto_scalarmult_base(private_key))
