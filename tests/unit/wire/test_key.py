import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.errors import (
    F2ftunError,
    KeyCharacterUnknown,
    KeyLowOrder,
    KeyNotAscii,
    KeyNotCanonical,
    KeyNotFc,
    KeyRefused,
    KeyTooLong,
    KeyTooShort,
    KeyUpperCase,
    KeyWithoutSuffix,
)
from f2ftun.wire.key import (
    FIELD_PRIME,
    LOW_ORDER,
    address_of,
    base32_decode,
    base32_encode,
    check_key,
    is_low_order,
    parse_key,
    write_key,
)
from tests.unit.shared import identity, vectors

GOOD = "08bz912l989nzqc21q9x5qr96ns465nd71f290hb9q40z94jjw60.k"


def test_every_cjdns_pair_verifies() -> None:
    for pair in vectors("cjdns_vectors.json"):
        key = parse_key(pair["publicKey"])
        assert address_of(key).exploded == pair["ipv6"]
        assert write_key(key) == pair["publicKey"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (GOOD.upper(), KeyUpperCase),
        (GOOD[:-2].upper() + ".k", KeyUpperCase),
        (GOOD[:-2] + ".K", KeyUpperCase),
        (GOOD[:-2] + ".f2f", KeyWithoutSuffix),
        (GOOD.replace("8", "８"), KeyNotAscii),
        (GOOD[:-2], KeyWithoutSuffix),
        (GOOD + "\n", KeyWithoutSuffix),
        (GOOD[1:], KeyTooShort),
        ("0" + GOOD, KeyTooLong),
        (" " + GOOD[1:], KeyCharacterUnknown),
        ("a" + GOOD[1:], KeyCharacterUnknown),
        ("", KeyWithoutSuffix),
        (".k", KeyTooShort),
        ("0" * 10**6 + ".k", KeyTooLong),
        ("1" + GOOD[1:], KeyNotFc),
        (GOOD[:-3] + "z.k", KeyNotCanonical),
    ],
)
def test_what_is_not_a_key_is_refused_with_its_reason(text: str, error: type[KeyRefused]) -> None:
    with pytest.raises(error):
        parse_key(text)


@pytest.mark.parametrize("last", "23456789bcdfghjklmnpqrstuvwxyz")
def test_the_last_four_bits_are_zero(last: str) -> None:
    with pytest.raises(KeyNotCanonical):
        parse_key(GOOD[:-3] + last + ".k")


@pytest.mark.parametrize("number", [FIELD_PRIME, FIELD_PRIME + 9, 2**255 - 1, 2**255, 2**255 + 9, 2**256 - 1])
def test_a_key_beyond_the_field_is_a_second_way_to_write_another(number: int) -> None:
    with pytest.raises(KeyNotCanonical):
        parse_key(write_key(number.to_bytes(32, "little")))


@pytest.mark.parametrize("point", sorted(LOW_ORDER))
def test_points_of_low_order_are_refused(point: bytes) -> None:
    with pytest.raises(KeyLowOrder):
        parse_key(write_key(point))


def test_wycheproof_agrees_which_canonical_points_have_low_order() -> None:
    for test in vectors("wycheproof/x25519_test.json")["testGroups"][0]["tests"]:
        public = bytes.fromhex(test["public"])
        if int.from_bytes(public, "little") < FIELD_PRIME:
            assert is_low_order(public) == (test["shared"] == "00" * 32)


@given(st.binary(max_size=600))
def test_base32_reads_what_it_writes(data: bytes) -> None:
    assert base32_decode(base32_encode(data)) == data


@given(st.text("0123456789bcdfghjklmnpqrstuvwxyz", max_size=60))
def test_base32_has_one_way_to_write_bytes(text: str) -> None:
    try:
        data = base32_decode(text)
    except ValueError:
        return
    assert base32_encode(data) == text


@given(st.text())
def test_any_text_is_a_key_or_refused(text: str) -> None:
    with pytest.raises(KeyRefused):
        parse_key(text + "x")
    with pytest.raises(F2ftunError):
        parse_key(text)


@given(st.binary(min_size=32, max_size=32))
def test_any_bytes_are_a_key_or_refused(key: bytes) -> None:
    try:
        check_key(key)
    except KeyRefused:
        return
    assert parse_key(write_key(key)) == key


@pytest.mark.parametrize("number", range(3))
def test_a_drawn_key_reads_back(number: int) -> None:
    key = identity(number).node_key
    assert parse_key(write_key(key)) == key


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_of_another_size_is_a_mistake_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        write_key(bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        address_of(bytes(size))
    with pytest.raises(ValueError, match="32 bytes"):
        check_key(bytes(size))
