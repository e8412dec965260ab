"""The lab itself: a wire that loses nothing of its own accord, impairments that do what they say, and no residue."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.netns import middlebox
from tests.netns.lab import PREFIX, Lab, Namespace, sweep, v4, v6, wait_for
from tests.netns.middlebox import Hold, Middlebox
from tests.netns.node import ROOT
from tests.netns.packet import read_udp, udp_packet

COUNT = 4000


@dataclass
class Bench:
    """A box with a sender before it and a receiver behind it."""

    box: Middlebox
    out: socket.socket
    into: socket.socket

    def send(self, count: int = COUNT, size: int = 100) -> list[bytes]:
        """Send numbered datagrams, and return what came in the order it came."""
        for number in range(count):
            self.out.sendto(number.to_bytes(4, "big") + bytes(size - 4), (v4(0, 2), 7000))
            if number % 100 == 99:
                time.sleep(0.002)
        return self.come()

    def come(self, seconds: float = 0.4) -> list[bytes]:
        """Collect what comes until nothing has come for a while."""
        self.into.settimeout(seconds)
        found = []
        try:
            while True:
                found.append(self.into.recv(65535))
        except TimeoutError:
            return found


@pytest.fixture(scope="module")
def bench(module_lab: Lab) -> Iterator[Bench]:
    spaces = module_lab.namespace("a"), module_lab.namespace("b")
    box = middlebox.join(module_lab, *spaces)
    out, into = (space.open_socket(socket.AF_INET, socket.SOCK_DGRAM) for space in spaces)
    into.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)
    into.bind(("0.0.0.0", 7000))
    yield Bench(box, out, into)
    out.close()
    into.close()


@pytest.fixture(autouse=True)
def _good_again(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "bench" in request.fixturenames:
        request.getfixturevalue("bench").box.impair()


def test_a_good_wire_loses_nothing(bench: Bench) -> None:
    came = bench.send()
    assert came == sorted(came)
    assert len(came) == COUNT


def test_loss_and_duplicates(bench: Bench) -> None:
    bench.box.impair(middlebox.loss(0.1, random.Random(1)))
    assert 0.86 < len(bench.send()) / COUNT < 0.94
    bench.box.impair(middlebox.duplicate(0.1, random.Random(2)))
    times = Counter(Counter(bench.send()).values())
    assert set(times) == {1, 2}
    assert 0.06 < times[2] / COUNT < 0.14


def test_reorder_and_delay(bench: Bench) -> None:
    bench.box.impair(middlebox.reorder(0.05, 0.05, random.Random(3)))
    came = bench.send()
    late = sum(left > right for left, right in pairwise(came))
    assert (len(came), late > 50) == (COUNT, True)
    bench.box.impair(middlebox.delay(0.2))
    began = time.monotonic()
    assert len(bench.send(10)) == 10
    assert time.monotonic() - began > 0.2


def test_corrupt_datagrams_arrive(bench: Bench) -> None:
    bench.box.impair(middlebox.corrupt(0.5, random.Random(4)))
    came = bench.send()
    changed = sum(payload[4:] != bytes(96) for payload in came)
    assert (len(came), 0.4 < changed / COUNT < 0.6) == (COUNT, True)


def test_black_hole_is_exact(bench: Bench) -> None:
    bench.box.impair(middlebox.black_hole(1280))
    assert len(bench.send(5, 1252)) == 5
    assert not bench.send(5, 1253)


def test_hold_and_inject_and_record(bench: Bench) -> None:
    hold = Hold(lambda frame: frame.toward == 1)
    bench.box.impair(hold)
    recorded = bench.box.record()
    assert not bench.send(3)
    bench.box.impair()
    bench.box.recorded = None
    for held in reversed(hold.held):
        assert held.udp
        bench.box.inject(held.udp.rebuilt(source="192.0.2.9"), 1)
    assert [payload[3] for payload in bench.come()] == [2, 1, 0]
    assert len(recorded) == 3


@pytest.mark.parametrize(("source", "destination"), [("192.0.2.1", "192.0.2.2"), (v6(0, 1), v6(0, 2))])
def test_packets_are_read_as_they_are_written(source: str, destination: str) -> None:
    ethernet = bytes(12) + (b"\x08\x00" if "." in source else b"\x86\xdd")
    frame = ethernet + udp_packet(source, destination, 5, 6, b"payload")
    udp = read_udp(frame)
    assert udp
    assert (udp.source, udp.destination, udp.source_port, udp.payload) == (source, destination, 5, b"payload")
    assert udp.rebuilt() == frame
    assert read_udp(frame[:20]) is None


def _left(pid: int) -> list[str]:
    return [name for name in os.listdir("/run/netns") if name.startswith(f"{PREFIX}{pid}-")]


def test_nothing_is_left_after_a_failure() -> None:
    def fail(lab: Lab) -> None:
        space = lab.namespace("a")
        children.append(space.start("sleep", "1000"))
        folders.append(space.folder)
        raise RuntimeError("as tests do")

    children: list[subprocess.Popen[bytes]] = []
    folders: list[Path] = []
    others = _left(os.getpid())
    with pytest.raises(RuntimeError), Lab() as lab:
        fail(lab)
    assert children[0].poll() is not None
    assert not folders[0].exists()
    assert _left(os.getpid()) == others


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_after_an_interruption(how: signal.Signals) -> None:
    """Ctrl-C and SIGTERM unwind; what a kill leaves is gone with the next run's sweep."""
    program = textwrap.dedent("""
        import signal, time
        from tests.netns.lab import Lab
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with Lab() as lab:
            lab.namespace("a").start("sleep", "1000")
            print("ready", flush=True)
            time.sleep(60)
    """)
    run = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert run.stdout
    assert run.stdout.readline() == "ready\n"
    namespace = _left(run.pid)
    assert namespace
    run.send_signal(how)
    run.wait(20)
    run.stdout.close()
    if how is signal.SIGKILL:
        sweep()
    wait_for(lambda: not _left(run.pid), "the namespaces to be gone", 5)


def test_sockets_belong_to_their_namespace(lab: Lab) -> None:
    a, b = lab.namespace("a"), lab.namespace("b")
    lab.pair(a, b)
    with a.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.bind((v4(0, 1), 0))
        assert _bound(a) == 1
        assert _bound(b) == 0


def _bound(namespace: Namespace) -> int:
    return len(namespace.run("ss", "-Hlun").stdout.splitlines())
