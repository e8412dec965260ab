"""One f2ftun node under measurement, driven by its command line, watched from outside through /proc."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from bench.lab import BenchError, Namespace, wait_for
from bench.rivals import F2ftun

PORT = 4242
INTERFACE = "f2f0"


class Node:
    """A node: its namespace, its config, its daemon."""

    def __init__(self, end: Namespace, name: str, **settings: str) -> None:
        self.end, self.name = end, name
        self.folder = end.folder / name
        self.folder.mkdir(parents=True)
        self.config = self.folder / "config.yaml"
        self.ask("init", "--name", name, "--listen", f"[::]:{PORT}")
        for key, value in settings.items():
            self._set(key, value)
        self.key, self.address = str(self.ask("key")), str(self.ask("address"))

    def _set(self, key: str, value: str) -> None:
        text, times = re.subn(rf"^{key}:.*$", f"{key}: {value}", self.config.read_text(), flags=re.MULTILINE)
        self.config.write_text(text if times else f"{text}{key}: {value}\n")

    def command(self, *words: str) -> list[str]:
        """Write a command to this node."""
        return [str(F2ftun().program()), "-c", str(self.config), "--json", *words]

    def ask(self, *words: str, timeout: float = 60.0) -> Any:
        """Type a command and return its answer; raise `BenchError` with what it says when it fails."""
        done = subprocess.run(self.end.command(self.command(*words)), capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise BenchError(f"f2ftun {' '.join(words)[:60]}: {(done.stdout + done.stderr).strip()[-400:]}")
        return json.loads(done.stdout or "null")

    def befriend(self, other: Node, *addresses: str) -> None:
        """Add a friend by hand, who may be at these addresses."""
        where = [word for address in addresses for word in ("--endpoint", f"{address}:{PORT}")]
        self.ask("friend", "add", other.name, other.key, *where)

    def up(self) -> float:
        """Start the daemon, make sure that the TUN answers, and return the seconds it took."""
        began = time.monotonic()
        self.ask("up")
        took = time.monotonic() - began
        if not _listed(self.end) or self.ping(self.address, 1) is None:
            raise BenchError(f"{self.name}: `up` returned, but the TUN does not answer")
        return took

    def down(self) -> float:
        """Stop the daemon, make sure that the TUN is gone, and return the seconds it took."""
        began = time.monotonic()
        self.ask("down")
        took = time.monotonic() - began
        if _listed(self.end):
            raise BenchError(f"{self.name}: `down` returned, but the TUN is there")
        return took

    def ping(self, address: str, timeout_s: float, interval_s: float = 1.0) -> float | None:
        """Ping until one is answered; return its round trip in seconds, or `None` when none is within `timeout_s`."""
        argv = ("ping", "-n", "-c", "1", "-i", str(interval_s), "-w", str(max(1, round(timeout_s))), address)
        told = self.end.run(*argv, check=False, timeout=timeout_s + 10)
        found = re.search(r"time=([0-9.]+) ms", told)
        return float(found[1]) / 1e3 if found else None

    def reaches(self, other: Node, timeout_s: float = 20.0) -> None:
        """Wait until another node answers; raise `BenchError` when it does not."""
        wait_for(lambda: self.ping(other.address, 1, 0.1) is not None, f"{other.name} to answer {self.name}", timeout_s)

    @property
    def pid(self) -> int:
        """The daemon's pid; raises `BenchError` when none runs."""
        mine = (b"f2ftun.daemon\0", os.fsencode(self.config) + b"\0")
        for pid in self.end.pids():
            if all(word in _command_line(pid) for word in mine):
                return pid
        raise BenchError(f"{self.name}: no daemon runs")

    def kill(self) -> None:
        """Kill the daemon with no chance to put anything away."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not _command_line(pid), "the killed daemon to be gone", 3)

    def rss_bytes(self) -> float:
        """Read how much memory the daemon holds."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        return float(found[1]) * 1024 if found else 0.0

    def cpu_s(self) -> float:
        """Read the processor time of the daemon's threads, to the nanosecond. Source: Linux sched-stats.rst."""
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def cpu_share(self, seconds: float) -> float:
        """Watch the daemon for a while; return the share of one core that it took."""
        began, before = time.monotonic(), self.cpu_s()
        time.sleep(seconds)
        return (self.cpu_s() - before) / (time.monotonic() - began)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _listed(end: Namespace) -> bool:
    return bool(end.run("ip", "-br", "link", "show", "dev", INTERFACE, check=False))
