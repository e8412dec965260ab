"""The key log of a node, and how captured data datagrams are opened with it. Source: docs/protocol.md §4, §10."""

from __future__ import annotations

import hashlib
import re

from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_shorthash_siphash24
from nacl.exceptions import CryptoError

TAG_BYTES = 16
COUNTER_AT = 5
CIPHERTEXT_AT = 13
"""Where the masked counter and the ciphertext of a data datagram begin. Source: docs/protocol.md §4."""

_LINE = re.compile(r"SESSION ([0-9a-f]{8}) ([0-9a-f]{8}) ([0-9a-f]{64}) ([0-9a-f]{64})")


def parse_key_log(text: str) -> dict[int, bytes]:
    """Read the 32-byte key by the receiver index of the datagrams it opens; lines that are none are passed over."""
    keys: dict[int, bytes] = {}
    for line in text.splitlines():
        if match := _LINE.fullmatch(line.strip()):
            own_index, friends_index, receive_key, send_key = match.groups()
            keys[int(own_index, 16)] = bytes.fromhex(receive_key)
            keys[int(friends_index, 16)] = bytes.fromhex(send_key)
    return keys


def open_data(key: bytes, datagram: bytes) -> tuple[int, bytes] | None:
    """Unmask and decrypt a data datagram: its counter and frame, or `None` where the key is not its key."""
    if len(datagram) < CIPHERTEXT_AT + TAG_BYTES:
        return None
    mask_key = hashlib.blake2s(b"f2ftun mask", key=key, digest_size=16).digest()
    mask = crypto_shorthash_siphash24(datagram[-TAG_BYTES:], mask_key)
    counter = bytes(a ^ b for a, b in zip(datagram[COUNTER_AT:CIPHERTEXT_AT], mask, strict=True))
    try:
        frame = crypto_aead_chacha20poly1305_ietf_decrypt(datagram[CIPHERTEXT_AT:], b"", bytes(4) + counter, key)
    except CryptoError:
        return None
    return int.from_bytes(counter, "little"), frame
