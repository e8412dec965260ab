"""Strangers on the LAN and friends beyond the TUN get what was allowed and not one byte more (security.md A10, C1, C3).

Each test that nothing passes has a control in which, without the firewall, it does.
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import pytest

from f2ftun.linux import firewall
from f2ftun.linux.firewall import Rule
from f2ftun.linux.netlink import Netlink
from tests.netns.inside import ADDRESS, FRIEND, INTERFACE, Host, bring_up, join_hosts, new_host
from tests.netns.raw import (
    ACK,
    DESTINATION_UNREACHABLE,
    ECHO_REPLY,
    ECHO_REQUEST,
    ICMPV6,
    NEIGHBOR_SOLICITATION,
    PORT_UNREACHABLE,
    RST,
    SYN,
    TCP,
    UDP,
    answers,
    capture,
    captured,
    icmp,
    inject,
    ipv4_ping,
    read_packets,
    tcp,
    tcp_flags,
    udp,
)

pytestmark = pytest.mark.netns
OTHER_FRIEND = IPv6Address("fc00::77")
PORT = 8080


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host:
        yield host


@pytest.fixture
def neighbor(host: Host) -> Iterator[Host]:
    with new_host() as neighbor:
        join_hosts(host, neighbor, 2)
        neighbor.sh(
            "ping -6 -c1 -W2 2001:db8:2::1"
        )  # the two have found each other, so that nothing waits for that later
        host.sh("ping -6 -c1 -W2 2001:db8:2::2")
        yield neighbor


@pytest.fixture
def tun(host: Host) -> Iterator[int]:
    """Bring up a node with no permissions; the test stands where its friends are."""
    with contextlib.closing(bring_up(host)) as tun:
        list(read_packets(tun.fileno(), 0.05))
        yield tun.fileno()


def set_rules(host: Host, *rules: Rule) -> None:
    apply_script(host, firewall.plan(INTERFACE, ADDRESS, rules))


def apply_script(host: Host, script: str) -> None:
    async def work(nl: Netlink) -> None:
        await firewall.apply(script)

    host.run(work)


def remove_firewall(host: Host) -> bool:
    async def work(nl: Netlink) -> bool:
        return await firewall.remove()

    return host.run(work)


def listener(host: Host, port: int = PORT) -> socket.socket:
    return host.call(lambda: socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True))


def udp_socket(host: Host, port: int = PORT) -> socket.socket:
    def bind() -> socket.socket:
        found = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        found.bind(("::", port))
        found.settimeout(0.2)
        return found

    return host.call(bind)


def received(sink: socket.socket) -> bytes | None:
    try:
        return sink.recv(100)
    except TimeoutError:
        return None


def test_default_deny_but_echo(host: Host, tun: int) -> None:
    with listener(host), udp_socket(host) as sink:
        assert answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, SYN)) == []
        assert answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT + 1, SYN)) == [], (
            "a closed port says no more than an open one"
        )
        assert answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, SYN | ACK)) == []
        assert answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, ACK, ack=9)) == []
        assert answers(tun, udp(FRIEND, ADDRESS, 4000, PORT)) == []
        assert received(sink) is None
        assert answers(tun, udp(FRIEND, ADDRESS, 4000, PORT + 1)) == []
        [reply] = answers(tun, icmp(FRIEND, ADDRESS, ECHO_REQUEST))
        assert (reply[6], reply[40]) == (ICMPV6, ECHO_REPLY)


def test_without_the_firewall_ports_answer(host: Host, tun: int) -> None:
    assert remove_firewall(host)
    with listener(host), udp_socket(host) as sink:
        [reply] = answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, SYN))
        assert tcp_flags(reply) == SYN | ACK
        inject(tun, udp(FRIEND, ADDRESS, 4000, PORT))
        assert received(sink) == b"hello"
    assert not remove_firewall(host), "there is nothing to remove any more"


def test_allow_opens_one_port_to_one_friend(host: Host, tun: int) -> None:
    set_rules(host, Rule(FRIEND, "tcp", PORT, PORT), Rule(FRIEND, "udp", PORT - 1, PORT))
    with listener(host), listener(host, PORT + 1), udp_socket(host) as sink:
        [reply] = answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, SYN))
        assert (reply[6], tcp_flags(reply)) == (TCP, SYN | ACK)
        assert answers(tun, tcp(OTHER_FRIEND, ADDRESS, 4000, PORT, SYN)) == []
        assert answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT + 1, SYN)) == []
        inject(tun, udp(OTHER_FRIEND, ADDRESS, 4000, PORT))
        assert received(sink) is None
        inject(tun, udp(FRIEND, ADDRESS, 4000, PORT))
        assert received(sink) == b"hello"


def test_allow_all_opens_to_every_friend(host: Host, tun: int) -> None:
    set_rules(host, Rule(None, "tcp", PORT, PORT), Rule(None, "udp", PORT, PORT))
    with listener(host), udp_socket(host) as sink:
        for friend in (FRIEND, OTHER_FRIEND):
            inject(tun, udp(friend, ADDRESS, 4000, PORT))
            assert received(sink) == b"hello"
            [reply] = answers(tun, tcp(friend, ADDRESS, 4000, PORT, SYN))
            assert tcp_flags(reply) == SYN | ACK


def test_deny_stops_a_connection_that_stands(host: Host, tun: int) -> None:
    set_rules(host, Rule(FRIEND, "tcp", PORT, PORT))
    with listener(host) as server:
        [synack] = answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, SYN))
        ack = int.from_bytes(synack[44:48], "big") + 1
        inject(tun, tcp(FRIEND, ADDRESS, 4000, PORT, ACK, seq=2, ack=ack))
        server.settimeout(2)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(0.3)
            assert connection.recv(0) == b""
            set_rules(host)
            inject(tun, tcp(FRIEND, ADDRESS, 4000, PORT, RST, seq=2, ack=ack))
            with pytest.raises(TimeoutError):
                connection.recv(1)
            set_rules(host, Rule(FRIEND, "tcp", PORT, PORT))
            inject(tun, tcp(FRIEND, ADDRESS, 4000, PORT, RST, seq=2, ack=ack))
            with pytest.raises(ConnectionResetError):
                connection.recv(1)


def test_what_we_ask_is_answered(host: Host, tun: int) -> None:
    def dial() -> socket.socket:
        dialled = socket.socket(socket.AF_INET6)
        dialled.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            dialled.connect((str(FRIEND), 80))
        return dialled

    with host.call(dial) as dialled:
        syn = next(packet for packet in read_packets(tun, 1.0) if packet[6] == TCP)
        sport, seq = int.from_bytes(syn[40:42], "big"), int.from_bytes(syn[44:48], "big")
        assert IPv6Address(syn[8:24]) == ADDRESS
        inject(tun, tcp(FRIEND, ADDRESS, 80, sport, SYN | ACK, ack=seq + 1))
        dialled.settimeout(2)
        dialled.send(b"GET")
        flags = [tcp_flags(packet) for packet in read_packets(tun, 0.2)]
        assert flags
        assert all(flag & ACK and not flag & RST for flag in flags)


@pytest.mark.parametrize("teller", [ADDRESS, FRIEND], ids=["the data plane", "the friend"])
def test_an_error_about_what_we_sent_reaches_the_program(host: Host, tun: int, teller: IPv6Address) -> None:
    def send() -> socket.socket:
        sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sender.connect((str(FRIEND), 9))
        sender.send(b"hello")
        sender.settimeout(2)
        return sender

    with host.call(send) as sender:
        packet = next(packet for packet in read_packets(tun, 1.0) if packet[6] == UDP)
        inject(tun, icmp(teller, ADDRESS, DESTINATION_UNREACHABLE, bytes(4) + packet, code=PORT_UNREACHABLE))
        with pytest.raises(ConnectionRefusedError):
            sender.recv(1)


@pytest.mark.parametrize(
    "packet",
    [
        icmp(IPv6Address("fe80::1"), ADDRESS, NEIGHBOR_SOLICITATION, bytes(4) + ADDRESS.packed, hops=255),
        icmp(FRIEND, ADDRESS, NEIGHBOR_SOLICITATION, bytes(4) + ADDRESS.packed, hops=255),
        icmp(IPv6Address("2001:db8:2::9"), ADDRESS, ECHO_REQUEST),
        icmp(ADDRESS, ADDRESS, ECHO_REQUEST),
        icmp(IPv6Address("::1"), ADDRESS, ECHO_REQUEST),
        icmp(FRIEND, IPv6Address("ff02::1"), ECHO_REQUEST),
        icmp(FRIEND, IPv6Address("2001:db8:2::1"), ECHO_REQUEST),
        icmp(FRIEND, IPv6Address("::1"), ECHO_REQUEST),
        ipv4_ping(IPv4Address("192.0.2.9"), IPv4Address("192.0.2.1")),
    ],
    ids=[
        "nd-link-local",
        "nd",
        "foreign-source",
        "own-source",
        "loopback-source",
        "multicast",
        "lan-address",
        "loopback",
        "v4",
    ],
)
def test_only_friends_reach_only_the_overlay_address(host: Host, neighbor: Host, tun: int, packet: bytes) -> None:
    inject(tun, packet)
    assert list(read_packets(tun, 0.15)) == []


@pytest.mark.parametrize("forwarding_on_the_tun", [False, True])
def test_never_a_router(host: Host, neighbor: Host, tun: int, forwarding_on_the_tun: bool) -> None:
    for name in ("ipv6.conf.all.forwarding=1", "ipv4.ip_forward=1"):
        host.sh(f"sysctl -w net.{name}")
    if not forwarding_on_the_tun:
        host.sh(f"sysctl -w net.ipv6.conf.{INTERFACE}.forwarding=0")
    lan = IPv6Address("2001:db8:2::2")
    neighbor.sh("ip -6 route add fc00::/8 via 2001:db8:2::1")
    with neighbor.call(lambda: capture("lan2")) as cable:
        inject(tun, icmp(FRIEND, lan, ECHO_REQUEST))
        inject(tun, tcp(FRIEND, lan, 4000, 80, SYN))
        inject(tun, ipv4_ping(IPv4Address("192.0.9.9"), IPv4Address("192.0.2.2")))
        assert [frame for frame in captured(cable) if lan.packed in frame and FRIEND.packed in frame] == []
    neighbor.sh(f"ping -6 -c1 -W0.3 {FRIEND}", check=False)
    inward = [packet for packet in read_packets(tun, 0.15) if FRIEND.packed in packet]
    assert inward == [], "and no way from the LAN into the overlay"


def test_without_the_firewall_a_forwarding_host_is_a_router(host: Host, neighbor: Host, tun: int) -> None:
    remove_firewall(host)
    host.sh("sysctl -w net.ipv6.conf.all.forwarding=1")
    lan = IPv6Address("2001:db8:2::2")
    with neighbor.call(lambda: capture("lan2")) as cable:
        inject(tun, icmp(FRIEND, lan, ECHO_REQUEST))
        assert [frame for frame in captured(cable) if lan.packed in frame and FRIEND.packed in frame]


def probe_from_lan(host: Host, neighbor: Host) -> dict[str, bool]:
    """Try to reach the overlay address from the LAN in every way; say which had any effect."""
    neighbor.sh(f"ip -6 route replace {ADDRESS} via 2001:db8:2::1")

    def connect() -> bool:
        with socket.socket(socket.AF_INET6) as dialled:
            dialled.settimeout(0.2)
            return dialled.connect_ex((str(ADDRESS), PORT)) == 0

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", (str(ADDRESS), PORT))

    def synack() -> bool:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, TCP) as raw, capture("lan2") as cable:
            raw.sendto(tcp(IPv6Address("2001:db8:2::2"), ADDRESS, 9, PORT, SYN | ACK)[40:], (str(ADDRESS), 0))
            return any(ADDRESS.packed in frame[22:38] for frame in captured(cable))

    with listener(host), udp_socket(host) as sink:
        found = {"tcp": neighbor.call(connect)}
        neighbor.call(send)
        found["udp"] = received(sink) is not None
        found["syn-ack"] = neighbor.call(synack)
        found["ping"] = "1 received" in neighbor.sh(f"ping -6 -c1 -W0.3 {ADDRESS}", check=False)
    return found


def test_a_lan_neighbor_cannot_reach_the_overlay_address(host: Host, neighbor: Host) -> None:
    with contextlib.closing(bring_up(host, [Rule(None, "tcp", PORT, PORT), Rule(None, "udp", PORT, PORT)])):
        assert not any(probe_from_lan(host, neighbor).values())
        counted = [
            line for line in host.sh("nft list chain inet f2ftun incoming").splitlines() if "ip6 daddr fc00" in line
        ]
        assert int(counted[0].split("packets ")[1].split()[0]) >= 4
        remove_firewall(host)
        assert all(probe_from_lan(host, neighbor).values()), "the control: without the firewall every probe succeeds"


def test_a_dead_daemons_rules_still_hold(host: Host, neighbor: Host) -> None:
    bring_up(host).close()
    host.sh(f"ip -6 addr add {ADDRESS}/128 dev lo")
    assert not any(probe_from_lan(host, neighbor).values())


def test_no_overlay_source_leaves_by_the_lan(host: Host, neighbor: Host) -> None:
    lan = "2001:db8:2::2"

    def send() -> bool:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.bind((str(ADDRESS), 0))
            with contextlib.suppress(PermissionError):
                sender.sendto(b"hello", (lan, 9))
        return True

    with contextlib.closing(bring_up(host)), neighbor.call(lambda: capture("lan2")) as cable:
        host.call(send)
        assert not [frame for frame in captured(cable) if ADDRESS.packed in frame]
        remove_firewall(host)
        host.call(send)
        assert [frame for frame in captured(cable) if ADDRESS.packed in frame]


@pytest.mark.parametrize("bind_to_device", [False, True])
def test_no_overlay_destination_leaves_by_the_lan(host: Host, neighbor: Host, bind_to_device: bool) -> None:
    """Where the rule does not hold: another program removed it, or a socket is bound to the interface."""
    host.sh("ip -6 route add fc00::/8 via 2001:db8:2::2")

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
            if bind_to_device:
                sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lan2")
            sender.bind(("2001:db8:2::1", 0))
            sender.sendto(b"hello", (str(FRIEND), 9))

    with contextlib.closing(bring_up(host)), neighbor.call(lambda: capture("lan2")) as cable:
        if not bind_to_device:
            host.sh("ip -6 rule del pref 100")
        host.call(send)
        assert not [frame for frame in captured(cable) if FRIEND.packed in frame]
        remove_firewall(host)
        host.call(send)
        assert [frame for frame in captured(cable) if FRIEND.packed in frame]


def test_a_neighbor_with_an_overlay_source_is_not_heard(host: Host, neighbor: Host) -> None:
    neighbor.sh(f"ip -6 addr add {FRIEND}/128 dev lan2 nodad")

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.bind((str(FRIEND), 0))
            sender.sendto(b"hello", ("2001:db8:2::1", PORT))

    with contextlib.closing(bring_up(host)), udp_socket(host) as sink:
        neighbor.call(send)
        assert received(sink) is None
        remove_firewall(host)
        neighbor.call(send)
        assert received(sink) == b"hello"


def test_the_lan_is_as_it_was(host: Host, neighbor: Host) -> None:
    with contextlib.closing(bring_up(host)), listener(host), listener(neighbor):
        for last, one, other in ((1, neighbor, host), (2, host, neighbor)):
            for address in (f"2001:db8:2::{last}", f"192.0.2.{last}"):
                assert "1 received" in one.sh(f"ping -c1 -W1 {address}"), other.name
                one.call(partial(socket.create_connection, (address, PORT), timeout=2)).close()


@pytest.mark.parametrize("inwards", [True, False])
def test_never_a_router_by_translation(host: Host, neighbor: Host, tun: int, inwards: bool) -> None:
    """A rule of the user's own, `dnat`, rewrites the destination after our first chain has seen the packet."""
    host.sh("sysctl -w net.ipv6.conf.all.forwarding=1")
    lan, target = IPv6Address("2001:db8:2::2"), "[2001:db8:2::2]" if inwards else f"[{FRIEND}]"
    host.sh("nft add table ip6 theirs")
    host.sh("nft add chain ip6 theirs pre '{ type nat hook prerouting priority -100; }'")
    host.sh(f"nft add rule ip6 theirs pre udp dport {PORT} dnat to {target}")

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"hello", ("2001:db8:2::1", PORT))

    def passes() -> bool:
        with neighbor.call(lambda: capture("lan2")) as cable:
            if inwards:
                inject(tun, udp(FRIEND, ADDRESS, 4000, PORT))
                return any(lan.packed in frame and FRIEND.packed in frame for frame in captured(cable))
            neighbor.call(send)
            return any(lan.packed in packet for packet in read_packets(tun, 0.2))

    assert not passes()
    host.sh("nft delete chain inet f2ftun forward")
    assert passes(), "the control"


def test_own_programs_reach_own_address(host: Host, tun: int) -> None:
    with listener(host):
        host.call(lambda: socket.create_connection((str(ADDRESS), PORT), timeout=2).close())


def test_a_refused_script_changes_nothing(host: Host, tun: int) -> None:
    before = host.sh("nft list ruleset")
    broken = firewall.plan(INTERFACE, ADDRESS, []).replace("counter drop", "counter dorp", 1)
    with pytest.raises(firewall.NftRefused, match="nft refused"):
        apply_script(host, broken)
    assert host.sh("nft list ruleset") == before


def test_other_tables_are_let_be(host: Host) -> None:
    host.sh("nft add table inet mine")
    with contextlib.closing(bring_up(host)):
        remove_firewall(host)
        assert host.sh("nft list tables").split("\n") == ["table inet mine", ""]


def test_a_change_of_rules_has_no_gap(host: Host, neighbor: Host) -> None:
    """While rules are replaced 30 times, a neighbor that tries all the time never gets through."""
    neighbor.sh(f"ip -6 route replace {ADDRESS} via 2001:db8:2::1")
    with contextlib.closing(bring_up(host)), udp_socket(host) as sink:
        done = threading.Event()

        def hammer() -> None:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender:
                while not done.wait(0.0005):
                    sender.sendto(b"hello", (str(ADDRESS), PORT))

        attacker = threading.Thread(target=neighbor.call, args=(hammer,))
        attacker.start()
        for number in range(30):
            set_rules(host, Rule(FRIEND, "tcp", 1000 + number, 1000 + number))
        done.set()
        attacker.join()
        assert received(sink) is None


def test_four_thousand_friends(host: Host, tun: int) -> None:
    rules = [Rule(IPv6Address(FRIEND.packed[:14] + n.to_bytes(2, "big")), "tcp", 1, 80 + n) for n in range(4000)]
    set_rules(host, *rules, Rule(FRIEND, "tcp", PORT, PORT))
    with listener(host):
        assert len(answers(tun, tcp(FRIEND, ADDRESS, 4000, PORT, SYN))) == 1
        assert answers(tun, tcp(OTHER_FRIEND, ADDRESS, 4000, PORT, SYN)) == []
