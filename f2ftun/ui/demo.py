"""`f2ftun demo`: every feature shown once, by three nodes on this machine that type the commands a person would.

A story is a row of scenes. A scene tells what it does through `say`, types commands in the nodes' namespaces, checks
what came of them, and gives its facts for `--json`. What a scene expects and does not see ends it with `DemoFailed`.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from f2ftun.ui.cli import Command
from f2ftun.ui.demo_network import DemoFailed, DemoNetwork, DemoNode, written

if TYPE_CHECKING:
    from f2ftun.ui.cli import Shell

Say = Callable[[str], None]

NAMES: Final = ("alice", "bob", "carol")

FILE_BYTES: Final = 64 * 1024 * 1024
"""Large enough that the rate shown is the tunnel's and not that of starting programs."""

FILE_PORT: Final = 8080

FRIEND_TIMEOUT: Final = 15.0
"""Seconds for two nodes that run to become friends; it takes less than one."""

POLL_INTERVAL: Final = 0.05
"""Seconds between two looks at a node's state."""

PINGS: Final = 60
"""Replies wanted across the change of address, one each 100 ms; the change comes after a third of them."""

PING_DEADLINE: Final = 20
"""Seconds after which `ping` gives up."""

MOVED: Final = "192.0.2.77"

CONNECT: Final = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)"
FETCH: Final = "import sys, urllib.request; urllib.request.urlretrieve(sys.argv[1], sys.argv[2])"


@dataclass(frozen=True, slots=True)
class Stage:
    """What a scene plays with: the network, and how to tell the audience."""

    network: DemoNetwork
    say: Say

    def node(self, name: str) -> DemoNode:
        """Give the node of that name."""
        return next(node for node in self.network.nodes if node.name == name)

    def ask(self, node: DemoNode, *words: str) -> Any:
        """Show a command being typed at a node, type it, and give its value."""
        self.say(f"  {node.name}# f2ftun {' '.join(_shortened(word) for word in words)}")
        return node.ask(*words)


@click.command(cls=Command)
@click.pass_obj
def demo(shell: Shell) -> None:
    """Show every feature once, with three nodes in network namespaces of this machine; needs root."""
    facts = play(_silent if shell.json else click.echo)
    shell.show(facts, lambda facts: f"Done in {facts['duration_s']:g} s. The same as data: f2ftun demo --json")


def _silent(_: str) -> None:
    """Say nothing: whoever wants JSON wants nothing else."""


def play(say: Say) -> dict[str, Any]:
    """Play the whole story and give its facts. Raises `DemoFailed`, `DemoNeedsRoot`, `DemoToolMissing`."""
    began_at = time.monotonic()
    facts: dict[str, Any] = {}
    say("Three nodes in network namespaces of this machine; nothing outside them is changed.")
    with DemoNetwork(NAMES) as network:
        stage = Stage(network, say)
        for number, (title, scene) in enumerate(SCENES, 1):
            say(f"\n{number}. {title}")
            facts |= scene(stage)
    say("\nEverything is removed again.")
    return facts | {"duration_s": round(time.monotonic() - began_at, 1)}


def make_nodes(stage: Stage) -> dict[str, Any]:
    """Make three nodes."""
    nodes = []
    for node in stage.network.nodes:
        stage.ask(node, "init", "--name", node.name)
        nodes.append({"name": node.name, "address": node.ask("address")})
        stage.say(f"    {nodes[-1]['address']}")
    return {"nodes": nodes}


def become_friends(stage: Stage) -> dict[str, Any]:
    """Make all three friends of each other by invitations."""
    alice, bob, carol = stage.network.nodes
    line = stage.ask(alice, "invite", "bob")["invite"]
    stage.ask(bob, "join", line, "--name", "alice")
    for node in stage.network.nodes:
        stage.ask(node, "up")
    _wait_until_up(alice, "bob")
    for inviter in (alice, bob):
        line = stage.ask(inviter, "invite", "carol")["invite"]
        stage.ask(carol, "join", line, "--name", inviter.name)
    pairs = [(alice, bob), (alice, carol), (bob, carol), (bob, alice), (carol, alice), (carol, bob)]
    for node, friend in pairs:
        _wait_until_up(node, friend.name)
    stage.say("  All three are friends of each other.")
    return {"friendships": [[node.name, friend.name] for node, friend in pairs]}


def ping_each_other(stage: Stage) -> dict[str, Any]:
    """Ping every friend from every node."""
    pings = []
    for node in stage.network.nodes:
        for friend in stage.network.nodes:
            if friend is not node:
                pings.append(_ping(stage, node, friend))
    return {"pings": pings}


def copy_a_file(stage: Stage) -> dict[str, Any]:
    """Try a port before and after it is allowed, and compare what was copied."""
    alice, bob = stage.node("alice"), stage.node("bob")
    source, copy = bob.folder / "file", alice.folder / "copy"
    source.write_bytes(os.urandom(FILE_BYTES))
    with _served(bob, source.parent) as address:
        _require_closed(alice, address)
        stage.say(f"  alice gets no answer from bob's port {FILE_PORT}.")
        stage.ask(bob, "allow", "alice", f"tcp/{FILE_PORT}")
        began_at = time.monotonic()
        alice.run(sys.executable, "-P", "-c", FETCH, f"http://[{address}]:{FILE_PORT}/file", str(copy))
        seconds = time.monotonic() - began_at
    digest = _sha256(source)
    if _sha256(copy) != digest:
        raise DemoFailed(command="copy of a file", reason="what arrived is not what was sent")
    stage.say(
        f"  {FILE_BYTES >> 20} MiB in {seconds:.2f} s, {FILE_BYTES * 8 / seconds / 1e9:.2f} Gbit/s; SHA-256 agrees."
    )
    return {"file": {"bytes": FILE_BYTES, "duration_s": round(seconds, 3), "sha256": digest}}


def show_status(stage: Stage) -> dict[str, Any]:
    """Show the status of one node."""
    alice = stage.node("alice")
    stage.say("  alice# f2ftun status")
    stage.say(_indented(alice.f2ftun("status")))
    return {"status": alice.ask("status")}


def change_address(stage: Stage) -> dict[str, Any]:
    """Move one node under a running ping, and measure the pause."""
    alice, bob = stage.node("alice"), stage.node("bob")
    address = bob.ask("address")
    command = alice.command("ping", "-6", "-n", "-D", "-i", "0.1", "-c", str(PINGS), "-w", str(PING_DEADLINE), address)
    stage.say(f"  alice# {written(command)}")
    times = []
    for at in _replies(command):
        times.append(at)
        if len(times) == PINGS // 3:
            stage.say(f"  bob moves from {bob.underlay} to {MOVED}.")
            stage.network.move(bob, MOVED)
    if len(times) < PINGS:
        raise DemoFailed(command=written(command), reason=f"{len(times)} of {PINGS} replies within {PING_DEADLINE} s")
    endpoint = _friend(alice, "bob")["endpoint"]
    if not endpoint.startswith(MOVED):
        raise DemoFailed(command="f2ftun status", reason=f"alice still sends to {endpoint}")
    gap = max(later - sooner for sooner, later in itertools.pairwise(times))
    stage.say(f"  {PINGS} replies, the longest pause between two {gap:.2f} s. Alice now sends to {endpoint}.")
    return {"move": {"from": bob.underlay, "to": endpoint, "replies": len(times), "longest_gap_s": round(gap, 3)}}


def stop_nodes(stage: Stage) -> dict[str, Any]:
    """Stop all nodes and look for what they left on their hosts."""
    for node in stage.network.nodes:
        stage.ask(node, "down")
        left = node.run("ip", "-6", "rule").count("4242") + node.run("ip", "link").count("f2f0")
        left += node.run("nft", "list", "ruleset").count("f2ftun")
        if left:
            raise DemoFailed(command="f2ftun down", reason=f"{node.name}'s host still has something of f2ftun")
    return {"left_behind": 0}


SCENES: Final = (
    ("Three nodes are made, each with a key; the address is a hash of it.", make_nodes),
    (
        "Alice invites, Bob joins with the one line she sends him, both start. Carol joins nodes that run.",
        become_friends,
    ),
    ("Any program reaches a friend by address: ping.", ping_each_other),
    ("Nobody may connect until they are allowed; then a file is copied over TCP.", copy_a_file),
    ("The node and its friends in one screen.", show_status),
    ("Bob moves to another address while Alice pings him, as a laptop between two networks does.", change_address),
    ("All stop, and leave nothing behind.", stop_nodes),
)


def _friend(node: DemoNode, name: str) -> dict[str, Any]:
    """Give what a node's status says of one friend; empty when there is no such friend yet."""
    friends: list[dict[str, Any]] = node.ask("status")["friends"]
    return next((friend for friend in friends if friend["name"] == name), {})


def _wait_until_up(node: DemoNode, name: str) -> None:
    """Look at a node's status until that friend is up. Raises `DemoFailed` after `FRIEND_TIMEOUT`."""
    end_at = time.monotonic() + FRIEND_TIMEOUT
    while (state := _friend(node, name).get("state", "no friend yet")) != "up":
        if time.monotonic() > end_at:
            raise DemoFailed(
                command="f2ftun status", reason=f"{name} is {state} for {node.name} after {FRIEND_TIMEOUT} s"
            )
        time.sleep(POLL_INTERVAL)


def _ping(stage: Stage, node: DemoNode, friend: DemoNode) -> dict[str, Any]:
    """Ping a friend three times; raise `DemoFailed` when one stays away."""
    address = friend.ask("address")
    printed = node.run("ping", "-6", "-n", "-c", "3", "-i", "0.1", "-W", "2", address)
    received = re.search(r"(\d+) received", printed)
    rtts = re.findall(r"time=([0-9.]+) ms", printed)
    if not received or received[1] != "3":
        raise DemoFailed(command=f"ping {address}", reason=printed.strip().splitlines()[-1])
    stage.say(f"  {node.name}# ping {address}   ({friend.name}: {', '.join(rtts)} ms)")
    return {"from": node.name, "to": friend.name, "rtt_ms": [float(rtt) for rtt in rtts]}


def _replies(command: list[str]) -> Iterator[float]:
    """Run `ping -D` and give the time, in Unix seconds, at which each reply came."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as ping:
        assert ping.stdout is not None
        try:
            for line in ping.stdout:
                if found := re.match(r"\[([0-9.]+)\] .*icmp_seq=", line):
                    yield float(found[1])
        finally:
            ping.kill()


@contextmanager
def _served(node: DemoNode, folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on a node's overlay address; give that address once it listens."""
    address: str = node.ask("address")
    words = ("-m", "http.server", str(FILE_PORT), "--bind", address, "--directory", str(folder))
    command = node.command(sys.executable, "-u", "-P", *words)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            if not server.stdout.readline().startswith("Serving"):
                raise DemoFailed(command=written(command), reason="the server did not start")
            yield address
        finally:
            server.kill()


def _require_closed(node: DemoNode, address: str) -> None:
    """Raise `DemoFailed` if a node can connect to a port that nobody was allowed to."""
    command = node.command(sys.executable, "-P", "-c", CONNECT, address, str(FILE_PORT))
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False)
    if done.returncode == 0:
        raise DemoFailed(command=f"connect to {address}", reason="it was possible before it was allowed")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shortened(word: str) -> str:
    """Show an invite by its ends; it is one line of some 150 characters."""
    return word if len(word) <= 64 else f"{word[:24]}…{word[-6:]}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines())
