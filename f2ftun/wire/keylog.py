"""The key log of a node, and how captured data datagrams are opened with it. Source: docs/protocol.md §4, §10."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_shorthash_siphash24
from nacl.exceptions import CryptoError

TAG_BYTES = 16
COUNTER_AT = 5
CIPHERTEXT_AT = 13
"""Where the masked counter and the ciphertext of a data datagram begin. Source: docs/protocol.md §4."""

_LINE = re.compile(r"SESSION ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{64}) ([0-9a-f]{64}) (chacha20-poly1305|aes-256-gcm)")


@dataclass(frozen=True, slots=True)
class DataKey:
    """What opens the data datagrams of one direction: 32 bytes, for AES-256-GCM or else ChaCha20-Poly1305."""

    key: bytes = field(repr=False)
    aes: bool


def parse_key_log(text: str) -> dict[int, DataKey]:
    """Read the key by the receiver index of the datagrams it opens; lines that are none are passed over."""
    keys: dict[int, DataKey] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.strip()):
            own_index, friends_index, receive_key, send_key, cipher = match.groups()
            keys[int(own_index, 16)] = DataKey(bytes.fromhex(receive_key), cipher == "aes-256-gcm")
            keys[int(friends_index, 16)] = DataKey(bytes.fromhex(send_key), cipher == "aes-256-gcm")
    return keys


def open_data(key: DataKey, datagram: bytes) -> tuple[int, bytes] | None:
    """Unmask and decrypt a data datagram: its counter and frame, or `None` where the key is not its key."""
    if len(datagram) < CIPHERTEXT_AT + TAG_BYTES:
        return None
    mask_key = hashlib.blake2s(b"f2ftun mask", key=key.key, digest_size=16).digest()
    mask = crypto_shorthash_siphash24(datagram[-TAG_BYTES:], mask_key)
    counter = bytes(a ^ b for a, b in zip(datagram[COUNTER_AT:CIPHERTEXT_AT], mask, strict=True))
    frame = _decrypt(key, bytes(4) + counter, datagram[CIPHERTEXT_AT:])
    return None if frame is None else (int.from_bytes(counter, "little"), frame)


def _decrypt(key: DataKey, nonce: bytes, ciphertext: bytes) -> bytes | None:
    try:
        if key.aes:
            return AESGCM(key.key).decrypt(nonce, ciphertext, None)
        return crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, b"", nonce, key.key)
    except (CryptoError, InvalidTag):
        return None
