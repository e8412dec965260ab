import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import (
    crypto_core_ed25519_add,
    crypto_core_ed25519_scalar_add,
    crypto_core_ed25519_scalar_mul,
    crypto_core_ed25519_scalar_reduce,
    crypto_scalarmult_ed25519_base_noclamp,
    crypto_sign_open,
)
from nacl.signing import SigningKey

from f2ftun.wire.signature import sign, verify
from tests.unit.shared import vectors

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493
ORDER_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
SMALL_ORDER = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]
"""All encodings of the eight points of small order. Source: Chalkias et al., "Taming the many EdDSAs", table 6."""
KEY = SigningKey(bytes(range(32)))


def test_wycheproof() -> None:
    for group in vectors("wycheproof/ed25519_test.json")["testGroups"]:
        public_key = bytes.fromhex(group["publicKey"]["pk"])
        for test in group["tests"]:
            good = verify(public_key, b"", bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"]))
            assert good == (test["result"] == "valid"), test["tcId"]


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_a_key_of_small_order_signs_nothing(point: str) -> None:
    for commitment in SMALL_ORDER:
        assert not verify(bytes.fromhex(point), b"", b"message", bytes.fromhex(commitment) + bytes(32))


def scalar(number: int) -> bytes:
    return (number % GROUP_ORDER).to_bytes(32, "little")


def mixed_order_signature(message: bytes) -> tuple[bytes, bytes]:
    """Make a key with a part of order 8, and a signature that verifiers accept with and without the cofactor."""
    secret = scalar(12345678901234567890)
    public_key = crypto_core_ed25519_add(crypto_scalarmult_ed25519_base_noclamp(secret), ORDER_8)
    for nonce in range(1, 1000):
        commitment = crypto_scalarmult_ed25519_base_noclamp(scalar(nonce))
        challenge = crypto_core_ed25519_scalar_reduce(hashlib.sha512(commitment + public_key + message).digest())
        if challenge[0] % 8 == 0:
            product = crypto_core_ed25519_scalar_mul(challenge, secret)
            return public_key, commitment + crypto_core_ed25519_scalar_add(scalar(nonce), product)
    raise AssertionError


def test_a_key_of_mixed_order_is_refused_though_libsodium_takes_it() -> None:
    public_key, signature = mixed_order_signature(b"message")
    assert crypto_sign_open(signature + b"message", public_key) == b"message"
    assert not verify(public_key, b"", b"message", signature)


def test_a_scalar_has_one_encoding() -> None:
    signature = sign(KEY, b"d", b"m")
    more = (int.from_bytes(signature[32:], "little") + GROUP_ORDER).to_bytes(32, "little")
    assert verify(bytes(KEY.verify_key), b"d", b"m", signature)
    assert not verify(bytes(KEY.verify_key), b"d", b"m", signature[:32] + more)


@given(st.binary(max_size=100), st.integers(0, 511))
def test_a_signature_is_good_for_its_message_and_domain_only(message: bytes, bit: int) -> None:
    public_key, signature = bytes(KEY.verify_key), sign(KEY, b"f2ftun v1 test", message)
    assert verify(public_key, b"f2ftun v1 test", message, signature)
    assert not verify(public_key, b"f2ftun v1 else", message, signature)
    assert not verify(public_key, b"f2ftun v1 test", message + b"x", signature)
    flipped = (int.from_bytes(signature, "big") ^ 1 << bit).to_bytes(64, "big")
    assert not verify(public_key, b"f2ftun v1 test", message, flipped)


@given(st.binary(max_size=40), st.binary(max_size=70))
def test_any_bytes_may_be_passed(public_key: bytes, signature: bytes) -> None:
    assert not verify(public_key, b"d", b"m", signature)
