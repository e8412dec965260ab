import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.wire import control_pb2 as pb
from f2ftun.wire.control import (
    KEM_CIPHERTEXT_BYTES,
    KEM_KEY_BYTES,
    MAX_CONTROL_BYTES,
    Endpoints,
    Goodbye,
    Join,
    KemAnswer,
    KemOffer,
    Message,
    Reason,
    Refuse,
    Welcome,
    parse,
    write,
)
from tests.unit.shared import endpoints

epochs = st.integers(0, 2**64 - 1)
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Join, st.binary(max_size=300), st.binary(max_size=1130)),
    st.builds(Welcome, st.binary(max_size=300), st.binary(max_size=1130)),
    st.builds(Refuse),
    st.builds(Endpoints, st.lists(endpoints, max_size=16).map(tuple)),
    st.builds(Goodbye, st.sampled_from(Reason)),
    st.builds(KemOffer, epochs, st.binary(min_size=KEM_KEY_BYTES, max_size=KEM_KEY_BYTES)),
    st.builds(KemAnswer, epochs, st.binary(min_size=KEM_CIPHERTEXT_BYTES, max_size=KEM_CIPHERTEXT_BYTES)),
)


@given(messages)
def test_a_message_reads_back(message: Message) -> None:
    data = write(message)
    assert len(data) <= MAX_CONTROL_BYTES
    assert parse(data) == message


@given(st.binary(max_size=MAX_CONTROL_BYTES + 10))
def test_any_bytes_are_a_message_or_none(data: bytes) -> None:
    parse(data)


@given(messages, st.data())
def test_a_damaged_message_is_a_message_or_none(message: Message, data: st.DataObject) -> None:
    written = bytearray(write(message))
    for _ in range(data.draw(st.integers(1, 4))):
        if written:
            written[data.draw(st.integers(0, len(written) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(written)))
    parse(bytes(written))
    parse(bytes(written[:cut]))


@given(messages, messages)
def test_of_two_messages_in_one_the_last_counts(first: Message, second: Message) -> None:
    both = write(first) + write(second)
    if type(first) is not type(second) and len(both) <= MAX_CONTROL_BYTES:
        assert parse(both) == second


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff" * 20,
        bytes(MAX_CONTROL_BYTES + 1),
        b"\x0a" * 2000,
        b"\x0b" * 2300,
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xf8\x07\x01",
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    assert parse(data) is None


@pytest.mark.parametrize(
    "control",
    [
        pb.Control(kem_offer=pb.KemOffer(epoch=1, key=bytes(KEM_KEY_BYTES - 1))),
        pb.Control(kem_offer=pb.KemOffer(epoch=1)),
        pb.Control(kem_answer=pb.KemAnswer(epoch=1, ciphertext=bytes(KEM_CIPHERTEXT_BYTES + 1))),
        pb.Control(endpoints=pb.Endpoints(endpoints=["[fc00::1]:1"])),
        pb.Control(endpoints=pb.Endpoints(endpoints=["192.0.2.1:1", "a;b:1"])),
        pb.Control(endpoints=pb.Endpoints(endpoints=["192.0.2.1:1"] * 17)),
    ],
)
def test_a_value_that_is_not_as_described_spoils_the_message(control: pb.Control) -> None:
    assert parse(control.SerializeToString()) is None


def test_what_is_not_known_is_passed_over() -> None:
    assert parse(write(Goodbye()) + b"\xf8\x07\x01") == Goodbye()
    assert parse(b"\x2a\x02\x08\x4d") == Goodbye(Reason.UNSPECIFIED)


def test_the_generated_code_is_that_of_the_proto_file() -> None:
    found = {
        (message.name, "repeated" if field.is_repeated else "", field.name, field.number)
        for message in pb.DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    }
    written, message = set(), ""
    for line in Path(pb.__file__).with_name("control.proto").read_text().splitlines():
        if heading := re.match(r"message (\w+)", line):
            message = heading[1]
        elif field := re.match(r"\s+(repeated)?\s*[\w.]+ (\w+) = (\d+);", line):
            written.add((message, field[1] or "", field[2], int(field[3])))
    assert found == written


def test_a_message_too_long_is_not_written() -> None:
    with pytest.raises(ValueError, match="2300"):
        write(Join(bytes(MAX_CONTROL_BYTES)))
