"""The device list: which devices are one user.

```
version 1 (=1) ‖ user key 32 ‖ sequence 8 ‖ n 1 ‖ n node keys of 32, rising ‖ signature 64
```

The user key is an Ed25519 key, perhaps one from OpenSSH; it signs "f2ftun v1 devices" and all bytes before the
signature. A list with a higher sequence replaces one with a lower. A user with one device needs no list.

Source: f2ftun/wire/control.proto.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from f2ftun.wire.key import KEY_BYTES
from f2ftun.wire.record import MAX_SEQUENCE
from f2ftun.wire.signature import SIGNATURE_BYTES, SIGNING_KEY_BYTES, verify
from f2ftun.wire.signature import sign as sign_bytes

if TYPE_CHECKING:
    from nacl.signing import SigningKey

DOMAIN = b"f2ftun v1 devices"
VERSION = 1
MAX_DEVICES = 32
"""So that a list fits into one control message with room for a record: 1,130 bytes of 2,300."""
_KEYS_AT = 1 + SIGNING_KEY_BYTES + 8 + 1


@dataclass(frozen=True, slots=True)
class DeviceList:
    """A user's 32-byte Ed25519 key, a sequence, 1 to 32 node keys in rising order, a 64-byte signature."""

    user_key: bytes
    sequence: int
    devices: tuple[bytes, ...]
    signature: bytes


def sign(user_key: SigningKey, devices: Iterable[bytes], sequence: int) -> DeviceList:
    """Make a user's list. Raises `ValueError` for a number of devices or a sequence that no list has."""
    keys = tuple(sorted(set(devices)))
    sizes = {len(key) for key in keys}
    if sizes != {KEY_BYTES} or len(keys) > MAX_DEVICES or not 0 <= sequence <= MAX_SEQUENCE:
        raise ValueError("no list can say that")
    public_key = bytes(user_key.verify_key)
    return DeviceList(public_key, sequence, keys, sign_bytes(user_key, DOMAIN, _body(public_key, sequence, keys)))


def write(devices: DeviceList) -> bytes:
    """Write a list, 138 to 1,130 bytes."""
    return _body(devices.user_key, devices.sequence, devices.devices) + devices.signature


def parse(data: bytes) -> DeviceList | None:
    """Read a list and verify its signature; `None` for anything that is not one."""
    if len(data) < _KEYS_AT or data[0] != VERSION or not 0 < data[_KEYS_AT - 1] <= MAX_DEVICES:
        return None
    if len(data) != _KEYS_AT + data[_KEYS_AT - 1] * KEY_BYTES + SIGNATURE_BYTES:
        return None
    devices = _unverified(data)
    rising = all(earlier < later for earlier, later in pairwise(devices.devices))
    if not rising or devices.sequence > MAX_SEQUENCE:
        return None
    return devices if verify(devices.user_key, DOMAIN, data[:-SIGNATURE_BYTES], devices.signature) else None


def _unverified(data: bytes) -> DeviceList:
    keys = tuple(data[at : at + KEY_BYTES] for at in range(_KEYS_AT, len(data) - SIGNATURE_BYTES, KEY_BYTES))
    return DeviceList(data[1:33], int.from_bytes(data[33:41], "big"), keys, data[-SIGNATURE_BYTES:])


def _body(user_key: bytes, sequence: int, devices: tuple[bytes, ...]) -> bytes:
    return bytes([VERSION]) + user_key + sequence.to_bytes(8, "big") + bytes([len(devices)]) + b"".join(devices)
