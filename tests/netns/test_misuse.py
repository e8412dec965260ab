"""What people do by mistake to a node that runs: join again, move its socket, delete its interface."""

from __future__ import annotations

import time

import pytest

from f2ftun.wire.invite import Invite, parse, write
from f2ftun.wire.key import parse_key
from tests.netns.lab import Lab, LabError, v4, wait_for
from tests.netns.node import INTERFACE, PORT, Node, connect, make_nodes

BACK_AFTER_ASKING_S = 6.0
"""Three seconds of asking, and a handshake."""


@pytest.fixture
def friends(lab: Lab) -> tuple[Node, Node, str]:
    """Two nodes that became friends by an invitation, and its line."""
    spaces = lab.namespace("alice"), lab.namespace("bob")
    lab.pair(*spaces)
    alice, bob = make_nodes(*spaces)
    for node in (alice, bob):
        node.up()
    line = str(alice.ask("invite", "bob")["invite"])
    assert bob.ask("join", line)["state"] == "friends"
    connect(alice, bob)
    return alice, bob, line


def test_a_friend_stays_a_friend_whatever_is_joined(friends: tuple[Node, Node, str]) -> None:
    alice, bob, line = friends
    with pytest.raises(LabError, match="friends already"):
        bob.ask("join", line)
    assert bob.pings(alice.address)

    invented = Invite(parse_key(alice.key), b"s" * 32, int(time.time()) + 10**8, (f"{v4(0, 1)}:{PORT}",))
    with pytest.raises(LabError, match="friends already"):
        bob.ask("join", write(invented))
    assert wait_for(lambda: bob.pings(alice.address) and alice.pings(bob.address), "both", BACK_AFTER_ASKING_S)
    assert (bob.status()["joins"], bob.friend(alice)["state"]) == ([], "up")

    new = str(alice.ask("invite")["invite"])
    assert bob.ask("join", new)["state"] == "friends"
    assert parse(new).secret != parse(line).secret
    connect(alice, bob)
    wait_for(lambda: alice.status()["invitations"] == [], "the invitation to be used up")


def test_a_node_whose_config_moved_its_socket_still_obeys(lab: Lab) -> None:
    (node,) = make_nodes(lab.namespace("alice"))
    node.up()
    with open(node.config, "a") as file:
        file.write("state: elsewhere\n")
    assert node.ask("reload") == {"applied": [], "restart": ["state", "control_socket"]}
    with pytest.raises(LabError, match="running already"):
        node.up()
    assert node.ask("down")["stopped"]


def test_a_node_that_began_anew_can_still_ping(lab: Lab) -> None:
    (node,) = make_nodes(lab.namespace("alice"))
    node.up()
    pid = node.pid
    time.sleep(10.5)  # a node that fails sooner does not begin anew
    node.namespace.run("ip", "link", "delete", INTERFACE)
    wait_for(lambda: node.answers() and node.status()["uptime_s"] < 10, "the node to begin anew")
    assert node.pid == pid
    assert node.ask("ping", node.address, "-n", "1")["received"] == 1
