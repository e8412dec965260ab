"""`f2ftun dissect -i`: what passes an interface, shown while it passes, and with the key log what is in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.device import RealNode
from tests.netns.lab import Lab
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
