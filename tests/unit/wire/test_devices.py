import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from f2ftun.wire.devices import DOMAIN, MAX_DEVICES, parse, sign, write
from f2ftun.wire.record import MAX_SEQUENCE
from f2ftun.wire.signature import sign as sign_bytes
from tests.unit.shared import keys, secrets

USER = SigningKey(bytes(range(32)))
LIST = sign(USER, [b"\1" * 32, b"\2" * 32], 3)


@given(st.lists(keys | secrets, min_size=1, max_size=MAX_DEVICES), st.integers(0, MAX_SEQUENCE))
def test_a_signed_list_reads_back(devices: list[bytes], sequence: int) -> None:
    signed = sign(USER, devices, sequence)
    assert parse(write(signed)) == signed
    assert signed.devices == tuple(sorted(set(devices)))


@given(st.integers(0, len(write(LIST)) * 8 - 1))
def test_one_bit_changed_is_no_list(bit: int) -> None:
    data = write(LIST)
    assert parse((int.from_bytes(data, "big") ^ 1 << bit).to_bytes(len(data), "big")) is None


@given(st.binary(max_size=300))
def test_any_bytes_are_no_list(data: bytes) -> None:
    assert parse(data) is None
    assert parse(write(LIST)[:40] + data) is None


@pytest.mark.parametrize("cut", range(len(write(LIST))))
def test_a_part_is_no_list(cut: int) -> None:
    assert parse(write(LIST)[:cut]) is None


@pytest.mark.parametrize("devices", [[b"\2" * 32, b"\1" * 32], [b"\1" * 32, b"\1" * 32]])
def test_a_list_has_one_order_and_nobody_twice(devices: list[bytes]) -> None:
    body = b"\1" + bytes(USER.verify_key) + bytes(8) + bytes([len(devices)]) + b"".join(devices)
    assert parse(body + sign_bytes(USER, DOMAIN, body)) is None


@pytest.mark.parametrize("devices", [[], [b"short"], [bytes([n]) * 32 for n in range(MAX_DEVICES + 1)]])
def test_what_no_list_says_is_not_signed(devices: list[bytes]) -> None:
    with pytest.raises(ValueError, match="list"):
        sign(USER, devices, 1)
