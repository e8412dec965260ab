import hashlib

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.core.hybrid import answer, combined_psk, finish, offer, offers, psk_id
from tests.unit.shared import vectors

PSK = bytes(range(32))
SEED = bytes(range(64))


def test_both_ends_come_to_the_same_psk() -> None:
    made = offer(SEED)
    answered = answer(made.key, PSK)
    assert answered is not None
    ciphertext, psk = answered
    assert (len(made.key), len(ciphertext), len(psk)) == (1184, 1088, 32)
    assert finish(made, ciphertext, PSK) == psk != PSK


def test_another_psk_key_or_ciphertext_gives_another_psk() -> None:
    made = offer(SEED)
    answered = answer(made.key, PSK)
    assert answered is not None
    ciphertext, psk = answered
    assert finish(made, ciphertext, bytes(32)) != psk
    assert finish(made, bytes([ciphertext[0] ^ 1]) + ciphertext[1:], PSK) != psk
    assert finish(offer(SEED[::-1]), ciphertext, PSK) != psk


def test_wycheproof_decapsulation() -> None:
    for group in vectors("wycheproof/mlkem_768_test.json")["testGroups"]:
        for test in group["tests"]:
            seed, ciphertext = bytes.fromhex(test["seed"]), bytes.fromhex(test["c"])
            if len(seed) != 64:
                with pytest.raises(ValueError, match=r".*"):
                    offer(seed)
                continue
            psk = finish(offer(seed), ciphertext, PSK)
            if test["result"] == "valid":
                assert offer(seed).key.hex() == test["ek"]
                assert psk == combined_psk(PSK, bytes.fromhex(test["K"]), bytes.fromhex(test["ek"]), ciphertext)
            else:
                assert psk is None, test["tcId"]


def test_wycheproof_encapsulation() -> None:
    for group in vectors("wycheproof/mlkem_768_encaps_test.json")["testGroups"]:
        for test in group["tests"]:
            good = answer(bytes.fromhex(test["ek"]), PSK) is not None
            assert good == (test["result"] == "valid"), test["tcId"]


@given(st.binary(max_size=1200))
def test_any_bytes_may_come(data: bytes) -> None:
    assert answer(data, PSK) is None or len(data) == 1184
    assert finish(offer(SEED), data, PSK) is None or len(data) == 1088


def test_the_combination_is_that_of_the_protocol() -> None:
    info = b"f2ftun v1 hybrid" + hashlib.sha256(b"key" + b"ciphertext").digest()
    assert combined_psk(PSK, b"secret", b"key", b"ciphertext") == HKDF(SHA256(), 32, PSK, info).derive(b"secret")


def test_one_of_two_offers() -> None:
    assert offers(b"\1" * 32, b"\2" * 32)
    assert not offers(b"\2" * 32, b"\1" * 32)


def test_a_psk_is_named_in_four_bytes() -> None:
    assert psk_id(PSK) == hashlib.blake2s(b"f2ftun psk" + PSK).digest()[:4]


def test_an_offer_does_not_show_its_seed() -> None:
    assert "seed" not in repr(offer(SEED))
