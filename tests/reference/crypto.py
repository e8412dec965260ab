"""The primitives of the protocol, from libsodium and the standard library, under the names of docs/protocol.md."""

from __future__ import annotations

import hashlib
import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl import bindings
from nacl.exceptions import CryptoError

KEY_BYTES = 32
MAC_BYTES = 16
TAG_BYTES = 16
COOKIE_NONCE_BYTES = 24


def hash32(data: bytes) -> bytes:
    """Compute HASH(data): BLAKE2s, 32 bytes. Source: docs/protocol.md §3."""
    return hashlib.blake2s(data).digest()


def mac16(key: bytes, data: bytes) -> bytes:
    """Compute MAC(key, data): keyed BLAKE2s, 16 bytes. Source: docs/protocol.md §3."""
    return hashlib.blake2s(data, key=key, digest_size=MAC_BYTES).digest()


def equal(left: bytes, right: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(left, right)


def hkdf_sha256(ikm: bytes, info: bytes, salt: bytes = b"") -> bytes:
    """Derive 32 bytes. Source: RFC 5869 with one output block."""
    prk = hmac.digest(salt or bytes(32), ikm, "sha256")
    return hmac.digest(prk, info + b"\x01", "sha256")


def public_key(private_key: bytes) -> bytes:
    """Give the X25519 public key of a private key."""
    return bindings.crypto_scalarmult_base(private_key)


def exchange(private_key: bytes, public: bytes) -> bytes | None:
    """Compute X25519; `None` where the point has low order. Source: RFC 7748 §6.1."""
    try:
        return bindings.crypto_scalarmult(private_key, public)
    except (RuntimeError, CryptoError):
        return None


def seal(key: bytes, counter: int, plaintext: bytes, aad: bytes = b"") -> bytes:
    """Encrypt with ChaCha20-Poly1305, nonce 4 zero bytes and a little-endian counter. Source: Noise rev. 34 §12.3."""
    return bindings.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, aad, _nonce(counter), key)


def unseal(key: bytes, counter: int, ciphertext: bytes, aad: bytes = b"") -> bytes | None:
    """Decrypt what `seal` made; `None` where the tag is wrong."""
    try:
        return bindings.crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, aad, _nonce(counter), key)
    except CryptoError:
        return None


def seal_aes(key: bytes, counter: int, plaintext: bytes) -> bytes:
    """Encrypt with AES-256-GCM, the nonce as in `seal`. Source: docs/protocol.md §4."""
    return AESGCM(key).encrypt(_nonce(counter), plaintext, None)


def unseal_aes(key: bytes, counter: int, ciphertext: bytes) -> bytes | None:
    """Decrypt what `seal_aes` made; `None` where the tag is wrong."""
    try:
        return AESGCM(key).decrypt(_nonce(counter), ciphertext, None)
    except InvalidTag:
        return None


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def seal_cookie(key: bytes, nonce: bytes, cookie: bytes, aad: bytes) -> bytes:
    """Encrypt a cookie with XChaCha20-Poly1305. Source: docs/protocol.md §3.4."""
    return bindings.crypto_aead_xchacha20poly1305_ietf_encrypt(cookie, aad, nonce, key)


def unseal_cookie(key: bytes, nonce: bytes, ciphertext: bytes, aad: bytes) -> bytes | None:
    """Decrypt a cookie; `None` where the tag is wrong."""
    try:
        return bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, aad, nonce, key)
    except CryptoError:
        return None


def mask_key(direction_key: bytes) -> bytes:
    """Derive the 16-byte key of the counter's mask. Source: docs/protocol.md §3.3."""
    return mac16(direction_key, b"f2ftun mask")


def mask(key: bytes, tag: bytes) -> int:
    """Compute SipHash-2-4 of a tag, as a 64-bit number. Source: docs/protocol.md §4."""
    return int.from_bytes(bindings.crypto_shorthash_siphash24(tag, key), "little")
