"""The four datagram types as values: `parse_*` gives `None` for what is not one, `write` gives the bytes.

Source: docs/protocol.md §3, §4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

from tests.reference import crypto

INITIATION, RESPONSE, COOKIE_REPLY, DATA = 1, 2, 3, 4
INITIATION_BYTES, RESPONSE_BYTES, COOKIE_REPLY_BYTES, DATA_MIN_BYTES = 153, 93, 61, 29
FRAME_ALIGNMENT = 16
DATA_HEADER_BYTES = 13
NO_MAC = bytes(crypto.MAC_BYTES)
HYBRID, AES = 1, 2
FEATURES_KNOWN = HYBRID | AES


def mac1_key(public: bytes) -> bytes:
    """Derive the key of mac1 from the responder's node key, or for a response from the initiation's e."""
    return crypto.hash32(b"f2ftun mac1" + public)


def cookie_key(node_key: bytes) -> bytes:
    """Derive the key of cookie replies that the owner of a node key sends."""
    return crypto.hash32(b"f2ftun cookie" + node_key)


def psk_id(psk: bytes) -> bytes:
    """Name a hybrid psk in 4 bytes."""
    return crypto.hash32(b"f2ftun psk" + psk)[:4]


@dataclass(frozen=True)
class Initiation:
    """Type 1, still encrypted."""

    sender: int
    ephemeral: bytes
    static: bytes
    payload: bytes
    mac1: bytes = NO_MAC
    mac2: bytes = NO_MAC

    @property
    def noise(self) -> bytes:
        """Noise message 1."""
        return self.ephemeral + self.static + self.payload

    def write(self) -> bytes:
        """Write 153 bytes."""
        return struct.pack(">BI", INITIATION, self.sender) + self.noise + self.mac1 + self.mac2

    def sign(self, responder: bytes, cookie: bytes | None = None) -> Initiation:
        """Compute both macs."""
        signed = replace(self, mac1=crypto.mac16(mac1_key(responder), self.write()[:121]), mac2=NO_MAC)
        return signed if cookie is None else replace(signed, mac2=crypto.mac16(cookie, signed.write()[:137]))

    def has_mac1(self, responder: bytes) -> bool:
        """Say whether the sender knows the responder's node key."""
        return crypto.equal(self.mac1, crypto.mac16(mac1_key(responder), self.write()[:121]))

    def has_mac2(self, cookie: bytes) -> bool:
        """Say whether the sender holds this cookie."""
        return crypto.equal(self.mac2, crypto.mac16(cookie, self.write()[:137]))


def parse_initiation(datagram: bytes) -> Initiation | None:
    """Read type 1."""
    if len(datagram) != INITIATION_BYTES or datagram[0] != INITIATION:
        return None
    sender = int.from_bytes(datagram[1:5], "big")
    return Initiation(sender, *(datagram[i:j] for i, j in ((5, 37), (37, 85), (85, 121), (121, 137), (137, 153))))


@dataclass(frozen=True)
class InitiationPayload:
    """What an initiation says inside: 20 bytes."""

    timestamp: bytes
    psk_id: bytes = bytes(4)
    features: int = 0

    def write(self) -> bytes:
        """Write 20 bytes."""
        return self.timestamp + self.psk_id + struct.pack(">I", self.features)


def parse_initiation_payload(data: bytes) -> InitiationPayload:
    """Read 20 bytes."""
    return InitiationPayload(data[:12], data[12:16], int.from_bytes(data[16:20], "big"))


@dataclass(frozen=True)
class Response:
    """Type 2, still encrypted."""

    sender: int
    receiver: int
    ephemeral: bytes
    payload: bytes
    mac1: bytes = NO_MAC
    mac2: bytes = NO_MAC

    @property
    def noise(self) -> bytes:
        """Noise message 2."""
        return self.ephemeral + self.payload

    def write(self) -> bytes:
        """Write 93 bytes."""
        return struct.pack(">BII", RESPONSE, self.sender, self.receiver) + self.noise + self.mac1 + self.mac2

    def sign(self, initiation_ephemeral: bytes) -> Response:
        """Compute mac1."""
        return replace(self, mac1=crypto.mac16(mac1_key(initiation_ephemeral), self.write()[:61]))

    def has_mac1(self, initiation_ephemeral: bytes) -> bool:
        """Say whether the sender has seen the initiation; mac2 must be zero."""
        return self.mac2 == NO_MAC and crypto.equal(
            self.mac1, crypto.mac16(mac1_key(initiation_ephemeral), self.write()[:61])
        )


def parse_response(datagram: bytes) -> Response | None:
    """Read type 2."""
    if len(datagram) != RESPONSE_BYTES or datagram[0] != RESPONSE:
        return None
    sender, receiver = struct.unpack(">II", datagram[1:9])
    return Response(sender, receiver, datagram[9:41], datagram[41:61], datagram[61:77], datagram[77:93])


@dataclass(frozen=True)
class CookieReply:
    """Type 3."""

    receiver: int
    nonce: bytes
    ciphertext: bytes

    def write(self) -> bytes:
        """Write 61 bytes."""
        return struct.pack(">BI", COOKIE_REPLY, self.receiver) + self.nonce + self.ciphertext


def seal_cookie_reply(node_key: bytes, initiation: Initiation, nonce: bytes, cookie: bytes) -> CookieReply:
    """Answer an initiation with a cookie."""
    sealed = crypto.seal_cookie(cookie_key(node_key), nonce, cookie, initiation.mac1)
    return CookieReply(initiation.sender, nonce, sealed)


def parse_cookie_reply(datagram: bytes) -> CookieReply | None:
    """Read type 3."""
    if len(datagram) != COOKIE_REPLY_BYTES or datagram[0] != COOKIE_REPLY:
        return None
    return CookieReply(int.from_bytes(datagram[1:5], "big"), datagram[5:29], datagram[29:61])


@dataclass(frozen=True)
class Data:
    """Type 4, still encrypted and masked."""

    receiver: int
    masked_counter: int
    ciphertext: bytes

    def write(self) -> bytes:
        """Write 13 bytes, the ciphertext and its tag."""
        head = struct.pack(">BI", DATA, self.receiver) + self.masked_counter.to_bytes(8, "little")
        return head + self.ciphertext

    def counter(self, mask_key: bytes) -> int:
        """Unmask the counter."""
        return self.masked_counter ^ crypto.mask(mask_key, self.ciphertext[-crypto.TAG_BYTES :])


def seal_data(key: bytes, receiver: int, counter: int, frame: bytes, *, aes: bool = False) -> Data:
    """Encrypt a frame and mask its counter."""
    ciphertext = crypto.seal_aes(key, counter, frame) if aes else crypto.seal(key, counter, frame)
    mask = crypto.mask(crypto.mask_key(key), ciphertext[-crypto.TAG_BYTES :])
    return Data(receiver, counter ^ mask, ciphertext)


def parse_data(datagram: bytes) -> Data | None:
    """Read type 4."""
    if len(datagram) < DATA_MIN_BYTES or datagram[0] != DATA or (len(datagram) - DATA_MIN_BYTES) % FRAME_ALIGNMENT:
        return None
    receiver = int.from_bytes(datagram[1:5], "big")
    return Data(receiver, int.from_bytes(datagram[5:13], "little"), datagram[13:])
