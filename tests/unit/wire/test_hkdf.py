import pytest

from f2ftun.wire.hkdf import MAX_OUTPUT_BYTES, hkdf_sha256
from tests.unit.shared import vectors


def test_wycheproof() -> None:
    for group in vectors("wycheproof/hkdf_sha256_test.json")["testGroups"]:
        for test in group["tests"]:
            secret, salt, info = (bytes.fromhex(test[name]) for name in ("ikm", "salt", "info"))
            if test["result"] == "valid":
                assert hkdf_sha256(secret, info, salt=salt, size=test["size"]).hex() == test["okm"]
            else:
                assert test["size"] > MAX_OUTPUT_BYTES
                with pytest.raises(ValueError, match="bytes"):
                    hkdf_sha256(secret, info, salt=salt, size=test["size"])


def test_rfc_5869_case_3() -> None:
    assert hkdf_sha256(b"\x0b" * 22, b"", size=42).hex().startswith("8da4e775a563c18f715f802a063c5a31")
