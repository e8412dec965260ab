"""Network namespaces, the wires between them and the processes in them; everything is removed at the end.

A `Lab` makes namespaces and topologies. Addresses: the n-th host of a network has 10.9.NET.n, and 2001:db8:9:NET::n
where a test wants IPv6 (friends tell each other all their addresses, so with both, traffic may take either). Names of
namespaces carry the pid of the test run; what a killed run left is swept by the next.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType

PREFIX = "f2flab"
CLONE_NEWNET = 0x40000000
"""Source: Linux sched.h."""

SIOCETHTOOL = 0x8946
ETHTOOL_OFFLOADS = (0x17, 0x19, 0x1F, 0x24, 0x2C)
"""ETHTOOL_STXCSUM, SSG, STSO, SGSO, SGRO. Source: Linux ethtool.h."""

_libc = ctypes.CDLL(None, use_errno=True)


class LabError(Exception):
    """The lab could not be built, or waited in vain."""


def wait_for(condition: Callable[[], object], what: str, timeout: float = 10.0) -> float:
    """Poll `condition` every 10 ms until it is true; return the seconds it took, or raise `LabError` naming `what`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > timeout:
            raise LabError(f"waited {timeout} s in vain for {what}")
        time.sleep(0.01)
    return time.monotonic() - began


class Namespace:
    """A network namespace and what runs in it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.label = name.rpartition("-")[2]
        self.folder = folder
        self.interfaces = 0
        self._children: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["ip", "netns", "add", name], check=True)
        self.run("ip", "link", "set", "lo", "up")
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Write `argv` so that it runs in here."""
        return ["ip", "netns", "exec", self.name, *map(str, argv)]

    def run(
        self, *argv: str | Path, check: bool = True, timeout: float = 30.0, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; raise `LabError` with its output when it fails."""
        command = self.command(argv)
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, input=text)
        if check and done.returncode:
            raise LabError(f"{' '.join(map(str, argv))}: {done.returncode}: {done.stderr or done.stdout}")
        return done

    def start(self, *argv: str | Path, log: str = "log") -> subprocess.Popen[bytes]:
        """Start a program in the background; its output goes to the file `log` in this namespace's folder."""
        with open(self.folder / log, "wb") as output:
            child = subprocess.Popen(
                self.command(argv), stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self.folder
            )
        self._children.append(child)
        return child

    def sysctl(self, key: str, value: int) -> None:
        """Write one kernel setting of this namespace."""
        path = "/proc/sys/" + key.replace(".", "/")
        self.run("sh", "-c", f"echo {value} > {path}")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread in here for the duration: sockets it opens belong to this namespace."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(there)
            yield
        finally:
            _setns(here)
            os.close(here)
            os.close(there)

    def open_socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket in here."""
        with self.entered():
            return socket.socket(family, kind, protocol)

    def packet_socket(self, interface: str) -> socket.socket:
        """Open a raw socket that sees every frame arriving at an interface and sends whole frames."""
        raw = self.open_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        raw.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        raw.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, 8 << 20)
        raw.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        with self.entered():
            raw.bind((interface, ETH_P_ALL))
        return raw

    def pids(self) -> list[int]:
        """List the processes in here."""
        told = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        return [int(pid) for pid in told.stdout.split()]

    def remove(self) -> None:
        """End every process in here, then remove the namespace."""
        end(self.pids())
        for child in self._children:
            child.wait()
        subprocess.run(["ip", "netns", "delete", self.name], capture_output=True)

    def offloads_off(self, interface: str) -> None:
        """Let every frame on an interface be a single one with its checksum filled in, as on a real wire."""
        with self.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for command in ETHTOOL_OFFLOADS:
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                request = struct.pack("16sP", interface.encode(), ctypes.addressof(value))
                with contextlib.suppress(OSError):
                    fcntl.ioctl(any_socket, SIOCETHTOOL, request)


ETH_P_ALL = 3
SO_RCVBUFFORCE, SO_SNDBUFFORCE = 33, 32
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
"""Source: Linux if_ether.h, socket.h, if_packet.h."""


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def alive(pid: int) -> bool:
    """Say whether a process runs: any of its threads, for the first may be a zombie while others still hold files."""
    return any(_runs(stat) for stat in Path(f"/proc/{pid}/task").glob("*/stat"))


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def end(pids: Sequence[int]) -> None:
    """End processes: asked first, killed after 2 s."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        for pid in filter(alive, pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, wanted)
        with contextlib.suppress(LabError):
            wait_for(lambda: not any(map(alive, pids)), "processes to end", 2.0)


class Lab:
    """Makes namespaces and joins them; a context manager that removes them all."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self.namespaces: dict[str, Namespace] = {}
        self.ipv6 = False
        self._after = contextlib.ExitStack()

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.remove()

    def remove(self) -> None:
        """Run what `defer` collected, remove every namespace and file."""
        try:
            self._after.close()
        finally:
            for namespace in self.namespaces.values():
                namespace.remove()
            shutil.rmtree(self.folder, ignore_errors=True)

    def defer(self, act: Callable[[], object]) -> None:
        """Remember to call `act` before the namespaces go."""
        self._after.callback(act)

    def namespace(self, label: str) -> Namespace:
        """Make a namespace."""
        made = self.namespaces[label] = Namespace(f"{PREFIX}{os.getpid()}-{_next()}-{label}", self.folder / label)
        return made

    def wire(self, a: Namespace, b: Namespace, *, mtu: int = 1500) -> tuple[str, str]:
        """Join two namespaces by a veth pair; return the interfaces' names, `eth0`, `eth1`, … in each."""
        names = tuple(f"eth{end_.interfaces}" for end_ in (a, b))
        veth = ["ip", "link", "add", names[0], "netns", a.name, "type", "veth"]
        subprocess.run([*veth, "peer", "name", names[1], "netns", b.name], check=True)
        for end_, name in zip((a, b), names, strict=True):
            end_.interfaces += 1
            end_.run("ip", "link", "set", name, "up", "mtu", str(mtu))
        return names[0], names[1]

    def address(self, namespace: Namespace, interface: str, network: int, host: int) -> str:
        """Give an interface its IPv4 address, and with `ipv6` its other one; return the IPv4 one."""
        namespace.run("ip", "address", "add", f"{v4(network, host)}/24", "dev", interface)
        if self.ipv6:
            namespace.run("ip", "address", "add", f"{v6(network, host)}/64", "dev", interface, "nodad")
        return v4(network, host)

    def lan(self, *members: Namespace, network: int = 0) -> dict[str, str]:
        """Join namespaces by a switch; return each one's interface by its label. The n-th is host n."""
        switch = self.namespace(f"sw{network}")
        switch.run("ip", "link", "add", "br0", "type", "bridge", "forward_delay", "0")
        switch.run("ip", "link", "set", "br0", "up")
        interfaces = {}
        for host, member in enumerate(members, 1):
            port, interface = self.wire(switch, member)
            switch.run("ip", "link", "set", port, "master", "br0")
            self.address(member, interface, network, host)
            interfaces[member.label] = interface
        return interfaces

    def pair(self, a: Namespace, b: Namespace, *, network: int = 0, mtu: int = 1500) -> tuple[str, str]:
        """Join two namespaces directly, with addresses; return the interfaces."""
        names = self.wire(a, b, mtu=mtu)
        for host, (end_, name) in enumerate(zip((a, b), names, strict=True), 1):
            self.address(end_, name, network, host)
        return names

    def line(self, *stops: Namespace) -> None:
        """Join each namespace to the next; the n-th wire is network n, its ends are hosts 1 and 2. Nobody forwards."""
        for network, (a, b) in enumerate(pairwise(stops)):
            self.pair(a, b, network=network)

    def star(self, hub: Namespace, *leaves: Namespace) -> None:
        """Join each leaf to the hub by a wire of its own: network n, the hub is host 1, the leaf host 2."""
        for network, leaf in enumerate(leaves):
            self.pair(hub, leaf, network=network)

    def nat(self, inside: Namespace, outside: Namespace, *, timeout_s: int = 2) -> Namespace:
        """Put a masquerading router between two namespaces; UDP mappings die after `timeout_s` without traffic.

        Inside is network 1 (router 1, host 2), outside network 0 (router 1, host 2).
        """
        router = self.namespace("nat")
        self.pair(router, inside, network=1)
        self.pair(router, outside, network=0)
        router.sysctl("net.ipv4.ip_forward", 1)
        inside.run("ip", "route", "add", "default", "via", v4(1, 1))
        self.remap(router, 0)
        for key in ("udp_timeout", "udp_timeout_stream"):
            router.sysctl(f"net.netfilter.nf_conntrack_{key}", timeout_s)
        return router

    @staticmethod
    def remap(router: Namespace, first_port: int) -> None:
        """Forget every mapping; new ones are given ports from `first_port` (0: as the kernel likes)."""
        ports = f":{first_port}-{first_port + 99}" if first_port else ""
        proto = "meta l4proto udp " if ports else ""
        script = f"""table ip lab
            delete table ip lab
            table ip lab {{ chain post {{ type nat hook postrouting priority 100;
            oifname "eth1" {proto}masquerade {("to " + ports) if ports else ""}
            }}
            }}"""
        router.run("nft", "-f", "-", text=script)


_made = iter(range(1 << 30))


def _next() -> int:
    return next(_made)


def v4(network: int, host: int) -> str:
    """Write the IPv4 address of a host."""
    return f"10.9.{network}.{host}"


def v6(network: int, host: int) -> str:
    """Write the IPv6 address of a host."""
    return str(ipaddress.IPv6Address(f"2001:db8:9:{network:x}::{host:x}"))


def sweep() -> None:
    """Remove namespaces of test runs that are no more."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        found = re.match(rf"{PREFIX}(\d+)-", name)
        if found and not alive(int(found[1])):
            told = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True)
            end([int(pid) for pid in told.stdout.split()])
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)
