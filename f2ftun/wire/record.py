"""The device record: which node key and which signing key are one device, and what it calls itself.

```
version 1 (=1) ‖ node key 32 ‖ signing key 32 ‖ sequence 8 ‖ n 1 ‖ name n ‖ signature 64
```

The signature is by the signing key, over "f2ftun v1 device" and all bytes before it. The node key needs none: whoever
shows the record proves that key by the session in which it is shown. A record with a higher sequence replaces one with
a lower.

Source: docs/protocol.md §8; f2ftun/wire/control.proto.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from f2ftun.errors import KeyRefused
from f2ftun.wire.key import KEY_BYTES, check_key
from f2ftun.wire.name import MAX_NAME_CHARACTERS, is_name
from f2ftun.wire.signature import SIGNATURE_BYTES, SIGNING_KEY_BYTES, verify
from f2ftun.wire.signature import sign as sign_bytes

if TYPE_CHECKING:
    from nacl.signing import SigningKey

DOMAIN = b"f2ftun v1 device"
VERSION = 1
_NAME_AT = 1 + KEY_BYTES + SIGNING_KEY_BYTES + 8 + 1
MIN_RECORD_BYTES = _NAME_AT + 1 + SIGNATURE_BYTES
MAX_RECORD_BYTES = _NAME_AT + MAX_NAME_CHARACTERS + SIGNATURE_BYTES
MAX_SEQUENCE = 2**63 - 1
"""What SQLite stores; a higher one is refused."""


@dataclass(frozen=True, slots=True)
class DeviceRecord:
    """What a device says of itself: 32-byte keys, a name as `parse_name` gives it, sequence, 64-byte signature."""

    node_key: bytes
    signing_key: bytes
    name: str
    sequence: int
    signature: bytes


def sign(signing_key: SigningKey, node_key: bytes, name: str, sequence: int) -> DeviceRecord:
    """Make the record of a device. Raises `ValueError` for a name, key or sequence that no record has."""
    if not is_name(name) or not 0 <= sequence <= MAX_SEQUENCE or len(node_key) != KEY_BYTES:
        raise ValueError("no record can say that")
    public_key = bytes(signing_key.verify_key)
    signature = sign_bytes(signing_key, DOMAIN, _body(node_key, public_key, name, sequence))
    return DeviceRecord(node_key, public_key, name, sequence, signature)


def write(record: DeviceRecord) -> bytes:
    """Write a record, 139 to 201 bytes."""
    return _body(record.node_key, record.signing_key, record.name, record.sequence) + record.signature


def parse(data: bytes) -> DeviceRecord | None:
    """Read a record and verify its signature; `None` for anything that is not one."""
    if not MIN_RECORD_BYTES <= len(data) <= MAX_RECORD_BYTES or data[0] != VERSION:
        return None
    record = _unverified(data)
    if record is None or not verify(record.signing_key, DOMAIN, data[:-SIGNATURE_BYTES], record.signature):
        return None
    return record


def _unverified(data: bytes) -> DeviceRecord | None:
    body = data[:-SIGNATURE_BYTES]
    name = body[_NAME_AT:].decode("ascii", "replace")
    sequence = int.from_bytes(body[65:73], "big")
    if len(body) != _NAME_AT + body[73] or not is_name(name) or sequence > MAX_SEQUENCE or not _is_node_key(body[1:33]):
        return None
    return DeviceRecord(body[1:33], body[33:65], name, sequence, data[-SIGNATURE_BYTES:])


def _is_node_key(key: bytes) -> bool:
    try:
        check_key(key)
    except KeyRefused:
        return False
    return True


def _body(node_key: bytes, signing_key: bytes, name: str, sequence: int) -> bytes:
    written = name.encode("ascii")
    return bytes([VERSION]) + node_key + signing_key + sequence.to_bytes(8, "big") + bytes([len(written)]) + written
