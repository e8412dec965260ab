"""Two namespaces, one wire, and the programs started in them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

UNDERLAY_MTU = 1500
UNDERLAY = ("10.77.0.1", "10.77.0.2")
"""The addresses of the wire's two ends."""

NEWCOMER_UNDERLAY, OUTSIDE_UNDERLAY = ("10.77.1.1", "10.77.1.2"), ("10.77.2.1", "10.77.2.2")
"""Those of a yard's other wires, the node's first."""

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
    ends = tuple(_namespace(folder, side) for side in "ab")
    with removed_after(ends):
        for end in ends:
            end.create()
        veth(ends[0], ends[1], "wire", UNDERLAY)
        yield ends[0], ends[1]


@dataclass(frozen=True, slots=True)
class Yard:
    """A node, its old friend, one who will become a friend, and the world outside, each joined to the node by a wire.

    What the node sends to an address that is none of theirs goes outside, where nobody answers.
    """

    node: Namespace
    friend: Namespace
    newcomer: Namespace
    outside: Namespace


@contextlib.contextmanager
def yard(folder: Path) -> Iterator[Yard]:
    """Yield a yard, and remove it afterwards, whatever happens."""
    ends = Yard(*(_namespace(folder, side) for side in ("a", "b", "c", "x")))
    everyone = (ends.node, ends.friend, ends.newcomer, ends.outside)
    with removed_after(everyone):
        for end in everyone:
            end.create()
        veth(ends.node, ends.friend, "wire", UNDERLAY)
        veth(ends.node, ends.newcomer, "path", NEWCOMER_UNDERLAY)
        veth(ends.node, ends.outside, "outside", OUTSIDE_UNDERLAY)
        _lead_outside(ends.node, ends.outside)
        yield ends


def _lead_outside(node: Namespace, outside: Namespace) -> None:
    """Send all else outside, in silence: no ARP and no IPv6 there, so that whatever is counted was the node's doing."""
    node.run("sysctl", "-q", "net.ipv6.conf.outside.disable_ipv6=1")
    mac = ("lladdr", hardware_address(outside, "outside"), "dev", "outside", "nud", "permanent")
    node.run("ip", "neighbour", "replace", OUTSIDE_UNDERLAY[1], *mac)
    node.run("ip", "route", "add", "default", "via", OUTSIDE_UNDERLAY[1])


def hardware_address(end: Namespace, interface: str) -> str:
    """Read an interface's MAC address."""
    return str(json.loads(end.run("ip", "-j", "link", "show", "dev", interface))[0]["address"])


def veth(a: Namespace, b: Namespace, interface: str, addresses: tuple[str, str]) -> None:
    """Join two namespaces by a veth pair of MTU 1500 that has one name at both ends."""
    pair = ["ip", "link", "add", interface, "netns", a.name, "type", "veth", "peer", "name", interface]
    subprocess.run([*pair, "netns", b.name], check=True)
    for end, address in zip((a, b), addresses, strict=True):
        end.run("ip", "address", "add", f"{address}/24", "dev", interface)
        end.run("ip", "link", "set", interface, "up", "mtu", str(UNDERLAY_MTU))


def _namespace(folder: Path, side: str) -> Namespace:
    return Namespace(f"f2fbench{os.getpid()}{side}", folder / side)


@contextlib.contextmanager
def removed_after(ends: Sequence[Namespace]) -> Iterator[None]:
    """Remove namespaces in the end."""
    try:
        yield
    finally:
        for end in ends:
            end.remove()
