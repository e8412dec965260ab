"""Make the known-answer vectors in tests/vectors from fixed keys: `python -m tests.reference.make_vectors`.

The data plane's tests read the same files. See tests/vectors/README.md for what each says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from nacl.signing import SigningKey

from tests.reference import crypto, identity
from tests.reference.cookie import Endpoint, address_bytes
from tests.reference.datagram import (
    Initiation,
    InitiationPayload,
    Response,
    mac1_key,
    psk_id,
    seal_cookie_reply,
    seal_data,
)
from tests.reference.frame import NEVER_TRAVEL, Control, Fragment, Nothing, Packet, Probe, ProbeReply, elide
from tests.reference.identity import Device, Invite, device_from
from tests.reference.noise import Initiator, Responder
from tests.reference.superpacket import Superpacket, ipv6, rejoin, segment, tcp_packet, udp_packet

FOLDER = Path(__file__).parents[1] / "vectors"
Case = dict[str, str | int | bool | list[str]]
ALICE, BOB = device_from("alice"), device_from("bob")
PSK = crypto.hash32(b"vector psk")
TIMESTAMP = (2**62 + 10 + 1_800_000_000).to_bytes(8, "big") + (5 << 24).to_bytes(4, "big")


def identities() -> list[Case]:
    """Derive keys and addresses from seeds, whether or not the address begins with fc."""
    seeds = [bytes(32), bytes(range(32)), *(device_from(name).seed for name in ("alice", "bob", "carol"))]
    return [_identity(Device(seed)) for seed in seeds]


def _identity(device: Device) -> Case:
    signing_seed = identity.signing_seed(device.seed)
    return {
        "seed": device.seed.hex(),
        "node_private_key": device.private_key.hex(),
        "node_key": device.key.hex(),
        "signing_seed": signing_seed.hex(),
        "signing_key": bytes(SigningKey(signing_seed).verify_key).hex(),
        "address": device.address.hex(),
        "key_text": identity.write_key(device.key),
        "is_fc": device.address[0] == 0xFC,
    }


def invites() -> list[Case]:
    """Write invite lines and derive their keys."""
    secret = crypto.hash32(b"vector secret")
    endpoints: list[tuple[Endpoint, ...]] = [
        (),
        (("192.0.2.7", 4242),),
        (("2001:db8::7", 65535), ("192.0.2.7", 1), ("alice.example.org", 4242)),
        tuple((f"192.0.2.{number}", 4242) for number in range(16)),
    ]
    return [_invite(Invite(ALICE.key, secret, 1_800_003_600, some)) for some in endpoints]


def _invite(invite: Invite) -> Case:
    return {
        "inviter": invite.inviter.hex(),
        "secret": invite.secret.hex(),
        "expires_at": invite.expires_at,
        "endpoints": [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in invite.endpoints],
        "line": invite.write(),
        "invite_private_key": invite.peer_private_key.hex(),
        "invite_key": crypto.public_key(invite.peer_private_key).hex(),
        "invite_psk": invite.peer_psk.hex(),
        "friend_psk": invite.friend_psk.hex(),
    }


def hybrids() -> list[Case]:
    """Derive hybrid psks and their ids."""
    shared, key, ciphertext = (
        crypto.hash32(b"shared"),
        bytes(range(256)) * 4 + bytes(160),
        bytes(range(255, -1, -1)) * 4,
    )
    mixed = identity.hybrid_psk(PSK, shared, key, ciphertext + bytes(64))
    return [
        {
            "psk": PSK.hex(),
            "shared_secret": shared.hex(),
            "encapsulation_key": key.hex(),
            "ciphertext": (ciphertext + bytes(64)).hex(),
            "hybrid_psk": mixed.hex(),
            "psk_id": psk_id(mixed).hex(),
        }
    ]


def handshakes() -> list[Case]:
    """Run whole handshakes with fixed ephemerals: without and with psk, with psk id and cookie."""
    hybrid = crypto.hash32(b"vector hybrid psk")
    return [
        _handshake(1, bytes(32), InitiationPayload(TIMESTAMP), None),
        _handshake(2, PSK, InitiationPayload(TIMESTAMP, features=1), None),
        _handshake(3, hybrid, InitiationPayload(TIMESTAMP, psk_id(hybrid), 1), crypto.mac16(b"secret", b"cookie")),
    ]


def _handshake(number: int, psk: bytes, payload: InitiationPayload, cookie: bytes | None) -> Case:
    ephemerals = [crypto.hash32(f"vector ephemeral {number} {side}".encode()) for side in ("initiator", "responder")]
    indices = (0x01020300 + number, 0xF1F2F300 + number)
    initiator, responder = Initiator(ALICE.private_key, ephemerals[0], BOB.key), Responder(BOB.private_key)
    first = initiator.write_first(payload.write())
    initiation = Initiation(indices[0], first[:32], first[32:80], first[80:]).sign(BOB.key, cookie)
    responder.read_static(first)
    responder.read_payload(first[80:])
    second = responder.write_second(ephemerals[1], psk, payload.features.to_bytes(4, "big"))
    response = Response(indices[1], indices[0], second[:32], second[32:]).sign(initiation.ephemeral)
    keys = responder.symmetric.split()
    return {
        "initiator_private_key": ALICE.private_key.hex(),
        "initiator_key": ALICE.key.hex(),
        "initiator_ephemeral_private_key": ephemerals[0].hex(),
        "responder_private_key": BOB.private_key.hex(),
        "responder_key": BOB.key.hex(),
        "responder_ephemeral_private_key": ephemerals[1].hex(),
        "psk": psk.hex(),
        "psk_id": payload.psk_id.hex(),
        "timestamp": payload.timestamp.hex(),
        "features": payload.features,
        "cookie": (cookie or b"").hex(),
        "initiator_index": indices[0],
        "responder_index": indices[1],
        "initiation_payload": payload.write().hex(),
        "initiation_mac1_key": mac1_key(BOB.key).hex(),
        "initiation": initiation.write().hex(),
        "response_mac1_key": mac1_key(initiation.ephemeral).hex(),
        "response": response.write().hex(),
        "handshake_hash": responder.symmetric.hash.hex(),
        "initiator_to_responder_key": keys[0].hex(),
        "responder_to_initiator_key": keys[1].hex(),
        "initiator_to_responder_mask_key": crypto.mask_key(keys[0]).hex(),
        "responder_to_initiator_mask_key": crypto.mask_key(keys[1]).hex(),
    }


def cookies() -> list[Case]:
    """Answer the first initiation of `handshakes` with cookies for several addresses."""
    return [_cookie(endpoint) for endpoint in (("192.0.2.1", 4242), ("2001:db8::1", 65535), ("::ffff:192.0.2.1", 4242))]


def _cookie(endpoint: Endpoint) -> Case:
    initiation = _initiation(str(handshakes()[0]["initiation"]))
    secret, nonce = crypto.hash32(b"vector cookie secret"), crypto.hash32(b"vector nonce")[:24]
    cookie = crypto.mac16(secret, address_bytes(endpoint))
    return {
        "secret": secret.hex(),
        "address": address_bytes(endpoint)[:16].hex(),
        "port": endpoint[1],
        "cookie": cookie.hex(),
        "cookie_sender_key": BOB.key.hex(),
        "nonce": nonce.hex(),
        "initiation": initiation.write().hex(),
        "cookie_reply": seal_cookie_reply(BOB.key, initiation, nonce, cookie).write().hex(),
        "initiation_with_mac2": initiation.sign(BOB.key, cookie).write().hex(),
    }


def _initiation(text: str) -> Initiation:
    from tests.reference.datagram import parse_initiation

    initiation = parse_initiation(bytes.fromhex(text))
    assert initiation is not None
    return initiation


def data_datagrams() -> list[Case]:
    """Seal frames under counters small and large."""
    key = crypto.hash32(b"vector data key")
    written = [b"", Probe(bytes(range(8))).write(), Packet(b"\x60\x01\x23\x45", 59, 64, b"").write(), bytes(1200)]
    counters = (0, 1, 8191, 2**32, 2**60, 2**64 - 2**13 - 2)
    return [_data(key, 0xA1B2C3D4, counter, frame) for counter in counters for frame in written[: 2 if counter else 4]]


def _data(key: bytes, receiver: int, counter: int, frame: bytes) -> Case:
    datagram = seal_data(key, receiver, counter, frame)
    return {
        "key": key.hex(),
        "mask_key": crypto.mask_key(key).hex(),
        "receiver_index": receiver,
        "counter": counter,
        "frame": frame.hex(),
        "datagram": datagram.write().hex(),
    }


def aes_datagrams() -> list[Case]:
    """Seal the same under AES-256-GCM."""
    return [_aes(case) for case in data_datagrams()]


def _aes(case: Case) -> Case:
    key, frame = (bytes.fromhex(str(case[name])) for name in ("key", "frame"))
    sealed = seal_data(key, int(str(case["receiver_index"])), int(str(case["counter"])), frame, aes=True)
    return {**case, "datagram": sealed.write().hex()}


def frames() -> list[Case]:
    """Write one frame and more of every kind."""
    source, destination = ALICE.address, BOB.address
    tcp, udp = tcp_packet(source, destination, b"hello"), udp_packet(source, destination, b"hi")
    icmp = ipv6(source, destination, 58, bytes.fromhex("8000000000010001") + bytes(16), 0x6ABCDEF0)
    cases: list[Case] = [
        {"kind": "nothing", "frame": Nothing().write().hex()},
        {"kind": "nothing", "frame": "0f" + bytes(15).hex()},
        {"kind": "nothing", "frame": bytes(16).hex()},
    ]
    cases += [_fragment(False, 0, bytes(range(12))), _fragment(True, 0xFFFF, bytes(range(30))), _fragment(True, 1, b"")]
    cases += [
        {"kind": "control", "message": m.hex(), "frame": Control(m).write().hex()} for m in (b"", b"\1", b"c" * 2300)
    ]
    cases += [_probe(16), _probe(1216)]
    cases += [{"kind": "probe reply", "token": "0001020304050607", "length": 1252, "frame": _reply(1252)}]
    cases += [
        _packet(tcp, True, False),
        _packet(tcp, True, True),
        _packet(udp, True, False),
        _packet(icmp, False, False),
    ]
    return [*cases, _packet(ipv6(source, destination, 59, b""), False, False)]


def _fragment(last: bool, number: int, body: bytes) -> Case:
    written = Fragment(last, number, body).write().hex()
    return {"kind": "fragment", "last": last, "id": number, "body": body.hex(), "frame": written}


def _probe(size: int) -> Case:
    token = bytes(range(8))
    return {"kind": "probe", "token": token.hex(), "frame_bytes": size, "frame": Probe(token, size).write().hex()}


def _reply(length: int) -> str:
    return ProbeReply(bytes(range(8)), length).write().hex()


def _packet(packet: bytes, partial: bool, joined: bool) -> Case:
    frame = elide(packet, partial=partial, joined=joined)
    return {
        "kind": "packet",
        "source": packet[8:24].hex(),
        "destination": packet[24:40].hex(),
        "partial": partial,
        "joined": joined,
        "packet": frame.restore(packet[8:24], packet[24:40]).hex(),
        "frame": frame.write().hex(),
    }


def malformed_frames() -> list[Case]:
    """Write frames that must be dropped."""
    tcp = tcp_packet(ALICE.address, BOB.address, b"hello")
    icmp = Packet(tcp[:4], 58, 64, bytes(24)).write()
    short = Packet(tcp[:4], 6, 64, bytes(19), partial=True).write()
    refused = {
        "pad longer than the frame": b"\x2f\x00",
        "fragment shorter than its header": b"\x1d\x00\x00" + bytes(13),
        "control longer than 2,300 bytes": Control(bytes(2301)).write(),
        "probe without a whole token": b"\x38" + bytes(15),
        "probe reply shorter than token and length": b"\x46" + bytes(15),
        "probe reply longer than token and length": b"\x44" + bytes(15),
        "kind reserved for circuits": b"\x50" + bytes(15),
        "unknown kind": b"\x70" + bytes(15),
        "unknown kind, the last": b"\xf0" + bytes(15),
        "packet shorter than its header": tcp[:4] + bytes(2),
        "packet whose pad reaches into its header": tcp[:4] + b"\xf0\x00\x06\x40" + bytes(8),
        "partial without a whole TCP header": short,
        "partial without a whole UDP header": Packet(tcp[:4], 17, 64, bytes(7), partial=True).write(),
        "partial, neither TCP nor UDP": Packet(tcp[:4], 58, 64, bytes(24), partial=True).write(),
        "joined, but not partial": replace(elide(tcp), joined=True).write(),
        "packet with a bit set that must be zero": icmp[:5] + b"\x01" + icmp[6:],
        "packet with another bit set that must be zero": icmp[:4] + bytes([icmp[4] | 2]) + icmp[5:],
        "fragment with a bit set that must be zero": b"\x10\x81\x00\x07" + bytes(12),
    } | {
        f"next header {number}, which never travels": Packet(tcp[:4], number, 64, bytes(24)).write()
        for number in sorted(NEVER_TRAVEL)
    }
    return [{"reason": reason, "frame": frame.hex()} for reason, frame in refused.items()]


def superpackets() -> list[Case]:
    """Cut superpackets into packet frames, and put them together again."""
    source, destination = ALICE.address, BOB.address
    body = bytes(number * 7 & 0xFF for number in range(4000))
    near_wrap = bytearray(tcp_packet(source, destination, body, flags=0x99))
    near_wrap[44:48] = (2**32 - 1500).to_bytes(4, "big")
    return [
        _superpacket(Superpacket(tcp_packet(source, destination, body, flags=0x10), 1340)),
        _superpacket(
            Superpacket(tcp_packet(source, destination, body, flags=0x19, options=b"\1\1\10\n" + bytes(8)), 1000)
        ),
        _superpacket(Superpacket(bytes(near_wrap), 1340)),
        _superpacket(Superpacket(tcp_packet(source, destination, body[:1340], flags=0x18), 1340)),
        _superpacket(Superpacket(udp_packet(source, destination, body), 1200)),
        _superpacket(Superpacket(udp_packet(source, destination, body[:2400]), 1200)),
    ]


def _superpacket(superpacket: Superpacket) -> Case:
    packet, parts = superpacket.packet, segment(superpacket)
    source, destination = packet[8:24], packet[24:40]
    assert rejoin(parts, source, destination).packet == packet
    return {
        "source": source.hex(),
        "destination": destination.hex(),
        "superpacket": packet.hex(),
        "segment_bytes": superpacket.segment_bytes,
        "transport_header_bytes": (packet[52] >> 4) * 4 if packet[6] == 6 else 8,
        "frames": [part.write().hex() for part in parts],
        "packets": [part.restore(source, destination).hex() for part in parts],
    }


MAKERS: dict[str, Callable[[], list[Case]]] = {
    "identity": identities,
    "invite": invites,
    "hybrid": hybrids,
    "handshake": handshakes,
    "cookie": cookies,
    "data": data_datagrams,
    "data_aes": aes_datagrams,
    "frames": frames,
    "malformed_frames": malformed_frames,
    "superpackets": superpackets,
}


def written(name: str) -> str:
    """Give the text of one file."""
    return json.dumps(MAKERS[name](), indent=1) + "\n"


def main() -> None:
    """Write all files."""
    for name in MAKERS:
        (FOLDER / f"{name}.json").write_text(written(name))


if __name__ == "__main__":
    main()
