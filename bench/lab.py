"""Two namespaces, one wire, and the programs started in them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

UNDERLAY_MTU = 1500
UNDERLAY = ("10.77.0.1", "10.77.0.2")
"""The addresses of the wire's two ends."""

READY_TIMEOUT = 20.0
"""Seconds a tunnel may take to answer its first ping."""


class BenchError(Exception):
    """A contender could not be set up or measured; the text says which step failed."""


def wait_for(condition: Callable[[], bool], what: str, timeout: float = READY_TIMEOUT) -> None:
    """Poll `condition` every 20 ms until it holds; raise `BenchError` naming `what` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise BenchError(f"waited {timeout:.0f} s in vain for {what}")
        time.sleep(0.02)


class Namespace:
    """A network namespace, and every process started in it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self._children: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        """Add the namespace, bring its loopback up."""
        self.folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip", "link", "set", "lo", "up")

    def command(self, argv: Sequence[str]) -> list[str]:
        """Write `argv` so that it runs in here."""
        return ["ip", "netns", "exec", self.name, *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = 60.0, text: str | None = None) -> str:
        """Run to the end and return stdout; raise `BenchError` with stderr when it fails or takes too long."""
        try:
            done = subprocess.run(self.command(argv), capture_output=True, text=True, timeout=timeout, input=text)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"{argv[0]} did not end within {timeout:.0f} s") from error
        if check and done.returncode:
            raise BenchError(f"{' '.join(argv[:6])}: {(done.stderr or done.stdout).strip()[-400:]}")
        return done.stdout

    def start(self, *argv: str, log: str) -> subprocess.Popen[bytes]:
        """Start a program in the background, its output in the file `log` of this namespace's folder."""
        with open(self.folder / log, "wb") as output:
            child = subprocess.Popen(
                self.command(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
        self._children.append(child)
        return child

    def pids(self) -> list[int]:
        """List the processes that live in here."""
        listed = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in listed.stdout.split()]

    def remove(self) -> None:
        """End everything in here by its pid, then remove the namespace."""
        _end(self.pids())
        for child in self._children:
            child.wait()
        self._children.clear()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)


def _end(pids: Sequence[int]) -> None:
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, wanted)
        with contextlib.suppress(BenchError):
            wait_for(lambda: not any(_alive(pid) for pid in pids), "processes to end", 2.0)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def wire(folder: Path) -> Iterator[tuple[Namespace, Namespace]]:
    """Yield two namespaces joined by a veth pair of MTU 1500, and remove both afterwards, whatever happens."""
    ends = tuple(Namespace(f"f2fbench{os.getpid()}{side}", folder / side) for side in "ab")
    try:
        for end in ends:
            end.create()
        subprocess.run(
            [
                *("ip", "link", "add", "wire", "netns", ends[0].name, "type", "veth"),
                *("peer", "name", "wire", "netns", ends[1].name),
            ],
            check=True,
        )
        for end, address in zip(ends, UNDERLAY, strict=True):
            end.run("ip", "address", "add", f"{address}/24", "dev", "wire")
            end.run("ip", "link", "set", "wire", "up", "mtu", str(UNDERLAY_MTU))
        yield ends[0], ends[1]
    finally:
        for end in ends:
            end.remove()
