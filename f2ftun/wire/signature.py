"""Ed25519, strictly: every verifier that is as strict agrees, and no key is accepted that signs everything.

libsodium refuses a scalar that is not reduced and points that are not canonical or of small order; beyond that, both
points must lie in the group of prime order, so that verification with and without the cofactor agree. Every signature
of f2ftun is over a *domain* (what kind of thing is signed) and the bytes of the thing, so that none can be passed off
as another.

Source: RFC 8032 §5.1.7; Chalkias et al., "Taming the many EdDSAs", 2020.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nacl.signing import SigningKey

SIGNATURE_BYTES = 64
SIGNING_KEY_BYTES = 32


def sign(signing_key: SigningKey, domain: bytes, message: bytes) -> bytes:
    """Sign, 64 bytes. The domain is one of those that end in no digit, e.g. `b"f2ftun v1 device"`."""
    return signing_key.sign(domain + message).signature


def verify(public_key: bytes, domain: bytes, message: bytes, signature: bytes) -> bool:
    """Say whether a signature is good. Bytes of any size and content are safe to pass."""
    from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign_open
    from nacl.exceptions import CryptoError

    if len(public_key) != SIGNING_KEY_BYTES or len(signature) != SIGNATURE_BYTES:
        return False
    if not all(map(crypto_core_ed25519_is_valid_point, (public_key, signature[:32]))):
        return False
    try:
        crypto_sign_open(signature + domain + message, public_key)
    except CryptoError:
        return False
    return True
