"""A user's key: an Ed25519 key, perhaps one that OpenSSH made, that signs which devices are theirs.

Source: openssh-portable PROTOCOL.key; docs/protocol.md §7.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from f2ftun.errors import UserKeyRefused

if TYPE_CHECKING:
    from nacl.signing import SigningKey

MAX_SSH_KEY_BYTES = 16384
"""An Ed25519 key file has about 400 bytes; the rest is room for a comment."""


def parse_ssh_key(data: bytes, path: str) -> SigningKey:
    """Read the content of an OpenSSH private key file; `path` is only for the sentence.

    Raises `UserKeyRefused` for what is no such file, is encrypted, or holds another kind of key than Ed25519.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from nacl.signing import SigningKey

    _check_shape(data, path)
    try:
        key = load_ssh_private_key(data, None)
    except TypeError:
        cure = "Copy it, and decrypt the copy with `ssh-keygen -p -N '' -f COPY`; remove the copy afterwards."
        raise UserKeyRefused(path=path, reason="it is encrypted with a passphrase", cure=cure) from None
    except (ValueError, UnsupportedAlgorithm):
        raise UserKeyRefused(path=path, reason="it is damaged", cure="Restore it from a backup.") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UserKeyRefused(path=path, reason="it is not an Ed25519 key", cure=_CURE)
    return SigningKey(key.private_bytes_raw())


_CURE = "Make one with `ssh-keygen -t ed25519`."


def _check_shape(data: bytes, path: str) -> None:
    if data.startswith(b"ssh-"):
        raise UserKeyRefused(path=path, reason="it is the public half", cure="Name the file without .pub.")
    if len(data) > MAX_SSH_KEY_BYTES or b"-----BEGIN OPENSSH PRIVATE KEY-----" not in data[:100]:
        raise UserKeyRefused(path=path, reason="it is not an OpenSSH private key", cure=_CURE)
