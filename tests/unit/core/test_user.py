import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.core.user import parse_ssh_key
from f2ftun.errors import UserKeyRefused

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ENCRYPTED = b"""\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABD/sgr5nG
uUgjBq3exbJqLdAAAAEAAAAAEAAAAzAAAAC3NzaC1lZDI1NTE5AAAAIHBkZxBWbWb8UggH
FMl/+wMNwIdN9ytWJ+XQVfT+Pr9VAAAAkIoWE8eR0Q3QUhNKnsqMDVQnQb9zrCLOeeuD8R
pCLs6zXOb2B/F5fzMH51W9BCZAE7htTDXSQ7AhnSY8DvY7xOhXhhZzzx6JqsuEPVhXOVe0
wn5JeorU6McqUCsiV5GsRyE3fMLU1DLLJ1gObqsrIkSiie30oV6HHdcZ0M/FYRL7JL2E0D
hs+4DM/9Dqo8mucA==
-----END OPENSSH PRIVATE KEY-----
"""
"""Made for this test by `ssh-keygen -t ed25519 -N secret`; nothing trusts it."""


def written(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def test_an_openssh_key_signs_as_itself() -> None:
    signer = parse_ssh_key(written(KEY), "id_ed25519")
    assert bytes(signer.verify_key) == KEY.public_key().public_bytes_raw()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (written(ec.generate_private_key(ec.SECP256R1())), "not an Ed25519 key"),
        (ENCRYPTED, "encrypted with a passphrase"),
        (KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH), "public half"),
        (KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "not an OpenSSH private key"),
        (written(KEY)[:200], "damaged"),
        (written(KEY) + bytes(20000), "not an OpenSSH private key"),
        (b"", "not an OpenSSH private key"),
        (b"\0\xff" * 100, "not an OpenSSH private key"),
    ],
)
def test_what_is_no_user_key(data: bytes, reason: str) -> None:
    with pytest.raises(UserKeyRefused, match=reason):
        parse_ssh_key(data, "id_ed25519")


@given(st.binary(max_size=200), st.integers(0, 400))
def test_any_bytes_are_refused(data: bytes, at: int) -> None:
    good = written(KEY)
    for damaged in (data, b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + data, good[:at] + data + good[at + len(data) :]):
        try:
            parse_ssh_key(damaged, "id_ed25519")
        except UserKeyRefused:
            continue
