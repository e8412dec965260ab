"""The reference handshake against the stored vectors of Noise itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reference import crypto
from tests.reference.noise import PROTOCOL_NAME, BadHandshakeError, Initiator, Responder

VECTORS = Path(__file__).parents[2].parent / "shared" / "vectors" / "noise_vectors.json"


def published_vectors() -> list[dict[str, Any]]:
    if not VECTORS.is_file():
        return []
    vectors = json.loads(VECTORS.read_text())["vectors"]
    return [vector for vector in vectors if vector["protocol_name"] == PROTOCOL_NAME.decode()]


@pytest.mark.skipif(not VECTORS.is_file(), reason="the published Noise vectors are not on this machine")
def test_published_handshake_is_reproduced_byte_for_byte() -> None:
    assert published_vectors()
    for vector in published_vectors():
        check_vector(vector)


def check_vector(vector: dict[str, Any]) -> None:
    def field(name: str) -> bytes:
        return bytes.fromhex(vector[name])

    psk = bytes.fromhex(vector["init_psks"][0])
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    initiator = Initiator(
        field("init_static"), field("init_ephemeral"), field("init_remote_static"), field("init_prologue")
    )
    responder = Responder(field("resp_static"), field("resp_prologue"))
    first = initiator.write_first(messages[0][0])
    assert first == messages[0][1]
    assert responder.read_static(first) == crypto.public_key(field("init_static"))
    assert responder.read_payload(first[80:]) == messages[0][0]
    second = responder.write_second(field("resp_ephemeral"), psk, messages[1][0])
    assert second == messages[1][1]
    assert initiator.read_second(second, psk) == messages[1][0]
    assert initiator.symmetric.hash == responder.symmetric.hash == field("handshake_hash")
    keys = initiator.symmetric.split()
    assert keys == responder.symmetric.split()
    for number, (payload, ciphertext) in enumerate(messages[2:]):
        assert crypto.seal(keys[number % 2], number // 2, payload) == ciphertext


def test_wrong_psk_is_noticed_by_the_initiator() -> None:
    static_a, static_b, ephemeral_a, ephemeral_b = (bytes([n]) * 32 for n in (1, 2, 3, 4))
    initiator = Initiator(static_a, ephemeral_a, crypto.public_key(static_b))
    responder = Responder(static_b)
    first = initiator.write_first(b"hello")
    responder.read_static(first)
    responder.read_payload(first[80:])
    second = responder.write_second(ephemeral_b, bytes(32), b"")
    with pytest.raises(BadHandshakeError):
        initiator.read_second(second, b"\x01" * 32)
