"""Hybrid post-quantum keys: ML-KEM-768 inside the young session, its secret mixed into the psk of the next.

The node with the lower key offers an encapsulation key, the other answers with a ciphertext; both then know a secret
that an observer of the classical handshake cannot compute even with a quantum computer. The new psk also depends on the
old one and on all that travelled, so neither can be replaced on the way.

Source: docs/protocol.md §9; FIPS 203.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from f2ftun.wire.hkdf import hkdf_sha256

OFFER_SEED_BYTES = 64
"""d ‖ z of ML-KEM.KeyGen. Source: FIPS 203, algorithm 16."""
PSK_ID_BYTES = 4
OFFER_INTERVAL = 24 * 3600.0
"""Seconds between exchanges. Source: docs/protocol.md §9."""


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer that waits for its answer: the secret seed, and the encapsulation key (1184 bytes) to send."""

    seed: bytes = field(repr=False)
    key: bytes = field(repr=False)


def offers(own_key: bytes, friend_key: bytes) -> bool:
    """Say whether of two nodes it is this one that offers: the one with the lower node key."""
    return own_key < friend_key


def offer(seed: bytes) -> Offer:
    """Make an offer from 64 bytes of fresh entropy. Raises `ValueError` for another size."""
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    return Offer(seed, MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw())


def answer(key: bytes, psk: bytes) -> tuple[bytes, bytes] | None:
    """Answer an encapsulation key: the ciphertext (1088 bytes) and the new psk (32), or `None` if the key is not one.

    The entropy is the library's own: no interface takes any.
    """
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PublicKey

    try:
        secret, ciphertext = MLKEM768PublicKey.from_public_bytes(key).encapsulate()
    except ValueError:
        return None
    return ciphertext, combined_psk(psk, secret, key, ciphertext)


def finish(made: Offer, ciphertext: bytes, psk: bytes) -> bytes | None:
    """Read the answer to an offer: the new psk (32), or `None` if the ciphertext has a wrong size.

    A ciphertext that was made for another key gives another psk than the friend's, and the handshake with it fails.
    """
    from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey

    try:
        secret = MLKEM768PrivateKey.from_seed_bytes(made.seed).decapsulate(ciphertext)
    except ValueError:
        return None
    return combined_psk(psk, secret, made.key, ciphertext)


def combined_psk(psk: bytes, secret: bytes, key: bytes, ciphertext: bytes) -> bytes:
    """Mix a KEM's secret into a psk, 32 bytes. Source: docs/protocol.md §9."""
    info = b"f2ftun v1 hybrid" + hashlib.sha256(key + ciphertext).digest()
    return hkdf_sha256(secret, info, salt=psk)


def psk_id(psk: bytes) -> bytes:
    """Name a psk in 4 bytes without telling it. Source: docs/protocol.md §3.1."""
    return hashlib.blake2s(b"f2ftun psk" + psk).digest()[:PSK_ID_BYTES]
