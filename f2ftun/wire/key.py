"""A node key as text and as an address.

A node key is an X25519 public key: 32 bytes, little-endian. As text it is cjdns's base32 (bits taken least significant
first, digits and consonants and y) with ".k" at the end. The address is the first half of SHA-512 of SHA-512 of it. One
key has one way to be written: what is not canonical is refused, and so are the points of low order and keys whose
address is not in fc00::/8.

Source: docs/protocol.md §2.
"""

from __future__ import annotations

import hashlib
import ipaddress

from f2ftun.errors import (
    KeyCharacterUnknown,
    KeyLowOrder,
    KeyNotAscii,
    KeyNotCanonical,
    KeyNotFc,
    KeyTooLong,
    KeyTooShort,
    KeyUpperCase,
    KeyWithoutSuffix,
)

KEY_BYTES = 32
KEY_CHARACTERS = 52
"""256 bits, five to a character, without the suffix."""
SUFFIX = ".k"
ALPHABET = "0123456789bcdfghjklmnpqrstuvwxyz"
"""Source: docs/protocol.md §2."""
FIELD_PRIME = 2**255 - 19

_VALUES = {character: value for value, character in enumerate(ALPHABET)}

LOW_ORDER = frozenset(
    value.to_bytes(KEY_BYTES, "little")
    for value in (
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        FIELD_PRIME - 1,
    )
)
"""The canonical points of order 1, 2, 4 and 8, on the curve and its twist. Source: RFC 7748 §7, cr.yp.to/ecdh.html."""


def base32_encode(data: bytes) -> str:
    """Write bytes in cjdns's base32, 8 characters for 5 bytes, without padding."""
    number = int.from_bytes(data, "little")
    return "".join(ALPHABET[number >> shift & 31] for shift in range(0, 8 * len(data), 5))


def base32_decode(text: str) -> bytes:
    """Read cjdns's base32. Raises `ValueError` for a foreign character, and for a text that no bytes are written as."""
    number = 0
    for position, character in enumerate(text):
        if character not in _VALUES:
            raise ValueError(f"no such character: {character!r}")
        number |= _VALUES[character] << 5 * position
    size, spare = divmod(5 * len(text), 8)
    if spare >= 5 or number >> 8 * size:
        raise ValueError("not canonical")
    return number.to_bytes(size, "little")


def parse_key(text: str) -> bytes:
    """Read a node key, 32 bytes, from its 54 characters. Raises a `KeyRefused` that says why."""
    if not text.isascii():
        raise KeyNotAscii(key=text)
    if not text.lower().endswith(SUFFIX):
        raise KeyWithoutSuffix(key=text)
    body = text[: -len(SUFFIX)]
    _check_characters(text, body)
    try:
        key = base32_decode(body)
    except ValueError:
        raise KeyNotCanonical(key=text) from None
    check_key(key)
    return key


def _check_characters(text: str, body: str) -> None:
    if len(body) != KEY_CHARACTERS:
        raise (KeyTooShort if len(body) < KEY_CHARACTERS else KeyTooLong)(key=text, length=len(body))
    if text != text.lower():
        raise KeyUpperCase(key=text)
    foreign = next((character for character in body if character not in _VALUES), None)
    if foreign is not None:
        raise KeyCharacterUnknown(key=text, character=foreign)


def check_key(key: bytes) -> None:
    """Refuse 32 bytes that cannot be a node key: not canonical, of low order, or with an address not in fc00::/8.

    Raises `KeyNotCanonical`, `KeyLowOrder`, `KeyNotFc`, and `ValueError` for another size.
    """
    _check_size(key)
    if int.from_bytes(key, "little") >= FIELD_PRIME:
        raise KeyNotCanonical(key=write_key(key))
    if is_low_order(key):
        raise KeyLowOrder(key=write_key(key))
    address = address_of(key)
    if address.packed[0] != 0xFC:
        raise KeyNotFc(key=write_key(key), address=address)


def is_low_order(key: bytes) -> bool:
    """Say whether a Diffie-Hellman with this canonical public key gives zero whatever the secret."""
    return key in LOW_ORDER


def write_key(key: bytes) -> str:
    """Write 32 bytes as a node key, 54 characters. Raises `ValueError` for another size."""
    _check_size(key)
    return base32_encode(key) + SUFFIX


def address_of(key: bytes) -> ipaddress.IPv6Address:
    """Compute the address that a key has, whether or not it begins with fc. Raises `ValueError` for another size."""
    _check_size(key)
    digest = hashlib.sha512(hashlib.sha512(key).digest()).digest()
    return ipaddress.IPv6Address(digest[:16])


def _check_size(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key has {KEY_BYTES} bytes, not {len(key)}")
