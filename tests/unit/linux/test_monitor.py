"""What the kernel's announcements say has gone, and that nothing it could send breaks the reader."""

import struct

from hypothesis import given
from hypothesis import strategies as st

from f2ftun.linux.monitor import gone

NEWLINK, DELLINK, NEWADDR, DELADDR, NEWROUTE = 16, 17, 20, 21, 24
RUNNING = 0x40


def message(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def link(kind: int, index: int, flags: int) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, flags, 0))


def address(kind: int, index: int) -> bytes:
    return message(kind, struct.pack("=BBBBi", 10, 64, 0, 0, index) + b"attributes")


def test_what_is_gone() -> None:
    datagram = (
        link(NEWLINK, 1, RUNNING)
        + link(NEWLINK, 2, 0)
        + link(DELLINK, 3, RUNNING)
        + address(NEWADDR, 4)
        + address(DELADDR, 5)
        + message(NEWROUTE, bytes(12))
    )
    assert list(gone(datagram)) == [2, 3, 5]
    assert list(gone(b"")) == []


@given(st.binary(max_size=300))
def test_anything_is_read_to_its_end(datagram: bytes) -> None:
    assert len(list(gone(datagram))) <= len(datagram) // 16


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 65535), st.binary(max_size=40)), max_size=20))
def test_lengths_that_lie(messages: list[tuple[int, int, bytes]]) -> None:
    datagram = b"".join(struct.pack("=IHHII", length, kind, 0, 0, 0) + body for length, kind, body in messages)
    list(gone(datagram))
