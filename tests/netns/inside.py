"""A host for tests of `f2ftun.linux`: a network namespace of its own, in which functions of the test run.

Namespaces belong to threads, and a thread's children have its own: so a fresh thread that entered the namespace runs
the function, and everything that it starts (threads, event loops, `nft`) is inside too.
"""

import asyncio
import ctypes
import itertools
import os
import shlex
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import IPv6Address
from typing import Any, TypeVar

from f2ftun.linux import firewall, link, routing
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.tun import Tun, open_tun

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()

ADDRESS = IPv6Address("fc12:3456:789a:bcde:f012:3456:789a:bcde")
FRIEND = IPv6Address("fcfe:dcba:9876:5432:10fe:dcba:9876:5432")
INTERFACE = "f2f0"
Work = Callable[[Netlink], Coroutine[Any, Any, T]]


class Host:
    """A namespace with its loopback up."""

    def __init__(self) -> None:
        self.name = f"linux-{os.getpid()}-{next(_numbers)}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.sh("ip link set lo up")

    def remove(self) -> None:
        subprocess.run(["ip", "netns", "del", self.name], check=True)

    def sh(self, command: str, check: bool = True) -> str:
        """Run a command (no shell) inside; return what it printed."""
        words = ["ip", "netns", "exec", self.name, *shlex.split(command)]
        return subprocess.run(words, check=check, capture_output=True, text=True, timeout=20).stdout

    def call(self, function: Callable[[], T]) -> T:
        """Run a function inside and return what it returns."""
        with ThreadPoolExecutor(1, initializer=self._enter) as thread:
            return thread.submit(function).result(timeout=30)

    def run(self, work: Work[T], loop: Callable[[], asyncio.AbstractEventLoop] | None = None) -> T:
        """Run a coroutine function, which is given an open `Netlink`, inside."""

        async def with_netlink() -> T:
            with Netlink() as nl:
                return await work(nl)

        def in_loop() -> T:
            with asyncio.Runner(loop_factory=loop) as runner:
                return runner.run(with_netlink())

        return self.call(in_loop)

    def state(self) -> dict[str, str]:
        """Read what a node changes, in the words of the host's own programs."""
        commands = ("ip -6 rule", "ip -6 route show table all", "ip -br link", "ip -6 addr", "nft list ruleset")
        return {command: self.sh(command) for command in commands}

    def _enter(self) -> None:
        with open(f"/run/netns/{self.name}", "rb") as namespace:
            if _libc.setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def new_host() -> Iterator[Host]:
    host = Host()
    try:
        yield host
    finally:
        host.remove()


def bring_up(host: Host, rules: list[firewall.Rule] | None = None, mtu: int = 1400) -> Tun:
    """Do what a daemon does at `up`; closing the TUN that is returned is what the kernel does at its `kill -9`."""

    async def work(nl: Netlink) -> Tun:
        await routing.detect_cjdns(nl, INTERFACE)
        await firewall.apply(firewall.plan(INTERFACE, ADDRESS, rules or []))
        tun = open_tun(INTERFACE)
        await link.configure_link(nl, INTERFACE, ADDRESS, mtu)
        await routing.apply_routing(nl, INTERFACE)
        return tun

    return host.run(work)


def bring_down(host: Host, tun: Tun) -> None:
    """Do what a daemon does at `down`."""

    async def work(nl: Netlink) -> None:
        tun.close()
        await routing.remove_routing(nl)
        await firewall.remove()

    host.run(work)


def join_hosts(left: Host, right: Host, number: int) -> None:
    """Lay a cable: `lan{number}` on both, 192.0.2.(1|2), 2001:db8:{number}::(1|2)."""
    name = f"lan{number}"
    subprocess.run(
        ["ip", "-n", left.name, "link", "add", name, "type", "veth", "peer", "name", name, "netns", right.name],
        check=True,
    )
    for host, last in ((left, 1), (right, 2)):
        host.sh(f"ip link set {name} up")
        host.sh(f"ip addr add 192.0.{number}.{last}/24 dev {name}")
        host.sh(f"ip -6 addr add 2001:db8:{number}::{last}/64 dev {name} nodad")
