"""`f2ftun demo` works, says what it did, and leaves nothing, however it ends."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import wait_for

TYPED = [sys.executable, "-P", "-m", "f2ftun", "demo"]
DEMO = ["env", "--default-signal=INT", *TYPED]
"""A shell has its background jobs ignore SIGINT, and a test run may be one."""


def leftovers(pid: int) -> list[str]:
    """Find what the demo of that process has on this machine: namespaces, folders, processes."""
    namespaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.split()
    found = [name for name in namespaces if name.startswith(f"f2fdemo-{pid}-")]
    found += map(str, Path(tempfile.gettempdir()).glob(f"f2fdemo-{pid}-*"))
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return found + [line for line in processes.splitlines() if f"/f2fdemo-{pid}-" in line]


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    """Start a demo and wait until it has nodes that run."""
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "alice# f2ftun up" in line:
                break
        yield demo
        demo.kill()


def test_the_demo_shows_everything_and_leaves_nothing() -> None:
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    facts = json.loads(done.stdout)
    assert [node["name"] for node in facts["nodes"]] == ["alice", "bob", "carol"]
    assert len(facts["pings"]) == 6
    assert facts["file"]["bytes"] == 64 * 1024 * 1024
    assert {friend["state"] for friend in facts["status"]["friends"]} == {"up"}
    assert facts["move"]["longest_gap_s"] < 3
    assert facts["left_behind"] == 0
    assert done.stderr == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_removes_everything(running: subprocess.Popen[str], number: int) -> None:
    running.send_signal(number)
    _, said = running.communicate(timeout=30)
    assert running.returncode == 1
    assert said.strip() == "f2ftun: Interrupted."
    assert leftovers(running.pid) == []


def test_what_a_killed_demo_left_is_removed_by_the_next(running: subprocess.Popen[str]) -> None:
    running.kill()
    running.communicate()
    assert leftovers(running.pid)
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, text=True) as second:
        wait_for(lambda: not leftovers(running.pid), "the next demo to sweep")
        second.send_signal(signal.SIGINT)
        second.communicate(timeout=30)


@pytest.mark.skipif(not os.path.exists("/usr/bin/setpriv"), reason="needs setpriv")
def test_without_root_the_demo_says_what_to_do() -> None:
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *TYPED, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "demo_needs_root"
