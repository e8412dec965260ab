"""What `doctor` finds: on the host (`linux/checks`), and of the node itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from f2ftun.config import Config
from f2ftun.daemon.home import Home
from f2ftun.linux.checks import Finding, Host, Severity, examine
from f2ftun.linux.netlink import Netlink
from f2ftun.wire.key import address_of

if TYPE_CHECKING:
    from f2ftun.daemon.node import Node

SHOWN_NAMES: Final = 8
"""So many friends are named in one finding; of thousands some are always away."""

Value = dict[str, Any]


async def doctor_before(path: Path) -> list[Value]:
    """Give all findings on a host that has no node yet; `path` is where its config will be."""
    none = Config(path=path, name="node", state=path.parent / "state", control_socket=path.parent / "control.sock")
    with Netlink() as netlink:
        found = await examine(netlink, Host(none.interface, none.listen, none.state, running=False))
    advice = f"Run `f2ftun -c {path} init`, or `invite` or `join`, which do that too."
    return _values([*found, Finding(Severity.NOTE, f"There is no node yet at {path}.", "It has no key.", advice)])


async def doctor(home: Home, node: Node | None) -> list[Value]:
    """Give all findings, the worst first."""
    listen = node.device.listen if node is not None else home.config.listen
    host = Host(home.config.interface, listen, home.config.state, running=node is not None)
    with Netlink() as netlink:
        found = await examine(netlink, host)
    return _values([*found, *_node_findings(home, node)])


def _values(found: Iterable[Finding]) -> list[Value]:
    """Write findings as JSON values, the worst first."""
    order = list(Severity)
    return [
        asdict(finding) | {"severity": finding.severity.value}
        for finding in sorted(found, key=lambda finding: order.index(finding.severity))
    ]


def _node_findings(home: Home, node: Node | None) -> Iterator[Finding]:
    """Find what is wrong with the node itself."""
    if node is None:
        yield Finding(Severity.NOTE, "The node is not running.", "Friends cannot reach it.", "Run `f2ftun up`.")
        return
    if not home.store.friends() and not home.store.pending_joins():
        why = "A friend-to-friend network begins with the first one."
        yield Finding(
            Severity.NOTE, "There are no friends yet.", why, "Run `f2ftun invite NAME` and send them the line."
        )
    yield from _joining(home)
    yield from _unreachable(node)
    yield from _silent(node)
    yield from _offloads(node)


def _unreachable(node: Node) -> Iterator[Finding]:
    """Find friends whom nobody knows where to look for."""
    states = {state.key: state for state in node.device.peers()}
    for friend in node.peers.friends.values():
        state = states.get(friend.key)
        if state is not None and state.status.value != "up" and not node.peers.candidates(friend):
            yield Finding(
                Severity.WARNING,
                f"Nobody knows where {friend.name} is.",
                "Without an endpoint this node can only wait to be dialled by them.",
                f"Run `f2ftun friend set {friend.name} endpoint=HOST:PORT`, or give them an endpoint of yours.",
            )


def _silent(node: Node) -> Iterator[Finding]:
    """Find friends who are dialled and do not answer."""
    calling = {state.key for state in node.device.peers() if state.status.value == "connecting"}
    silent = [
        friend.name
        for friend in node.peers.friends.values()
        if friend.key in calling and not node.peers.departed(friend.key) and node.peers.candidates(friend)
    ]
    if silent:
        yield Finding(
            Severity.NOTE,
            f"Nothing comes back from {_listed(silent)}.",
            "They are away, or have moved, or nothing gets through between you.",
            "Ask them whether their node is up; then whether UDP reaches one of you. `f2ftun friend show NAME` says "
            "where they are looked for.",
        )


def _joining(home: Home) -> Iterator[Finding]:
    """Find inviters who do not answer."""
    waiting = [pending.name or str(address_of(pending.invite.inviter)) for pending in home.store.pending_joins()]
    if waiting:
        yield Finding(
            Severity.NOTE,
            f"A join waits for {_listed(waiting)}.",
            "They have not answered yet; the node goes on asking until the invitation expires.",
            "Ask them whether their node is up, and whether the invitation still holds.",
        )


def _listed(names: list[str]) -> str:
    """Name a few, and say how many more."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(sorted(names)[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


def _offloads(node: Node) -> Iterator[Finding]:
    """Find what the kernel lacks for speed."""
    missing = {"tso", "udp-gso", "udp-gro"} - set(node.device.offloads)
    if missing:
        yield Finding(
            Severity.NOTE,
            f"This kernel lacks the offloads {', '.join(sorted(missing))}.",
            "Every packet is handled one by one; the tunnel is several times slower than it could be.",
            "Use Linux 5.0 or newer, and no container that hides them.",
        )
