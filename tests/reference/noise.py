"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, both sides, written from the Noise specification, revision 34.

    IKpsk2:
      <- s
      ...
      -> e, es, s, ss
      <- e, ee, se, psk

In a handshake with a psk every `e` is also mixed into the key (§9.2). Two messages, then `split`.
"""

from __future__ import annotations

import hmac

from tests.reference import crypto

PROTOCOL_NAME = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
PROLOGUE = b"f2ftun v1"


class BadHandshakeError(Exception):
    """A tag was wrong, or a point had low order."""


class SymmetricState:
    """The chaining key, the transcript hash and the cipher of a running handshake. Source: Noise §5.2."""

    def __init__(self, prologue: bytes) -> None:
        """Begin with the name, which is longer than a hash, so it is hashed."""
        self.hash = crypto.hash32(PROTOCOL_NAME)
        self.chaining_key = self.hash
        self.key = bytes(32)
        self.nonce = 0
        self.mix_hash(prologue)

    def mix_hash(self, data: bytes) -> None:
        """Bind data to the transcript."""
        self.hash = crypto.hash32(self.hash + data)

    def mix_key(self, material: bytes) -> None:
        """Mix key material; the nonce starts anew."""
        self.chaining_key, self.key = _hkdf(self.chaining_key, material, 2)
        self.nonce = 0

    def mix_key_and_hash(self, material: bytes) -> None:
        """Mix a psk."""
        self.chaining_key, transcript, self.key = _hkdf(self.chaining_key, material, 3)
        self.mix_hash(transcript)
        self.nonce = 0

    def mix_ephemeral(self, public: bytes) -> None:
        """Process the token `e` of a handshake with a psk."""
        self.mix_hash(public)
        self.mix_key(public)

    def mix_exchange(self, private_key: bytes, public: bytes) -> None:
        """Process a Diffie-Hellman token. Raises `BadHandshakeError` for a point of low order."""
        shared = crypto.exchange(private_key, public)
        if shared is None:
            raise BadHandshakeError
        self.mix_key(shared)

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt and bind the ciphertext."""
        ciphertext = crypto.seal(self.key, self.nonce, plaintext, self.hash)
        self.nonce += 1
        self.mix_hash(ciphertext)
        return ciphertext

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Decrypt and bind the ciphertext. Raises `BadHandshakeError`."""
        plaintext = crypto.unseal(self.key, self.nonce, ciphertext, self.hash)
        if plaintext is None:
            raise BadHandshakeError
        self.nonce += 1
        self.mix_hash(ciphertext)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Give the keys: initiator to responder, responder to initiator."""
        first, second = _hkdf(self.chaining_key, b"", 2)
        return first, second


def _hkdf(chaining_key: bytes, material: bytes, count: int) -> list[bytes]:
    temporary = hmac.digest(chaining_key, material, "blake2s")
    outputs: list[bytes] = []
    for number in range(1, count + 1):
        outputs.append(hmac.digest(temporary, (outputs[-1] if outputs else b"") + bytes([number]), "blake2s"))
    return outputs


class Initiator:
    """The side that writes message 1 and reads message 2."""

    def __init__(
        self, static_private: bytes, ephemeral_private: bytes, remote_static: bytes, prologue: bytes = PROLOGUE
    ) -> None:
        """Take the keys of one handshake."""
        self._static, self._ephemeral, self._remote = static_private, ephemeral_private, remote_static
        self.symmetric = SymmetricState(prologue)
        self.symmetric.mix_hash(remote_static)

    def write_first(self, payload: bytes) -> bytes:
        """Write e, s and payload: 32 + 48 + payload + 16 bytes."""
        state = self.symmetric
        ephemeral = crypto.public_key(self._ephemeral)
        state.mix_ephemeral(ephemeral)
        state.mix_exchange(self._ephemeral, self._remote)
        static = state.encrypt(crypto.public_key(self._static))
        state.mix_exchange(self._static, self._remote)
        return ephemeral + static + state.encrypt(payload)

    def read_second(self, message: bytes, psk: bytes) -> bytes:
        """Read message 2 and give its payload. Raises `BadHandshakeError`; the state is then spent."""
        state = self.symmetric
        ephemeral = message[:32]
        state.mix_ephemeral(ephemeral)
        state.mix_exchange(self._ephemeral, ephemeral)
        state.mix_exchange(self._static, ephemeral)
        state.mix_key_and_hash(psk)
        return state.decrypt(message[32:])


class Responder:
    """The side that reads message 1 and writes message 2."""

    def __init__(self, static_private: bytes, prologue: bytes = PROLOGUE) -> None:
        """Take the own static key."""
        self.static_private = static_private
        self.symmetric = SymmetricState(prologue)
        self.symmetric.mix_hash(crypto.public_key(static_private))
        self.remote_static = b""
        self._remote_ephemeral = b""

    def read_static(self, message: bytes) -> bytes:
        """Read the initiator's ephemeral and static key from the first 80 bytes. Raises `BadHandshakeError`."""
        state = self.symmetric
        self._remote_ephemeral = message[:32]
        state.mix_ephemeral(self._remote_ephemeral)
        state.mix_exchange(self.static_private, self._remote_ephemeral)
        self.remote_static = state.decrypt(message[32:80])
        return self.remote_static

    def read_payload(self, ciphertext: bytes) -> bytes:
        """Read the payload of message 1, which proves the initiator's static key. Raises `BadHandshakeError`."""
        self.symmetric.mix_exchange(self.static_private, self.remote_static)
        return self.symmetric.decrypt(ciphertext)

    def write_second(self, ephemeral_private: bytes, psk: bytes, payload: bytes) -> bytes:
        """Write e and payload: 32 + payload + 16 bytes."""
        state = self.symmetric
        ephemeral = crypto.public_key(ephemeral_private)
        state.mix_ephemeral(ephemeral)
        state.mix_exchange(ephemeral_private, self._remote_ephemeral)
        state.mix_exchange(ephemeral_private, self.remote_static)
        state.mix_key_and_hash(psk)
        return ephemeral + state.encrypt(payload)
