"""The stored vectors are what the reference implementation makes, and the product says the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from f2ftun.core import hybrid
from f2ftun.core.identity import Identity
from f2ftun.wire import invite, key
from tests.reference.make_vectors import FOLDER, MAKERS, written


@pytest.mark.parametrize("name", MAKERS)
def test_stored_vectors_are_those_made_now(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == written(name), "run python -m tests.reference.make_vectors"


def test_each_file_is_described() -> None:
    described = (FOLDER / "README.md").read_text()
    assert [path.name for path in FOLDER.glob("*.json") if f"`{path.name}`" not in described] == []


def cases(name: str) -> list[dict[str, Any]]:
    loaded: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def test_product_derives_the_same_identities() -> None:
    for case in (case for case in cases("identity") if case["is_fc"]):
        identity = Identity.from_seed(bytes.fromhex(case["seed"]))
        assert identity.node_private_key.hex() == case["node_private_key"]
        assert identity.node_key.hex() == case["node_key"]
        assert bytes(identity.signing_key.verify_key).hex() == case["signing_key"]
        assert identity.address.packed.hex() == case["address"]
        assert key.write_key(identity.node_key) == case["key_text"]


def test_product_reads_and_writes_the_same_invites() -> None:
    for case in cases("invite"):
        parsed = invite.parse(case["line"])
        assert parsed.inviter.hex() == case["inviter"]
        assert parsed.secret.hex() == case["secret"]
        assert (parsed.expires_at, list(parsed.endpoints)) == (case["expires_at"], case["endpoints"])
        assert parsed.invite_private_key.hex() == case["invite_private_key"]
        assert (parsed.invite_psk.hex(), parsed.friend_psk.hex()) == (case["invite_psk"], case["friend_psk"])
        assert invite.write(parsed) == case["line"]


def test_product_derives_the_same_hybrid_psk() -> None:
    for case in cases("hybrid"):
        names = ("psk", "shared_secret", "encapsulation_key", "ciphertext")
        assert hybrid.combined_psk(*(bytes.fromhex(case[name]) for name in names)).hex() == case["hybrid_psk"]
