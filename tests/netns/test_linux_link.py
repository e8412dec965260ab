"""The TUN and its address: what the kernel holds after `up`, and one sentence where it will not."""

import contextlib
import errno
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from f2ftun.errors import F2ftunError
from f2ftun.linux import link
from f2ftun.linux.interface import InterfaceGone
from f2ftun.linux.netlink import Netlink, NetworkNotPermitted
from f2ftun.linux.routing import apply_routing
from f2ftun.linux.tun import Tun, TunMissing, TunNotPermitted, open_tun
from f2ftun.linux.underlay import Address
from tests.netns.inside import ADDRESS, FRIEND, INTERFACE, Host, bring_up, join_hosts, new_host
from tests.netns.raw import read_packets

pytestmark = pytest.mark.netns
ROOT = Path(__file__).parents[2]


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host:
        yield host


@pytest.fixture
def tun(host: Host) -> Iterator[Tun]:
    with contextlib.closing(host.call(lambda: open_tun(INTERFACE))) as tun:
        yield tun


def configure(host: Host, address: IPv6Address = ADDRESS, mtu: int = 1400, txqueuelen: int = 500) -> None:
    async def work(nl: Netlink) -> None:
        await link.configure_link(nl, INTERFACE, address, mtu, txqueuelen=txqueuelen)

    host.run(work)


def addresses(host: Host) -> list[str]:
    lines = host.sh(f"ip -6 -o addr show dev {INTERFACE}").splitlines()
    return [" ".join(line.split()[3:]).split(" \\")[0] for line in lines]


def test_one_address_and_no_other(host: Host, tun: Tun) -> None:
    configure(host)
    assert addresses(host) == [f"{ADDRESS}/128 scope global nodad noprefixroute"]
    shown = host.sh(f"ip link show {INTERFACE}")
    assert "mtu 1400" in shown
    assert "qlen 500" in shown
    assert "LOWER_UP" in shown
    assert host.sh(f"ip -6 route show dev {INTERFACE} table main") == ""


@pytest.mark.parametrize("setting", ["forwarding=1", "accept_ra=2", "autoconf=1", "accept_redirects=1"])
def test_it_is_nobodys_router_nor_hosts_pupil(host: Host, setting: str) -> None:
    host.sh(f"sysctl -w net.ipv6.conf.all.{setting} net.ipv6.conf.default.{setting}")
    with contextlib.closing(host.call(lambda: open_tun(INTERFACE))):
        configure(host)
        name = setting.partition("=")[0]
        assert host.sh(f"sysctl -n net.ipv6.conf.{INTERFACE}.{name}") == "0\n"


def test_reload_changes_what_differs_and_no_more(host: Host, tun: Tun) -> None:
    configure(host)
    with subprocess.Popen(
        ["ip", "-n", host.name, "monitor", "link", "address"], stdout=subprocess.PIPE, text=True
    ) as watcher:
        assert watcher.stdout is not None
        os.set_blocking(watcher.stdout.fileno(), False)
        configure(host)
        host.sh("ip link set lo mtu 60000")
        seen = wait_for_line(watcher.stdout.fileno(), b"60000")
        watcher.kill()
    assert INTERFACE.encode() not in seen
    configure(host, mtu=1280, txqueuelen=1000)
    assert "mtu 1280" in host.sh(f"ip link show {INTERFACE}")
    assert "qlen 1000" in host.sh(f"ip link show {INTERFACE}")
    assert len(addresses(host)) == 1


def wait_for_line(fd: int, mark: bytes) -> bytes:
    seen = b""
    while mark not in seen:
        assert select.select([fd], [], [], 3)[0], seen
        seen += os.read(fd, 65536)
    return seen


def test_another_identity_replaces_the_address(host: Host, tun: Tun) -> None:
    configure(host)
    configure(host, FRIEND)
    assert addresses(host) == [f"{FRIEND}/128 scope global nodad noprefixroute"]


@pytest.mark.parametrize("mtu", [-1, 0, 1279, 65536])
def test_an_mtu_without_ipv6_is_refused(host: Host, tun: Tun, mtu: int) -> None:
    with pytest.raises(link.MtuRefused, match=f"{mtu} bytes"):
        configure(host, mtu=mtu)


def test_ipv6_disabled_elsewhere_is_no_matter(host: Host) -> None:
    host.sh("sysctl -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1")
    with contextlib.closing(bring_up(host)) as tun:
        host.sh(f"ping -6 -c1 -W1 {FRIEND}", check=False)
        assert any(FRIEND.packed in packet for packet in read_packets(tun.fileno(), 0.2))


def test_ipv6_disabled_for_good_is_a_sentence(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Under systemd's ProtectKernelTunables the setting can be neither read nor written here."""
    monkeypatch.setattr(link, "_PROC", tmp_path)
    host.sh("sysctl -w net.ipv6.conf.default.disable_ipv6=1")
    with (
        contextlib.closing(host.call(lambda: open_tun(INTERFACE))),
        pytest.raises(link.Ipv6Disabled, match="sysctl -w"),
    ):
        configure(host)


def test_sysctls_out_of_reach_are_no_matter(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(link, "_PROC", tmp_path)
    with contextlib.closing(bring_up(host)):
        assert len(addresses(host)) == 1


def test_the_tun_goes_with_its_descriptor(host: Host, tun: Tun) -> None:
    assert not os.get_inheritable(tun.fileno())
    tun.close()
    tun.close()
    assert INTERFACE not in host.sh("ip link")


def test_an_interface_that_another_program_removed_is_told(host: Host, tun: Tun) -> None:
    async def route(nl: Netlink) -> None:
        await apply_routing(nl, INTERFACE)

    host.sh(f"ip link del {INTERFACE}")
    with pytest.raises(InterfaceGone, match="f2f0 is gone"):
        configure(host)
    with pytest.raises(InterfaceGone, match="f2f0 is gone"):
        host.run(route)


UNPRIVILEGED = """
import asyncio
import pytun
from ipaddress import IPv6Address
from f2ftun.errors import F2ftunError
from f2ftun.linux import firewall, link, netlink, routing, tun

def told(function):
    try:
        function()
    except F2ftunError as error:
        print(error.code, error)

async def with_netlink(work):
    with netlink.Netlink() as nl:
        await work(nl)

address = IPv6Address("fc00::1")
told(lambda: tun.open_tun("f2f1"))
told(lambda: tun.open_tun("f2f0"))
try:
    pytun.TunTapDevice(name="f2f0", flags=pytun.IFF_TUN | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR)
except pytun.Error as error:
    print("errno", error.args[0])
told(lambda: asyncio.run(with_netlink(lambda nl: routing.apply_routing(nl, "f2f0"))))
told(lambda: asyncio.run(with_netlink(lambda nl: link.configure_link(nl, "f2f0", address, 1300))))
told(lambda: asyncio.run(with_netlink(lambda nl: routing.remove_routing(nl))))
told(lambda: asyncio.run(firewall.apply(firewall.plan("f2f0", address, []))))
told(lambda: asyncio.run(firewall.remove()))
"""


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all"]


def test_a_user_without_the_capability_gets_sentences_and_changes_nothing(host: Host) -> None:
    """G8: nobody can take the TUN over, nor add a route, nor change a rule."""
    if subprocess.run([*NOBODY, sys.executable, "-c", "import pytun"], cwd=ROOT, capture_output=True).returncode != 0:
        pytest.skip("this checkout lies where nobody may not read")
    with contextlib.closing(bring_up(host)):
        before = host.state()
        done = subprocess.run(
            ["ip", "netns", "exec", host.name, *NOBODY, sys.executable, "-c", UNPRIVILEGED],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.stderr == ""
        codes = [line.split()[0] for line in done.stdout.splitlines()]
        assert f"errno {errno.EPERM}" in done.stdout
        assert codes == [
            "tun_not_permitted",
            "tun_busy",
            "errno",
            *["network_not_permitted"] * 3,
            *["nft_not_permitted"] * 2,
        ]
        assert host.state() == before


def test_a_host_without_the_device_is_told_so(host: Host) -> None:
    attempt = "open_tun('f2f0')\nexcept Exception as error: print(error.code, error)"
    script = f"from f2ftun.linux.tun import open_tun\ntry: {attempt}"
    words = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs none /dev/net && exec "$0" "$@"',
        sys.executable,
        "-c",
        script,
    ]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith("tun_missing The kernel offers no TUN device"), done.stderr
    assert "modprobe tun" in done.stdout


def test_the_sentences_are_errors_of_ours() -> None:
    assert all(issubclass(kind, F2ftunError) for kind in (TunMissing, TunNotPermitted, NetworkNotPermitted))


def own_addresses(host: Host) -> list[Address]:
    return host.run(link.own_addresses)


def test_own_addresses_are_those_that_others_can_reach(host: Host) -> None:
    with new_host() as neighbor:
        join_hosts(host, neighbor, 2)
        host.sh("ip route add default via 192.0.2.2")
        add_interface(host, "other")
        for address in ("10.1.2.3/24", "fd00::5/64", "2a00:1450::9/64", "8.8.4.4/32", "169.254.3.3/16", "fc77::1/64"):
            host.sh(f"ip addr add {address} dev other")
        host.sh("ip -6 addr add 2a00:1450::a/64 dev other preferred_lft 0 nodad")
        host.sh("ip -6 addr add 2a00:1450::b/64 dev lo nodad")
        add_interface(host, "lan9")
        host.sh("ip link set lan9 down")
        host.sh("ip addr add 10.9.9.9/24 dev lan9")
        wait_for_duplicate_detection(host)
        with contextlib.closing(bring_up(host)):
            found = [str(address) for address in own_addresses(host)]
    assert found == ["2001:db8:2::1", "192.0.2.1", "2a00:1450::9", "8.8.4.4", "fd00::5", "10.1.2.3"]


def add_interface(host: Host, name: str, mtu: int = 1500) -> None:
    """Make an interface that is up, with a carrier."""
    host.sh(f"ip link add {name} mtu {mtu} type veth peer name {name}-far")
    host.sh(f"ip link set {name} up")
    host.sh(f"ip link set {name}-far up")


def wait_for_duplicate_detection(host: Host) -> None:
    for _ in range(60):
        if "tentative" not in host.sh("ip -6 addr"):
            return
        select.select([], [], [], 0.05)
    pytest.fail("an address stayed tentative")


def test_no_address_at_all(host: Host) -> None:
    assert own_addresses(host) == []
    assert host.run(link.underlay_mtu) == 1500


def test_the_underlays_mtu_is_the_smallest(host: Host) -> None:
    for name, mtu in (("lan5", 9000), ("lan6", 1492), ("lan7", 1300), ("lan8", 1290)):
        add_interface(host, name, mtu)
    host.sh("ip addr add 10.0.0.1/24 dev lan5")
    host.sh("ip -6 addr add 2001:db8:5::1/64 dev lan6")
    host.sh("ip addr add 10.3.3.3/24 dev lan8")
    host.sh("ip link set lan8 down")
    wait_for_duplicate_detection(host)
    with contextlib.closing(bring_up(host, mtu=1280)):
        assert host.run(link.underlay_mtu) == 1492
