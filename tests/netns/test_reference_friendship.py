"""A real daemon and a person of the reference become friends: both ways of the invitation, and the post-quantum psk."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.netns.lab import Lab, v4
from tests.netns.node import Node as RealDaemon
from tests.netns.node import start
from tests.reference.control import JOIN, REFUSE, write_field, write_message
from tests.reference.crypto import hash32
from tests.reference.datagram import HYBRID
from tests.reference.event import Kind
from tests.reference.frame import checksum
from tests.reference.identity import Device, device_from, parse_base32, parse_invite, write_key
from tests.reference.node import Node
from tests.reference.person import Person
from tests.reference.superpacket import ipv6
from tests.reference.udp import UdpNode, bind

ICMPV6, ECHO_REQUEST = 58, bytes.fromhex("80000000 4242 0001")


@pytest.fixture
def daemon(lab: Lab) -> RealDaemon:
    """Start a real daemon as host 1 of network 0; host 2 is for persons."""
    lab.pair(lab.namespace("real"), lab.namespace("reference"))
    node = RealDaemon(lab.namespaces["real"])
    start(node)
    return node


@pytest.fixture
def person(lab: Lab, daemon: RealDaemon) -> Iterator[Person]:
    with make_person(lab, device_from("dora"), "dora").udp as udp:
        yield Person(udp, device_from("dora"), "dora")


def make_person(lab: Lab, device: Device, name: str) -> Person:
    with lab.namespaces["reference"].entered():
        udp = UdpNode(Node(device.private_key, features=HYBRID), bind(v4(0, 2)))
    return Person(udp, device, name)


def run(person: Person, condition: Callable[[], bool], timeout: float = 10.0) -> None:
    """Let a person act until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, dict(person.udp.node.drops)
        person.step()


def key_of(daemon: RealDaemon) -> bytes:
    key = parse_base32(daemon.key.removesuffix(".k"))
    assert key is not None
    return key


def psk_is_hybrid(person: Person, key: bytes) -> bool:
    """Say whether the person sends on a session with a psk from ML-KEM."""
    peer = person.udp.node.peers.get(key)
    return peer is not None and peer.current is not None and peer.current.psk_id != bytes(4)


def assert_pings(person: Person, daemon: RealDaemon) -> None:
    """Send an echo request to the daemon's kernel, and see the reply."""
    node, key = person.udp.node, key_of(daemon)
    body = ECHO_REQUEST + b"are you there?"
    packet = ipv6(node.address, node.peers[key].address, ICMPV6, body)
    node.send_packet(key, with_checksum(packet), person.udp.now)
    person.udp.run_until(lambda: any(e.payload[40] == 129 for e in person.udp.happened(Kind.PACKET)))
    replies = [event.payload for event in person.udp.happened(Kind.PACKET)]
    assert any(reply.endswith(b"are you there?") for reply in replies)


def with_checksum(packet: bytes) -> bytes:
    """Fill in the checksum of an ICMPv6 packet."""
    body = packet[40:]
    pseudo = packet[8:40] + len(body).to_bytes(4, "big") + bytes([0, 0, 0, ICMPV6])
    return packet[:42] + checksum(pseudo + body).to_bytes(2, "big") + packet[44:]


def test_person_joins_a_real_daemon(daemon: RealDaemon, person: Person) -> None:
    line = daemon.ask("invite", "dora")
    invite = parse_invite(line if isinstance(line, str) else line["invite"])
    assert invite is not None
    assert invite.inviter == key_of(daemon)
    person.follow(invite)
    run(person, lambda: person.following is None)
    run(person, lambda: psk_is_hybrid(person, invite.inviter))
    assert_pings(person, daemon)
    run(person, lambda: daemon.sees("dora"))


def test_real_daemon_joins_a_person(daemon: RealDaemon, person: Person) -> None:
    line = person.invite(hash32(b"secret of dora"), int(time.time()) + 3600)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(daemon.ask, "join", line)
        run(person, asked.done)
        asked.result()
        run(person, lambda: psk_is_hybrid(person, key_of(daemon)))
    assert_pings(person, daemon)
    run(person, lambda: daemon.sees("dora"))


@pytest.mark.parametrize("name", ["dora", "erik", "fritz"])
def test_post_quantum_works_whoever_has_the_lower_key(lab: Lab, daemon: RealDaemon, name: str) -> None:
    device = device_from(name)
    made = make_person(lab, device, name)
    with made.udp:
        daemon.ask("friend", "add", name, write_key(device.key), "--endpoint", made.udp.where)
        made.udp.node.add_peer(key_of(daemon), endpoints=[(v4(0, 1), 4242)])
        run(made, lambda: psk_is_hybrid(made, key_of(daemon)))
        assert_pings(made, daemon)


def test_second_user_of_a_line_is_refused_in_the_same_bytes(lab: Lab, daemon: RealDaemon, person: Person) -> None:
    line = daemon.ask("invite", "dora")
    invite = parse_invite(line if isinstance(line, str) else line["invite"])
    assert invite is not None
    person.follow(invite)
    person.udp.node.dial(invite.inviter, person.udp.now)
    person.udp.run_until(lambda: person.udp.node.peers[invite.inviter].current is not None)
    answers: list[bytes] = []
    for record in (Person(person.udp, device_from("thief"), "thief").record, person.record, b"", bytes(200)):
        person.say(invite.inviter, write_message(JOIN, record))
        person.udp.run_until(lambda: len(person.udp.happened(Kind.CONTROL)) > len(answers))  # noqa: B023
        answers = [event.payload for event in person.udp.happened(Kind.CONTROL)]
    assert answers.count(write_message(REFUSE)) == 3


def hostile_messages(seed: int) -> Iterator[bytes]:
    """Make control messages of every kind whose fields are missing, doubled, huge, of a wrong type or hostile."""
    noise = random.Random(seed)
    texts = (
        b"[fc00::1]:1",
        b"127.0.0.1:0",
        b"\xff\xfe",
        b"a" * 300,
        b"x.example:99999",
        b"[::1]:4242",
        b"$(id):1",
        b"\n:1",
    )
    values: tuple[Callable[[], int | bytes], ...] = (
        lambda: noise.choice((0, 1, 2, 3, 2**31, 2**63, 2**64 - 1)),
        lambda: noise.randbytes(noise.choice((0, 1, 31, 32, 139, 201, 1088, 1184, 1185))),
        lambda: noise.choice(texts),
    )
    while True:
        fields = [write_field(noise.randrange(1, 4), noise.choice(values)()) for _ in range(noise.randrange(0, 17))]
        body = b"".join(fields)[: noise.choice((2290, 2290, 50))]
        yield write_field(noise.choice((1, 2, 3, 4, 5, 6, 7, 7, 8, 100)), body)[:2300]


def test_hostile_control_messages_do_no_harm(daemon: RealDaemon, person: Person) -> None:
    """Let a friend say 5,000 things that no friend says, as fast as the link carries them."""
    device = person.device
    daemon.ask("friend", "add", "dora", write_key(device.key), "--endpoint", person.udp.where)
    key = key_of(daemon)
    person.udp.node.add_peer(key, endpoints=[(v4(0, 1), 4242)])
    run(person, lambda: psk_is_hybrid(person, key))
    before = daemon.rss_bytes()
    for number, message in enumerate(itertools.islice(hostile_messages(1), 5000)):
        person.say(key, message)
        person.udp.step(0.0)
        if number % 500 == 0:
            assert_pings(person, daemon)
    assert_pings(person, daemon)
    person.udp.node.dial(key, person.udp.now)  # one of the things said was goodbye
    run(person, lambda: daemon.sees("dora"))
    assert daemon.rss_bytes() - before < 32 << 20
    assert "Traceback" not in (daemon.config.parent / "state/daemon.log").read_text()
    assert {friend["name"] for friend in daemon.status()["friends"]} == {"dora"}
