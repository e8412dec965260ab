"""Class L of security.md: crashes, full disks, wrong clocks, too little of everything.

L5 needs two processes and L9 two versions: there is one of each so far. L7 is in test_life.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.netns import flow, middlebox
from tests.netns.conftest import FULL, Pair
from tests.netns.lab import Lab, LabError, wait_for
from tests.netns.middlebox import Frame
from tests.netns.node import PORT, ROOT, UDP_PORT, Node, befriend, connect, make_nodes, start
from tests.netns.stranger import draw_keys
from tests.reference.datagram import INITIATION

START_S = 5.0
"""What cli.md allows `up`; security.md wants 2 s of a machine that does nothing else."""


def names(node: Node) -> list[str]:
    return sorted(friend["name"] for friend in node.status()["friends"])


def test_l1_killed_while_friends_come_and_go(pair: Pair) -> None:
    """Whatever was acknowledged before a kill is there after it, once, and the store opens."""
    rng, node = random.Random(1), pair.a
    expected = {pair.b.name}
    keys = draw_keys(400)
    for loop in range(1000 if FULL else 8):
        doubtful = _change_until_killed(node, expected, keys, loop, rng)
        began = time.monotonic()
        node.up()
        assert time.monotonic() - began <= START_S
        found = names(node)
        assert len(found) == len(set(found))
        assert expected - doubtful <= set(found) <= expected | doubtful
        expected = set(found)
    assert node.pings(pair.b.address) or node.pings(pair.b.address)


def _change_until_killed(node: Node, expected: set[str], keys: list[str], loop: int, rng: random.Random) -> set[str]:
    """Add and remove friends until the daemon is killed; return those whose change was not acknowledged."""
    killer = subprocess.Popen(["sh", "-c", f"sleep {rng.uniform(0.02, 0.25)}; kill -9 {node.pid}"])
    doubtful: set[str] = set()
    for number in range(10_000):
        name = f"friend{loop}-{number}"
        try:
            doubtful = {name}
            node.verb("friend_add", name=name, key=keys[(loop * 40 + number) % len(keys)])
            expected.add(name)
            node.verb("friend_remove", name=name)
            expected.remove(name)
        except (OSError, LabError, ValueError) as error:
            if isinstance(error, LabError) and "KeyInUse" in str(error):
                continue
            break
    killer.wait()
    wait_for(lambda: not _runs(node), "the daemon to be dead", 5)
    return doubtful


def _runs(node: Node) -> bool:
    with contextlib.suppress(LabError):
        return node.pid > 0
    return False


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("call", ["pwrite64", "fdatasync", "fsync"])
def test_l2_killed_at_the_nth_write(lab: Lab, call: str) -> None:
    """For each n: kill at the n-th such call of `friend add`; the friend is there or not, and the store is whole."""
    (node,) = make_nodes(lab.namespace("a"))
    for number, key in enumerate(draw_keys(200 if FULL else 12), 1):
        name = f"friend{number}"
        status = _injected(node, f"{call}:signal=SIGKILL:when={number}", "friend", "add", name, key)
        listed = {friend["name"] for friend in node.ask("friend", "list")}
        if status == 0:
            assert name in listed
            return
        _is_whole(node)
    if FULL:
        pytest.fail("never got through")


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace here")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ["pwrite64:error=ENOSPC", "fdatasync:error=EIO", "pwrite64:error=EIO"])
def test_l2_a_disk_that_fails(lab: Lab, fault: str) -> None:
    """From the n-th call on the disk fails: the command says so, and there is no half a friend."""
    (node,) = make_nodes(lab.namespace("a"))
    for number, key in enumerate(draw_keys(100 if FULL else 6), 1):
        name = f"friend{number}"
        status = _injected(node, f"{fault}:when={number}+", "friend", "add", name, key)
        listed = {friend["name"] for friend in node.ask("friend", "list")}
        _is_whole(node)
        if status == 0:
            assert name in listed
            return
        assert status == 1


def _injected(node: Node, fault: str, *words: str) -> int:
    """Type a command under strace with a fault; return its exit status, negative when it was killed."""
    call = fault.partition(":")[0]
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={fault}"]
    argv += ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "f2ftun", "-c", str(node.config), *words]
    done = node.namespace.run(*argv, check=False, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def _is_whole(node: Node) -> None:
    with contextlib.closing(sqlite3.connect(node.config.parent / "state/node.db")) as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_l3_a_full_disk(lab: Lab) -> None:
    """New friends are refused, the tunnel runs on, and all is well once there is room."""
    spaces = lab.namespace("a"), lab.namespace("b")
    lab.pair(*spaces)
    disk = lab.folder / "a" / "state"
    disk.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", disk], check=True)
    lab.defer(lambda: subprocess.run(["umount", "-l", disk]))
    a, b = make_nodes(*spaces)
    start(a, b)
    befriend(a, b)
    connect(a, b)
    filler = disk / "filler"
    with contextlib.suppress(OSError), open(filler, "wb", 0) as file:
        while True:
            file.write(bytes(4096))
    refused = 0
    for number, key in enumerate(draw_keys(60)):
        done = _try(a, f"friend{number}", key)
        refused += done is not None
        assert done is None or "Traceback" not in done
        if refused >= 3:
            break
    assert refused
    assert a.pings(b.address)
    filler.unlink()
    a.verb("friend_add", name="late", key=draw_keys(1)[0])
    assert "late" in names(a)
    a.kill()
    a.up()
    assert "late" in names(a)


def _try(node: Node, name: str, key: str) -> str | None:
    """Add a friend over the socket; return the sentence with which it is refused, if it is."""
    try:
        node.verb("friend_add", name=name, key=key)
    except LabError as error:
        return str(error)
    return None


@pytest.mark.parametrize("limit", ["--nofile=64:64", "--as=2147483648"])
def test_l4_with_little_of_everything(pair: Pair, limit: str) -> None:
    """Few descriptors or little memory: control may be refused, packets flow."""
    node, lines = pair.a, []
    subprocess.run(["prlimit", "--pid", str(node.pid), limit], check=True)
    import socket

    for _ in range(100):
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(1)
        with contextlib.suppress(OSError):
            line.connect(str(node.config.parent / "state/control.sock"))
            line.send(b'{"verb": "sta')
        lines.append(line)
    flow.copy(node.namespace, pair.b.namespace, pair.b.address, 5201, 8)
    for line in lines:
        line.close()
    wait_for(node.answers, "the socket to answer again", 10)
    assert node.sees(pair.b)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the shim that shifts a program's wall clock."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source], check=True)
    return library


class Shifted:
    """A node whose wall clock the test sets."""

    def __init__(self, node: Node, clock: Path) -> None:
        self.node = node
        self.shift = node.namespace.folder / "shift"
        node.environment |= {"LD_PRELOAD": str(clock), "F2FTUN_CLOCK_SHIFT": str(self.shift)}
        self.set(0)

    def set(self, seconds: int) -> None:
        """Shift the clock."""
        beside = self.shift.with_suffix(".new")
        beside.write_text(str(seconds))
        beside.rename(self.shift)


YEAR = 365 * 86400


@pytest.mark.parametrize("jumps", [(-YEAR,), (10 * YEAR,), (10 * YEAR, 0), (-YEAR, 10 * YEAR, -10 * YEAR)])
def test_l6_a_clock_that_jumps_across_restarts(lab: Lab, clock: Path, jumps: tuple[int, ...]) -> None:
    """A friend remembers the highest timestamp; a clock that went back must not lock anybody out.

    The friend cannot dial back, as if this end were behind a NAT: else he would be the one who asks.
    """
    a, b, shifted = _pair_with_clock(lab, clock)
    for jump in jumps:
        shifted.set(jump)
        a.kill()
        a.up()
        wait_for(lambda: a.pings(b.address, timeout_s=0.5), f"the friend with the clock at {jump}", 10)
    assert a.friend(b)["last_handshake_s"] >= 0


def _pair_with_clock(lab: Lab, clock: Path) -> tuple[Node, Node, Shifted]:
    spaces = lab.namespace("a"), lab.namespace("b")
    box = middlebox.join(lab, *spaces)
    box.impair(lambda frame: [] if frame.toward == 0 and _is_initiation(frame) else [frame])
    a, b = make_nodes(*spaces)
    shifted = Shifted(a, clock)
    start(a, b)
    befriend(a, b)
    connect(a, b)
    return a, b, shifted


def _is_initiation(frame: Frame) -> bool:
    udp = frame.udp
    return udp is not None and udp.payload[:1] == bytes([INITIATION])


def test_l6_a_clock_that_jumps_while_running(lab: Lab, clock: Path) -> None:
    a, b, shifted = _pair_with_clock(lab, clock)
    with flow.Sink(b.namespace, UDP_PORT) as sink, flow.Source(a.namespace, b.address, UDP_PORT) as source:
        for jump in (-YEAR, 10 * YEAR, 0, 1, -1, 3600, -3600, 0):
            shifted.set(jump)
            time.sleep(0.5)
            told = a.status()
            assert told["uptime_s"] >= 0
            assert told["friends"][0]["last_handshake_s"] >= 0
        time.sleep(0.5)
        flow.check(source, sink, 0.98)


def test_l6_suspended(pair: Pair) -> None:
    """Stopped for longer than a session's life would be FULL's business; for some seconds, nobody may mind."""
    os.kill(pair.a.pid, signal.SIGSTOP)
    time.sleep(200 if FULL else 4)
    os.kill(pair.a.pid, signal.SIGCONT)
    wait_for(lambda: pair.a.pings(pair.b.address, timeout_s=0.5), "the friend after sleep", 10)


@pytest.mark.timeout(1500)
def test_l8_nothing_grows(pair: Pair) -> None:
    """Friends, addresses and sessions come and go; descriptors and memory stay."""
    a, b = pair.a, pair.b
    keys = draw_keys(50)

    def churn(number: int) -> None:
        a.verb("friend_add", name=f"friend{number}", key=keys[number % 50], endpoints=[f"192.0.2.1:{PORT}"])
        a.namespace.run("ip", "address", "replace", f"10.9.200.{number % 250 + 1}/24", "dev", "lo")
        a.verb("ping", target=b.name, count=1)
        a.verb("friend_remove", name=f"friend{number}")
        a.namespace.run("ip", "address", "del", f"10.9.200.{number % 250 + 1}/24", "dev", "lo")

    for number in range(20):
        churn(number)
    descriptors, memory = len(os.listdir(f"/proc/{a.pid}/fd")), a.rss_bytes()
    for number in range(1200 if FULL else 100):
        churn(number)
        if FULL:
            time.sleep(1)
    wait_for(lambda: len(os.listdir(f"/proc/{a.pid}/fd")) <= descriptors + 1, "descriptors to be given back", 5)
    assert a.rss_bytes() - memory <= 4 << 20
    assert a.sees(b)


def test_l9_a_store_from_the_future_is_refused(lab: Lab) -> None:
    (node,) = make_nodes(lab.namespace("a"))
    node.ask("friend", "list")
    with contextlib.closing(sqlite3.connect(node.config.parent / "state/node.db")) as store:
        store.execute("PRAGMA user_version = 999")
        store.commit()
    done = node.f2ftun("up")
    assert done.returncode == 1
    assert re.search(r"newer|version", done.stderr), done.stderr
    assert "Traceback" not in done.stderr
