"""Every parser of the reference takes any bytes, and reads what it wrote."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire import control as product
from f2ftun.wire import record as record_module
from tests.reference import control, datagram, frame, identity
from tests.reference.crypto import seal
from tests.reference.frame import Control, Fragment, Packet, Probe, ProbeReply
from tests.reference.superpacket import Superpacket, rejoin, segment, tcp_packet, udp_packet
from tests.reference.window import BLOCK_BITS, WINDOW_BITS, ReplayWindow

PARSERS = (datagram.parse_initiation, datagram.parse_response, datagram.parse_cookie_reply, datagram.parse_data)
ALICE, BOB = bytes([0xFC]) * 16, bytes([0xFC, 1]) * 8
index, bytes16, bytes32 = (
    st.integers(0, 2**32 - 1),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)


@given(st.integers(0, 5), st.binary(max_size=170))
def test_any_bytes_are_at_most_one_datagram_that_writes_itself_back(first: int, rest: bytes) -> None:
    data = bytes([first]) + rest
    read = [message for parse in PARSERS if (message := parse(data)) is not None]
    assert [message.write() for message in read] in ([], [data])


@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_none(data: bytes) -> None:
    frame.parse(data)


@given(st.booleans(), st.integers(0, 0xFFFF), st.binary(max_size=50))
def test_fragments(last: bool, number: int, body: bytes) -> None:
    assert frame.parse(Fragment(last, number, body).write()) == Fragment(last, number, body)


@given(st.binary(max_size=frame.MAX_CONTROL_BYTES))
def test_control(message: bytes) -> None:
    assert frame.parse(Control(message).write()) == Control(message)


@given(st.binary(min_size=8, max_size=8), st.integers(0, 0xFFFF), st.integers(1, 90))
def test_probes(token: bytes, length: int, lines: int) -> None:
    assert frame.parse(Probe(token, 16 * lines).write()) == Probe(token, 16 * lines)
    assert frame.parse(ProbeReply(token, length).write()) == ProbeReply(token, length)


next_headers = st.integers(0, 255).filter(lambda number: number not in frame.NEVER_TRAVEL)


@given(st.integers(0, 2**28 - 1), next_headers, st.integers(0, 255), st.binary(max_size=100))
def test_packets(word: int, next_header: int, hop_limit: int, payload: bytes) -> None:
    packet = Packet((6 << 28 | word).to_bytes(4, "big"), next_header, hop_limit, payload)
    written = packet.write()
    assert len(written) % 16 == 0
    assert frame.parse(written) == packet
    assert frame.elide(packet.restore(ALICE, BOB)) == packet


@given(st.binary(max_size=3000), st.integers(1, 1400), st.integers(0, 255), st.booleans())
def test_superpackets(body: bytes, size: int, flags: int, is_tcp: bool) -> None:
    packet = tcp_packet(ALICE, BOB, body, flags=flags) if is_tcp else udp_packet(ALICE, BOB, body)
    run = segment(Superpacket(packet, size))
    assert rejoin(run, ALICE, BOB).packet == packet
    for part in run:
        assert frame.parse(part.write()) == part
        whole = part.restore(ALICE, BOB)
        assert (
            frame.checksum(whole[8:40] + len(part.payload).to_bytes(4, "big") + bytes([0, 0, 0, whole[6]]) + whole[40:])
            == 0
        )


@given(st.binary(max_size=100))
def test_base32(data: bytes) -> None:
    assert identity.parse_base32(identity.write_base32(data)) == data


@given(st.text(max_size=60))
def test_base32_is_canonical(text: str) -> None:
    data = identity.parse_base32(text)
    assert data is None or identity.write_base32(data) == text


@given(bytes32, index, st.integers(0, 2**64 - 1), st.binary(max_size=64))
def test_data(key: bytes, receiver: int, counter: int, body: bytes) -> None:
    from tests.reference.crypto import mask_key

    padded = body + bytes(-len(body) % 16)
    data = datagram.parse_data(datagram.seal_data(key, receiver, counter, padded).write())
    assert data is not None
    assert (data.receiver, data.counter(mask_key(key))) == (receiver, counter)
    assert data.ciphertext == seal(key, counter, padded)


@given(st.lists(st.one_of(st.integers(0, 40), st.integers(0, 3 * WINDOW_BITS), st.integers(0, 2**64 - 1)), max_size=60))
def test_window_takes_each_counter_once_and_none_too_old(counters: list[int]) -> None:
    window, seen, highest = ReplayWindow(), set[int](), -1
    for counter in counters:
        fits = counter > highest or (counter not in seen and counter + WINDOW_BITS - BLOCK_BITS > highest)
        assert window.may_accept(counter) == fits
        if fits:
            window.mark(counter)
            seen.add(counter)
            highest = max(highest, counter)


hosts = st.one_of(st.ip_addresses(v=4).map(str), st.ip_addresses(v=6).map(str), st.just("friend.example"))


@given(bytes32, bytes32, st.integers(0, 2**63), st.lists(st.tuples(hosts, st.integers(1, 65535)), max_size=8))
def test_invites(inviter: bytes, secret: bytes, expires_at: int, endpoints: list[tuple[str, int]]) -> None:
    invite = identity.Invite(inviter, secret, expires_at, tuple(endpoints))
    assert identity.parse_invite(invite.write()) == invite


@given(st.binary(max_size=200))
def test_any_line_is_an_invite_or_none(data: bytes) -> None:
    body = b"\x01" + data
    line = identity.INVITE_PREFIX + identity.write_base32(body + hashlib.sha256(body).digest()[:4])
    invite = identity.parse_invite(line)
    assert invite is None or invite.write() == line


@given(st.binary(max_size=80))
def test_any_bytes_are_a_control_message_or_none(data: bytes) -> None:
    control.parse_message(data)
    product.parse(data)


@given(st.integers(0, 2**64 - 1), st.binary(min_size=1088, max_size=1088))
def test_control_messages_are_those_of_protobuf(epoch: int, ciphertext: bytes) -> None:
    written = control.write_message(control.KEM_ANSWER, epoch, ciphertext)
    assert product.parse(written) == product.KemAnswer(epoch, ciphertext)
    message = control.parse_message(product.write(product.KemAnswer(epoch, ciphertext)))
    assert message is not None
    assert (message.number(1), message.bytes(2)) == (epoch, ciphertext)


def test_records_are_those_of_the_product() -> None:
    device = identity.device_from("alice")
    record = control.write_record(device, "alice", 7)
    read = record_module.parse(record)
    assert read is not None
    assert (read.node_key, read.name, read.sequence) == (device.key, "alice", 7)
    assert control.record_key(record_module.write(read)) == device.key
    assert control.record_key(record[:-1] + bytes([record[-1] ^ 1])) is None
