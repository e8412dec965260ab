"""A rogue router, a dead daemon, a second owner: overlay packets go to the TUN or nowhere (security.md A9, L)."""

import contextlib
import random
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from f2ftun.linux import residue, routing
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.tun import TunBusy, open_tun
from tests.netns.inside import ADDRESS, INTERFACE, Host, bring_down, bring_up, join_hosts, new_host
from tests.netns.raw import ICMPV6, ROUTER_ADVERTISEMENT, capture, captured, icmp, overlay_frames

pytestmark = pytest.mark.netns
ROOT = Path(__file__).parents[2]
ALL_NODES = IPv6Address("ff02::1")


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host:
        yield host


@pytest.fixture
def neighbor(host: Host) -> Iterator[Host]:
    with new_host() as neighbor:
        join_hosts(host, neighbor, 2)
        yield neighbor


def overlay_addresses(count: int) -> list[IPv6Address]:
    drawn = random.Random(1)
    return [IPv6Address(b"\xfc" + drawn.randbytes(15)) for _ in range(count)]


def route_options(host: Host, count: int = 100) -> set[str]:
    """Where the kernel would send packets to addresses of the overlay: `dev X`, or `unreachable`."""
    ways = set()
    for address in overlay_addresses(count):
        words = ["ip", "-n", host.name, "-6", "route", "get", str(address)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        dev = done.stdout.split(" dev ")
        ways.add(f"dev {dev[1].split()[0]}" if done.returncode == 0 else done.stderr.strip())
    return ways


def advertise_overlay(router: Host) -> None:
    """Send the router advertisement of A9: an address in fc12:3456::/64, and routes to fc00::/9 and /32."""

    def send() -> None:
        source = IPv6Address("fe80::bad")
        prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + IPv6Address("fc12:3456::").packed
        wide = struct.pack("!BBBBI", 24, 2, 9, 0x08, 1800) + IPv6Address("fc00::").packed[:8]
        narrow = struct.pack("!BBBBI", 24, 2, 32, 0x08, 1800) + IPv6Address("fcfe:dcba::").packed[:8]
        body = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + prefix + wide + narrow
        packet = icmp(source, ALL_NODES, ROUTER_ADVERTISEMENT, body, hops=255)
        assert packet[6] == ICMPV6
        frame = bytes.fromhex("333300000001") + bytes.fromhex("020000000bad") + b"\x86\xdd" + packet
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as cable:
            cable.bind(("lan2", 0))
            cable.send(frame)

    router.call(send)


def wait_for_rogue_route(host: Host) -> None:
    """Wait until the kernel has believed the advertisement; fail if it never does, for then nothing is tested."""
    for _ in range(50):
        if "fc00::/9" in host.sh("ip -6 route show table main"):
            return
        select.select([], [], [], 0.05)
    pytest.fail(f"the rogue advertisement was not taken: {host.sh('ip -6 route show table main')}")


def poke_overlay(host: Host) -> None:
    """Send to addresses of the overlay, from any address and from our own."""

    def send() -> None:
        for address in overlay_addresses(20):
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp, contextlib.suppress(OSError):
                udp.sendto(b"marker", (str(address), 9))

    host.call(send)


def test_a_rogue_router_advertisement_takes_nothing(host: Host, neighbor: Host) -> None:
    for name in ("accept_ra=2", "accept_ra_rt_info_max_plen=128"):
        host.sh(f"sysctl -w net.ipv6.conf.lan2.{name}")
    advertise_overlay(neighbor)
    wait_for_rogue_route(host)
    assert route_options(host, 5) == {"dev lan2"}, "the control: without a node, the rogue router gets it all"
    tun = bring_up(host)
    advertise_overlay(neighbor)
    assert route_options(host) == {f"dev {INTERFACE}"}
    with neighbor.call(lambda: capture("lan2")) as cable:
        poke_overlay(host)
        assert overlay_frames(captured(cable)) == []
        tun.close()
        assert route_options(host) == {"RTNETLINK answers: No route to host"}
        poke_overlay(host)
        assert overlay_frames(captured(cable)) == []


def test_the_cable_sees_overlay_packets_without_a_node(host: Host, neighbor: Host) -> None:
    host.sh("ip -6 route add fc00::/8 via 2001:db8:2::2")
    with neighbor.call(lambda: capture("lan2")) as cable:
        poke_overlay(host)
        assert len(overlay_frames(captured(cable))) == 20


def test_nothing_outlives_down(host: Host) -> None:
    before = host.state()
    tun = bring_up(host)
    assert host.state() != before
    bring_down(host, tun)
    assert host.state() == before


def test_up_twice_changes_nothing(host: Host) -> None:
    with contextlib.closing(bring_up(host)):
        once = host.state()

        async def again(nl: Netlink) -> None:
            await routing.apply_routing(nl, INTERFACE)

        host.run(again)
        assert host.state() == once


def test_up_puts_right_what_others_changed(host: Host) -> None:
    with contextlib.closing(bring_up(host)):
        wanted = host.state()
        host.sh("ip -6 rule del pref 100")
        host.sh("ip -6 route flush table 4242")

        async def again(nl: Netlink) -> None:
            await routing.apply_routing(nl, INTERFACE)

        host.run(again)
        assert host.state() == wanted


def test_a_killed_process_fails_closed_and_is_swept(host: Host) -> None:
    before = host.state()
    script = (
        "from tests.netns.inside import Host, bring_up\n"
        "import sys, time\n"
        "class Here(Host):\n"
        "    def __init__(self): pass\n"
        "    def call(self, function): return function()\n"
        "tun = bring_up(Here()); print('up', flush=True); sys.stdin.read()\n"
    )
    words = ["ip", "netns", "exec", host.name, sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "up\n"
        assert sweep(host) == [], "a live node's own is left alone"
        assert route_options(host, 3) == {f"dev {INTERFACE}"}
        daemon.kill()
    assert route_options(host) == {"RTNETLINK answers: No route to host"}
    assert "table inet f2ftun" in host.sh("nft list ruleset")
    tun = bring_up(host)
    assert route_options(host, 3) == {f"dev {INTERFACE}"}
    tun.close()
    assert len(sweep(host)) == 3
    assert host.state() == before
    assert sweep(host) == []


def sweep(host: Host) -> list[str]:
    async def work(nl: Netlink) -> list[str]:
        return await residue.sweep(nl, INTERFACE)

    return host.run(work)


def detect(host: Host, interface: str) -> None:
    async def work(nl: Netlink) -> None:
        await routing.detect_cjdns(nl, interface)

    host.run(work)


def test_a_second_node_is_refused(host: Host) -> None:
    with contextlib.closing(bring_up(host)):
        detect(host, INTERFACE)
        with pytest.raises(routing.SecondNode, match=INTERFACE):
            detect(host, "f2f1")
        with pytest.raises(TunBusy, match="exists already"):
            host.call(lambda: open_tun(INTERFACE))


def test_cjdns_is_refused(host: Host) -> None:
    host.sh("ip tuntap add tun0 mode tun")
    host.sh("ip link set tun0 up")
    detect(host, INTERFACE)
    host.sh("ip -6 addr add fc11:2233::1/8 dev tun0")
    with pytest.raises(routing.CjdnsPresent, match="tun0 has the address fc11:2233::1"):
        detect(host, INTERFACE)


def test_an_advertised_overlay_address_does_not_stop_a_node(host: Host, neighbor: Host) -> None:
    host.sh("ip -6 addr add fc12:3456::5/64 dev lan2 nodad")
    bring_up(host).close()


def test_packets_to_friends_carry_our_address(host: Host, neighbor: Host) -> None:
    host.sh("ip -6 addr add 2001:db8::5/128 dev lo")
    host.sh("ip -6 addr add fc99::5/64 dev lan2 nodad")
    with contextlib.closing(bring_up(host)):
        assert f"src {ADDRESS}" in host.sh("ip -6 route get fc99::1")
