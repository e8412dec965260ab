"""The network that `f2ftun demo` plays in: a switch and its nodes, each in a network namespace of this machine.

Every namespace is named after the process that made it, so several demos may run at once, and what a killed one left is
found by its dead process and removed by the next. Nothing outside these namespaces is changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from f2ftun.errors import F2ftunError

PREFIX: Final = "f2fdemo-"
"""Begins the names of namespaces and of the temporary folder: `f2fdemo-PID-alice`."""

COMMAND_TIMEOUT: Final = 60.0
"""Seconds for one command; `join` and `up` take the longest, some seconds."""

SUBNET_BITS: Final = 24
"""The nodes' underlay is 192.0.2.0/24, which is set aside for examples. Source: RFC 5737."""


class DemoNeedsRoot(F2ftunError):
    """The demo makes network namespaces, and that takes root. Run: sudo f2ftun demo"""


class DemoToolMissing(F2ftunError):
    """The demo needs the program {tool}. Install it: sudo apt-get install -y {package}"""


class DemoFailed(F2ftunError):
    """The demo stopped at `{command}`: {reason}"""

    def __init__(self, *, command: str, reason: str) -> None:
        """Keep all of what the command said; it is our own, and the point of the sentence."""
        Exception.__init__(self, f"The demo stopped at `{command}`: {reason}")


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One node: its name, its namespace, the folder with its config, and its address on the switch."""

    name: str
    namespace: str
    folder: Path
    underlay: str

    def command(self, *words: str) -> list[str]:
        """Give the command line that runs `words` in this node's namespace."""
        return ["ip", "netns", "exec", self.namespace, *words]

    def run(self, *words: str) -> str:
        """Run a program there and give what it printed. Raises `DemoFailed` with what it complained of."""
        return run(self.command(*words))

    def f2ftun(self, *words: str) -> str:
        """Type an `f2ftun` command there, for people."""
        return self.run(*self._own(), *words)

    def ask(self, *words: str) -> Any:
        """Type an `f2ftun --json` command there and read the value."""
        return json.loads(self.run(*self._own(), "--json", *words))

    def _own(self) -> list[str]:
        """Give the start of every `f2ftun` command line of this node."""
        return [sys.executable, "-P", "-m", "f2ftun", "-c", str(self.folder / "config.yaml")]


class DemoNetwork:
    """A switch with nodes on it. A context manager: all of it is gone at the end, however that comes."""

    def __init__(self, names: Sequence[str]) -> None:
        """Plan the network; nothing is made before it is entered."""
        own = f"{PREFIX}{os.getpid()}-"
        self._switch = f"{own}switch"
        self._folder = Path()
        self._names = {name: f"{own}{name}" for name in names}
        self.nodes: list[DemoNode] = []

    def __enter__(self) -> Self:
        """Make the namespaces, the switch, and a folder for each node. Raises `DemoNeedsRoot`, `DemoFailed`."""
        if os.geteuid() != 0:
            raise DemoNeedsRoot
        _require_tools()
        remove_leftovers()
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            self._make()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove everything."""
        self._remove()

    def _make(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        run(["ip", "netns", "add", self._switch])
        _ip(self._switch, "link add switch type bridge")
        _ip(self._switch, "link set switch up")
        self.nodes = [self._make_node(number, name) for number, name in enumerate(self._names, 1)]

    def _make_node(self, number: int, name: str) -> DemoNode:
        """Make a namespace with one cable to the switch."""
        namespace = self._names[name]
        node = DemoNode(name, namespace, self._folder / name, f"192.0.2.{number}")
        node.folder.mkdir(mode=0o700)
        run(["ip", "netns", "add", namespace])
        _ip(namespace, "link set lo up")
        _ip(namespace, f"link add eth0 type veth peer name port{number} netns {self._switch}")
        _ip(self._switch, f"link set port{number} master switch up")
        _ip(namespace, f"addr add {node.underlay}/{SUBNET_BITS} dev eth0")
        _ip(namespace, "link set eth0 up")
        return node

    def move(self, node: DemoNode, underlay: str) -> None:
        """Give a node another address on the switch and take the old one away, as another network would."""
        _ip(node.namespace, f"addr del {node.underlay}/{SUBNET_BITS} dev eth0")
        _ip(node.namespace, f"addr add {underlay}/{SUBNET_BITS} dev eth0")

    def _remove(self) -> None:
        """Remove namespaces, with what still runs in them, and the folder. A second Ctrl-C does not stop it."""
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for namespace in (*self._names.values(), self._switch):
            remove_namespace(namespace)
        if self._folder.name:
            shutil.rmtree(self._folder, ignore_errors=True)
        signal.signal(signal.SIGINT, previous)


def run(command: Sequence[str]) -> str:
    """Run a command and give what it printed. Raises `DemoFailed`."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise DemoFailed(command=written(command), reason=f"no end after {COMMAND_TIMEOUT:g} s") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        raise DemoFailed(command=written(command), reason=" ".join(said[-3:]))
    return done.stdout


def written(command: Sequence[str]) -> str:
    """Give a command as a person would type it in that node's terminal."""
    words = list(command)
    if words[:3] == ["ip", "netns", "exec"]:
        words = words[4:]
    if words[1:4] == ["-P", "-m", "f2ftun"]:
        words = ["f2ftun", *words[6:]]
    return " ".join(word for word in words if word != "--json")


def remove_leftovers() -> None:
    """Remove the namespaces and folders of demos whose process is gone."""
    for namespace in re.findall(rf"^{PREFIX}\S+", run(["ip", "netns", "list"]), re.MULTILINE):
        if _is_left(namespace):
            remove_namespace(namespace)
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_left(folder.name) and folder.owner() == "root":
            shutil.rmtree(folder, ignore_errors=True)


def _is_left(name: str) -> bool:
    """Say whether the demo that made something of this name is gone."""
    maker = re.match(rf"{PREFIX}(\d+)-", name)
    return maker is not None and not Path("/proc", maker[1]).exists()


def remove_namespace(namespace: str) -> None:
    """Remove a namespace and every process in it; do nothing when there is none."""
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False)
    for pid in listed.stdout.split():
        _kill(int(pid))
    subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _ip(namespace: str, words: str) -> None:
    run(["ip", "-n", namespace, *words.split()])


def _interrupt(*_: object) -> None:
    """Turn SIGTERM into what Ctrl-C does, so that everything is removed."""
    raise KeyboardInterrupt


def _require_tools() -> None:
    """Raise `DemoToolMissing` for the first program that is not installed."""
    for tool, package in (("ip", "iproute2"), ("nft", "nftables"), ("ping", "iputils-ping")):
        if shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
            raise DemoToolMissing(tool=tool, package=package)
