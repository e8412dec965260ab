"""Echo requests and replies, as bytes and over the loopback."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from f2ftun.daemon import ping
from f2ftun.daemon.ping import ECHO_REPLY, Gate, Pinger
from f2ftun.errors import PingImpossible
from tests.unit.daemon.fakes import play

LOOPBACK = IPv6Address("::1")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs a raw socket")


@pytest.fixture(scope="module")
def gate() -> Iterator[Gate]:
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as opened:
        yield Gate(opened, raw=True)


@given(st.binary(max_size=80))
def test_only_a_reply_to_us_has_a_sequence(gate: Gate, message: bytes) -> None:
    ours = gate.request(0)[4:6]
    if not (message[:1] == b"\x81" and message[4:6] == ours and len(message) >= 8):
        assert gate.parse(message) == -1


def test_a_reply_is_read_back(gate: Gate) -> None:
    request = gate.request(513)
    assert struct.unpack_from("!BBHHH", request)[4] == 513
    assert gate.parse(bytes([ECHO_REPLY]) + request[1:]) == 513
    assert gate.parse(bytes([ECHO_REPLY]) + request[1:5] + b"\x00" * 8) in (-1, 0)
    assert gate.parse(request) == -1


def test_the_loopback_answers_many_at_once() -> None:
    async def story() -> None:
        pinger = Pinger()
        times = await asyncio.gather(*(pinger.ping(LOOPBACK) for _ in range(20)))
        assert all(rtt is not None and 0 < rtt < 1 for rtt in times)
        pinger.close()

    play(story)


def test_the_right_to_ping_outlives_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        first = Pinger()
        descriptor = os.environ[ping.KEPT]
        assert os.get_inheritable(int(descriptor))
        monkeypatch.setattr(ping, "_inherited", [descriptor])
        monkeypatch.setattr(ping, "_open_new", lambda: None)
        second = Pinger()
        assert await second.ping(LOOPBACK) is not None
        assert first._gate is not None
        first._gate.socket.detach()
        second.close()

    if os.geteuid() != 0:
        pytest.skip("only root has a raw socket to keep")
    monkeypatch.setenv(ping.KEPT, "")
    play(story)


@pytest.mark.parametrize("descriptor", ["", "x", "-1", "0", "99999", "9" * 40])
def test_nothing_else_is_taken_for_it(descriptor: str) -> None:
    assert ping._kept(descriptor) is None


def test_silence_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        pinger = Pinger()
        assert await pinger.ping(IPv6Address("100::1")) is None
        pinger.close()

    monkeypatch.setattr(ping, "REPLY_TIMEOUT", 0.05)
    play(story)


def test_between_pings_nothing_comes_in(gate: Gate) -> None:
    async def story() -> None:
        idle, busy = Pinger(), Pinger()
        assert await busy.ping(LOOPBACK) is not None
        assert idle._gate is not None
        with pytest.raises(BlockingIOError):
            idle._gate.socket.recv(2000)
        idle.close()
        busy.close()

    play(story)


def test_without_any_right_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(socket, "socket", refuse)
        pinger = Pinger()

    async def story() -> None:
        with pytest.raises(PingImpossible):
            await pinger.ping(LOOPBACK)

    play(story)
