from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire.record import DOMAIN, MAX_RECORD_BYTES, MAX_SEQUENCE, MIN_RECORD_BYTES, parse, sign, write
from f2ftun.wire.signature import sign as sign_bytes
from tests.unit.shared import identity, names

BOB = identity(1)
RECORD = sign(BOB.signing_key, BOB.node_key, "bob", 7)


@given(names, st.integers(0, MAX_SEQUENCE))
def test_a_signed_record_reads_back(name: str, sequence: int) -> None:
    record = sign(BOB.signing_key, BOB.node_key, name, sequence)
    data = write(record)
    assert parse(data) == record
    assert MIN_RECORD_BYTES <= len(data) <= MAX_RECORD_BYTES


@given(st.integers(0, len(write(RECORD)) * 8 - 1))
def test_one_bit_changed_is_no_record(bit: int) -> None:
    data = write(RECORD)
    assert parse((int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_no_record(data: bytes) -> None:
    assert parse(data) is None
    assert parse(b"\1" + BOB.node_key + data) is None


@pytest.mark.parametrize("cut", range(len(write(RECORD))))
def test_a_part_is_no_record(cut: int) -> None:
    assert parse(write(RECORD)[:cut]) is None


def test_a_record_of_another_signer_is_none() -> None:
    assert parse(write(replace(RECORD, signing_key=bytes(identity(2).signing_key.verify_key)))) is None


@pytest.mark.parametrize(
    ("key", "name", "sequence"),
    [
        (BOB.node_key, b"Bob", 1),
        (BOB.node_key, b"b\0b", 1),
        (BOB.node_key, b"..", 1),
        (BOB.node_key, b"all", 1),
        (BOB.node_key, b"bob.f2f", 1),
        (BOB.node_key, b"\xff", 1),
        (BOB.node_key, b"bob", MAX_SEQUENCE + 1),
        (bytes(32), b"bob", 1),
        (b"\xff" * 32, b"bob", 1),
        (bytes([9]) + bytes(31), b"bob", 1),
    ],
)
def test_a_good_signature_does_not_make_nonsense_good(key: bytes, name: bytes, sequence: int) -> None:
    signing_key = BOB.signing_key
    body = b"\1" + key + bytes(signing_key.verify_key) + sequence.to_bytes(8, "big") + bytes([len(name)]) + name
    assert parse(body + sign_bytes(signing_key, DOMAIN, body)) is None


def test_what_no_record_says_is_not_signed() -> None:
    for name, sequence in (("Bob", 1), ("bob", -1), ("bob", MAX_SEQUENCE + 1)):
        with pytest.raises(ValueError, match="record"):
            sign(BOB.signing_key, BOB.node_key, name, sequence)
