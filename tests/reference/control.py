"""Control messages and device records, written from f2ftun/wire/control.proto without protobuf's own code."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from tests.reference.identity import Device, signing_seed

JOIN, WELCOME, REFUSE, ENDPOINTS, GOODBYE, KEM_OFFER, KEM_ANSWER = range(1, 8)
DOMAIN = b"f2ftun v1 device"
SIGNATURE_BYTES = 64

Value = int | bytes
Fields = dict[int, list[Value]]


def write_varint(number: int) -> bytes:
    """Write a number, seven bits a byte, the lowest first."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])


def write_field(field: int, value: Value) -> bytes:
    """Write a field: a number as varint, bytes with their length."""
    if isinstance(value, int):
        return write_varint(field << 3) + write_varint(value)
    return write_varint(field << 3 | 2) + write_varint(len(value)) + value


def parse_fields(data: bytes) -> Fields | None:
    """Read a message of numbers and bytes; `None` for anything else."""
    fields: Fields = {}
    while data:
        tag, data = _varint(data)
        value: Value
        if tag is None or tag & 7 not in (0, 2):
            return None
        number, data = _varint(data)
        if number is None or (tag & 7 == 2 and number > len(data)):
            return None
        value, data = (number, data) if tag & 7 == 0 else (data[:number], data[number:])
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes) -> tuple[int | None, bytes]:
    number = 0
    for place, byte in enumerate(data[:10]):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, data[place + 1 :]
    return None, b""


@dataclass(frozen=True)
class Message:
    """A control message: which of the seven, and its fields."""

    kind: int
    fields: Fields

    def number(self, field: int) -> int:
        """Give a number, 0 where there is none."""
        value = self.fields.get(field, [0])[-1]
        return value if isinstance(value, int) else 0

    def bytes(self, field: int) -> bytes:
        """Give bytes, none where there are none."""
        value = self.fields.get(field, [b""])[-1]
        return value if isinstance(value, bytes) else b""


def parse_message(data: bytes) -> Message | None:
    """Read a control message; the last of several counts."""
    fields = parse_fields(data)
    kind = max(fields, default=0) if fields else 0
    if not fields or not JOIN <= kind <= KEM_ANSWER or not isinstance(fields[kind][-1], bytes):
        return None
    body = fields[kind][-1]
    inner = parse_fields(body) if isinstance(body, bytes) else None
    return None if inner is None else Message(kind, inner)


def write_message(kind: int, *values: Value) -> bytes:
    """Write a control message whose fields are numbered from 1."""
    return write_field(kind, b"".join(write_field(number, value) for number, value in enumerate(values, 1)))


def write_record(device: Device, name: str, sequence: int) -> bytes:
    """Write and sign a device record."""
    key = SigningKey(signing_seed(device.seed))
    body = b"\x01" + device.key + bytes(key.verify_key) + struct.pack(">QB", sequence, len(name)) + name.encode()
    return body + key.sign(DOMAIN + body).signature


def record_key(record: bytes) -> bytes | None:
    """Give the node key of a record that its signing key signed."""
    if len(record) < 139 or record[0] != 1 or len(record) != 138 + record[73]:
        return None
    body, signature = record[:-SIGNATURE_BYTES], record[-SIGNATURE_BYTES:]
    try:
        VerifyKey(record[33:65]).verify(DOMAIN + body, signature)
    except (BadSignatureError, ValueError):
        return None
    return record[1:33]
