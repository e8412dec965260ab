"""`f2ftun dissect -i`: what passes an interface, shown while it passes, and with the key log what is in it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.netns.conftest import Pair, make_pair
from tests.netns.device import RealNode
from tests.netns.lab import Lab
from tests.netns.node import TCP_PORT
from tests.reference.frame import Control
from tests.reference.identity import device_from
from tests.reference.node import Node
from tests.reference.udp import UdpNode

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def real(lab: Lab) -> Iterator[RealNode]:
    with RealNode(lab.namespace("real"), device_from("real")) as node:
        yield node


@pytest.fixture
def friend(real: RealNode) -> Iterator[UdpNode]:
    with real.reference(Node, device_from("friend")) as node:
        yield node


@pytest.fixture
def dissector(real: RealNode) -> Iterator[subprocess.Popen[bytes]]:
    """Listen on the loopback of the real node's namespace, with its key log."""
    keylog = real.namespace.folder / "keylog"
    words = [sys.executable, "-u", "-m", "f2ftun", "--json", "dissect", "-i", "lo", "--keylog", str(keylog)]
    command = real.namespace.command(["env", f"PYTHONPATH={ROOT}", *words])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        yield child
        child.kill()


def test_live_traffic_is_shown(real: RealNode, friend: UdpNode, dissector: subprocess.Popen[bytes]) -> None:
    real.befriend(friend)
    assert dissector.stdout is not None
    shown = b""
    deadline = time.monotonic() + 20
    while b'"control"' not in shown and time.monotonic() < deadline:
        friend.node.dial(real.key, friend.now)
        friend.run_until(lambda: friend.node.peers[real.key].pending is None)
        friend.node.send_frame(real.key, Control(b"seen on the way").write(), friend.now)
        friend.run_for(0.3)
        shown += dissector.stdout.read() or b""
    dissector.send_signal(signal.SIGINT)
    os.set_blocking(dissector.stdout.fileno(), True)
    rest, errors = dissector.communicate(timeout=10)
    rows = json.loads(shown + rest)
    assert errors == b""
    assert dissector.returncode == 0
    assert {row["type"] for row in rows} >= {"initiation", "response", "data"}
    controls = [row["frame"]["body"] for row in rows if row.get("frame", {}).get("kind") == "control"]
    assert b"seen on the way".hex() in controls


def test_listening_without_the_capability_is_a_sentence(real: RealNode) -> None:
    words = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "f2ftun", "--json", "dissect", "-i", "lo"]
    done = real.namespace.run("setpriv", "--bounding-set=-net_raw", *words, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "interface_unheard"


def test_segments_of_a_busy_link_are_cut_and_opened(lab: Lab) -> None:
    """Look at the wire of two daemons while TCP flows: one captured packet is many datagrams."""
    keylog = lab.folder / "keylog"
    pair = make_pair(lab, through_box=False, keylog=str(keylog))
    words = [sys.executable, "-u", "-m", "f2ftun", "--json", "dissect", "-i", "eth0", "--keylog", str(keylog)]
    child = pair.a.namespace.start("env", f"PYTHONPATH={ROOT}", *words, log="shown")
    shown = pair.a.namespace.folder / "shown"
    while child.poll() is None and shown.read_bytes().count(b'"joined": 1') < 100:
        send_megabyte(pair)
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 0
    rows = json.loads(shown.read_bytes())
    assert len(rows) > 100
    assert [row for row in rows if "forged" in row] == []
    assert sum(row.get("frame", {}).get("kind") == "packet" for row in rows) > len(rows) * 0.9


def send_megabyte(pair: Pair) -> None:
    """Send a megabyte by TCP from one daemon's machine to the other's."""
    with (
        pair.b.namespace.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as listener,
        pair.a.namespace.open_socket(socket.AF_INET6, socket.SOCK_STREAM) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((pair.b.address, TCP_PORT))
        listener.listen()
        client.connect((pair.b.address, TCP_PORT))
        server, _ = listener.accept()
        with server, ThreadPoolExecutor(1) as pool:
            pool.submit(client.sendall, bytes(1 << 20))
            left = 1 << 20
            while left:
                left -= len(server.recv(left))
