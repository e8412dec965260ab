"""HKDF with SHA-256: one secret becomes many, each for one purpose, none of which tells another.

Source: RFC 5869; used by docs/protocol.md §2, §8 and §9.
"""

from __future__ import annotations

import hmac

HASH_BYTES = 32
MAX_OUTPUT_BYTES = 255 * HASH_BYTES
"""Source: RFC 5869 §2.3."""


def hkdf_sha256(secret: bytes, info: bytes, *, salt: bytes = b"", size: int = 32) -> bytes:
    """Derive `size` bytes (1 to 8160) for the purpose `info`. Raises `ValueError` for another size."""
    if not 0 < size <= MAX_OUTPUT_BYTES:
        raise ValueError(f"HKDF-SHA256 gives 1 to {MAX_OUTPUT_BYTES} bytes, not {size}")
    key = hmac.digest(salt or bytes(HASH_BYTES), secret, "sha256")
    return _expanded(key, info, size)


def _expanded(key: bytes, info: bytes, size: int) -> bytes:
    block, out = b"", b""
    for counter in range(1, -(-size // HASH_BYTES) + 1):
        block = hmac.digest(key, block + info + bytes([counter]), "sha256")
        out += block
    return out[:size]
