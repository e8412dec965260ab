import os
from ipaddress import IPv6Address

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from f2ftun.core.identity import Identity
from f2ftun.errors import SeedRefused
from f2ftun.wire.key import check_key

SEED = bytes(31) + b"\x8d"


def test_the_keys_are_those_of_the_protocol() -> None:
    def derived(info: bytes) -> bytes:
        return HKDF(SHA256(), 32, None, info).derive(SEED)

    identity = Identity.from_seed(SEED)
    private_key = derived(b"f2ftun v1 x25519")
    assert identity.node_private_key == private_key
    assert identity.node_key == X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
    signing_key = Ed25519PrivateKey.from_private_bytes(derived(b"f2ftun v1 ed25519")).public_key().public_bytes_raw()
    assert bytes(identity.signing_key.verify_key) == signing_key
    assert identity.address == IPv6Address("fcd3:168:9066:fc2d:dbb7:aaae:8223:c343")


def test_a_seed_whose_address_is_not_in_fc_is_refused() -> None:
    with pytest.raises(SeedRefused):
        Identity.from_seed(bytes(32))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_seed_of_another_size_is_a_mistake_of_the_caller(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Identity.from_seed(bytes(size))


def test_a_drawn_identity_is_one() -> None:
    identity = Identity.draw(os.urandom)
    check_key(identity.node_key)
    assert Identity.from_seed(identity.seed) == identity


def test_an_identity_does_not_show_its_secrets() -> None:
    identity = Identity.from_seed(SEED)
    for secret in (identity.seed, identity.node_private_key):
        assert repr(secret)[2:-1] not in repr(identity)
