"""A real node in a namespace of the lab, driven by its command line as a person would, watched over its socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.netns.lab import LabError, Namespace, alive, v4, wait_for

ROOT = Path(__file__).resolve().parents[2]
PORT = 4242
INTERFACE = "f2f0"

OPEN_PORTS = ("tcp/5201-5204", "udp/5201-5204")
"""What the lab's traffic uses."""

TCP_PORT, UDP_PORT = 5201, 5202


class Node:
    """One f2ftun node: its namespace, its config, its daemon."""

    def __init__(self, namespace: Namespace, **settings: str) -> None:
        self.namespace = namespace
        self.name = namespace.label
        self.config = namespace.folder / "config.yaml"
        self.environment = {"PYTHONPATH": str(ROOT)}
        made = self.ask("init", "--name", self.name)
        self.key, self.address = str(made["key"]), str(made["address"])
        if settings:
            with open(self.config, "a") as file:
                file.writelines(f"{key}: {value}\n" for key, value in settings.items())

    def f2ftun(self, *words: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Type a command; whatever it answers is returned."""
        settings = [f"{key}={value}" for key, value in self.environment.items()]
        argv = ["env", *settings, sys.executable, "-m", "f2ftun", "-c", str(self.config), *words]
        return self.namespace.run(*argv, check=False, timeout=timeout)

    def ask(self, *words: str, timeout: float = 30.0) -> Any:
        """Type a command with `--json` and return its value; raise `LabError` with what it says when it fails."""
        done = self.f2ftun("--json", *words, timeout=timeout)
        if done.returncode:
            raise LabError(f"{self.name}: f2ftun {' '.join(words)[:200]}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout)

    def verb(self, name: str, /, **args: object) -> Any:
        """Ask the daemon over its socket, which costs a millisecond instead of a process."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(10)
            line.connect(str(self.config.parent / "state/control.sock"))
            line.sendall(json.dumps({"verb": name, "args": args}).encode() + b"\n")
            with line.makefile("rb") as replies:
                reply = json.loads(replies.readline())
        if "error" in reply:
            raise LabError(f"{self.name}: {name}: {reply['error']}")
        return reply["ok"]

    def up(self) -> None:
        """Start the daemon."""
        self.ask("up")

    def down(self) -> None:
        """Stop the daemon."""
        self.ask("down")

    @property
    def pid(self) -> int:
        """The daemon's pid; raise `LabError` when none runs."""
        found = [pid for pid in self.namespace.pids() if self._is_daemon(pid)]
        if not found:
            raise LabError(f"{self.name}: no daemon runs")
        return found[0]

    def _is_daemon(self, pid: int) -> bool:
        try:
            return b"f2ftun.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") and alive(pid)
        except FileNotFoundError:
            return False

    def kill(self) -> None:
        """Kill the daemon with no chance to put anything away."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not alive(pid), "the killed daemon to be gone", 3)

    def befriend(self, other: Node, endpoint: str | None) -> None:
        """Add a friend by hand: over the socket of a daemon that runs, else by the command line."""
        if self.answers():
            self.verb("friend_add", name=other.name, key=other.key, endpoints=[endpoint] if endpoint else [])
        else:
            self.ask("friend", "add", other.name, other.key, *(["--endpoint", endpoint] if endpoint else []))

    def status(self) -> dict[str, Any]:
        """Read the daemon's status."""
        told: dict[str, Any] = self.verb("status")
        return told

    def answers(self) -> bool:
        """Say whether the daemon answers at its socket."""
        try:
            return bool(self.status())
        except (OSError, ValueError, LabError):
            return False

    def friend(self, other: Node | str) -> dict[str, Any]:
        """Read one friend's status."""
        name = other if isinstance(other, str) else other.name
        return next(friend for friend in self.status()["friends"] if friend["name"] == name)

    def drops(self) -> dict[str, int]:
        """Read the counters of what was dropped."""
        counters: dict[str, int] = self.status()["drops"]
        return counters

    def sees(self, other: Node | str) -> bool:
        """Say whether a friend is up."""
        return bool(self.friend(other)["state"] == "up")

    def pings(self, address: str, *, timeout_s: float = 1.0) -> bool:
        """Say whether one ping is answered."""
        done = self.namespace.run(
            "ping", "-n", "-c", "1", "-W", str(timeout_s), address, check=False, timeout=timeout_s + 10
        )
        return done.returncode == 0

    def rss_bytes(self) -> int:
        """Read how much memory the daemon holds."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LabError("no VmRSS")

    def cpu_s(self) -> float:
        """Read the daemon's processor seconds, all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def make_nodes(*namespaces: Namespace, **settings: str) -> list[Node]:
    """Make a node in each namespace, all at once."""
    with ThreadPoolExecutor(len(namespaces)) as pool:
        return list(pool.map(lambda namespace: Node(namespace, **settings), namespaces))


def start(*nodes: Node) -> None:
    """Start each node and open the lab's ports, all at once."""

    def one(node: Node) -> None:
        node.up()
        node.verb("allow", who="all", ports=list(OPEN_PORTS))

    with ThreadPoolExecutor(len(nodes)) as pool:
        list(pool.map(one, nodes))


def befriend(a: Node, b: Node, *, network: int = 0, hosts: tuple[int, int] = (1, 2)) -> None:
    """Make two nodes friends, each with the other's address on a network of the lab."""
    a.befriend(b, f"{v4(network, hosts[1])}:{PORT}")
    b.befriend(a, f"{v4(network, hosts[0])}:{PORT}")


def connect(a: Node, b: Node, timeout: float = 10.0) -> float:
    """Ping until both see each other up; return the seconds it took."""
    began = time.monotonic()
    wait_for(lambda: a.pings(b.address) and b.pings(a.address), f"{a.name} and {b.name} to reach each other", timeout)
    wait_for(lambda: a.sees(b) and b.sees(a), "both to be up", 5)
    return time.monotonic() - began
