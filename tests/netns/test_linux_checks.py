"""`doctor` finds what was put in its way, says what to do, and is silent where all is well."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from f2ftun.linux import checks, firewall
from f2ftun.linux.checks import Finding, Severity
from f2ftun.linux.netlink import Netlink
from tests.netns.inside import INTERFACE, Host, bring_up, join_hosts, new_host

pytestmark = pytest.mark.netns
LISTEN = "[::]:4242"


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host, new_host() as neighbor:
        join_hosts(host, neighbor, 2)
        yield host


@pytest.fixture
def state(tmp_path: Path) -> Path:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    (folder / "key").touch(mode=0o600)
    return folder


def examine(host: Host, state: Path, *, listen: str = LISTEN, running: bool = False) -> list[Finding]:
    async def work(nl: Netlink) -> list[Finding]:
        return await checks.examine(nl, checks.Host(INTERFACE, listen, state, running))

    return host.run(work)


def only(found: list[Finding]) -> Finding:
    [finding] = found
    assert all(text.endswith((".", ")", ".d.")) or "`" in text for text in (finding.what, finding.why, finding.cure))
    return finding


def test_all_is_well_before_and_after_up(host: Host, state: Path) -> None:
    assert examine(host, state) == []
    with contextlib.closing(bring_up(host)):
        assert examine(host, state, running=True) == []


def test_a_state_that_others_may_read(host: Host, state: Path) -> None:
    (state / "key").chmod(0o640)
    finding = only(examine(host, state))
    assert finding.severity is Severity.ERROR
    assert f"chmod 0600 {state / 'key'}" in finding.cure


@pytest.mark.parametrize(
    ("listen", "what", "cure"),
    [
        ("[::]:5353", "Address already in use", "ss -lunp"),
        ("192.0.2.99:4242", "Cannot assign requested address", "address of this host"),
        ("192.0.2.1:99999", "port must be 0-65535", "Correct `listen`"),
        ("nonsense", "invalid literal", "Correct `listen`"),
    ],
)
def test_a_port_that_cannot_be_had(host: Host, state: Path, listen: str, what: str, cure: str) -> None:
    def occupy() -> socket.socket:
        taken = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        taken.bind(("::", 5353))
        return taken

    with host.call(occupy):
        finding = only(examine(host, state, listen=listen))
    assert what in finding.what
    assert cure in finding.cure


@pytest.mark.parametrize(("rule", "found"), [("", 1), ("to fc12::/16", 1), ("to fd00::/8", 0), ("to 2000::/3", 0)])
def test_a_rule_before_ours(host: Host, state: Path, rule: str, found: int) -> None:
    host.sh(f"ip -6 rule add pref 50 {rule} lookup main")
    findings = examine(host, state)
    assert [("pref 50" in finding.what) for finding in findings] == [True] * found


def test_an_overlay_address_on_the_lan(host: Host, state: Path) -> None:
    host.sh("ip -6 addr add fc12::5/64 dev lan2 nodad")
    assert "lan2 has the address fc12::5" in only(examine(host, state)).what


def test_cjdns(host: Host, state: Path) -> None:
    host.sh("ip tuntap add tun0 mode tun")
    host.sh("ip -6 addr add fc11:2233::1/8 dev tun0")
    finding = only(examine(host, state))
    assert (finding.severity, "cjdns" in finding.what) == (Severity.ERROR, True)


def test_another_node(host: Host, state: Path) -> None:
    host.sh("ip link set lo up")
    with contextlib.closing(bring_up(host)):

        async def work(nl: Netlink) -> list[Finding]:
            return await checks.examine(nl, checks.Host("f2f1", LISTEN, state, running=False))

        assert "Another f2ftun node" in only(host.run(work)).what


def test_a_killed_node(host: Host, state: Path) -> None:
    bring_up(host).close()
    finding = only(examine(host, state))
    assert finding.severity is Severity.NOTE
    assert "f2ftun down" in finding.cure


def test_rules_flushed_by_another_program(host: Host, state: Path) -> None:
    with contextlib.closing(bring_up(host)):
        host.sh("nft flush ruleset")
        finding = only(examine(host, state, running=True))
        assert "inet f2ftun is gone" in finding.what


@pytest.mark.parametrize(
    "command", ["ip -6 route flush table 4242", "ip -6 rule del pref 100", f"ip link set {INTERFACE} down"]
)
def test_routes_removed_by_another_program(host: Host, state: Path, command: str) -> None:
    with contextlib.closing(bring_up(host)):
        host.sh(command)
        finding = only(examine(host, state, running=True))
        assert "gone" in finding.what
        assert finding.severity is Severity.ERROR


def test_another_firewall_that_drops(host: Host, state: Path) -> None:
    host.sh("nft add table inet theirs")
    host.sh("nft add chain inet theirs input '{ type filter hook input priority 0; policy drop; }'")
    finding = only(examine(host, state))
    assert finding.severity is Severity.NOTE
    assert "nft list chain inet theirs input" in finding.cure


def test_no_network(state: Path) -> None:
    with new_host() as alone:
        assert "No interface is up" in only(examine(alone, state)).what
        alone.sh("ip link set lo down")
        assert len(examine(alone, state)) == 2


def test_a_narrow_network(host: Host, state: Path) -> None:
    host.sh("ip link set lan2 mtu 1300")
    assert "1300 bytes" in only(examine(host, state)).what


def test_ipv6_disabled_on_the_loopback(host: Host, state: Path) -> None:
    host.sh("sysctl -w net.ipv6.conf.lo.disable_ipv6=1")
    assert "loopback" in only(examine(host, state)).what


def test_nft_missing(host: Host, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "PATH", "/nonexistent")
    finding = only(examine(host, state))
    assert "apt install nftables" in finding.what
    with pytest.raises(firewall.NftMissing):
        asyncio.run(firewall.apply("list tables\n"))


def test_a_clock_that_was_never_set(host: Host, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "RELEASED_AT", 2**40)
    assert "The clock shows" in only(examine(host, state)).what


def test_old_kernels(host: Host, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "USO_KERNEL", (99, 0))
    monkeypatch.setattr(checks, "PRIORITY_KERNEL", (99, 1))
    assert [finding.severity for finding in examine(host, state)] == [Severity.NOTE] * 2


def test_no_tun_device(host: Host, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "DEVICE", "/nonexistent")
    assert "modprobe tun" in only(examine(host, state)).cure


def test_the_worst_comes_first(host: Host, state: Path) -> None:
    host.sh("ip link set lan2 mtu 1300")
    host.sh("ip -6 addr add fc12::5/64 dev lan2 nodad")
    (state / "key").chmod(0o644)
    assert [finding.severity for finding in examine(host, state)] == list(Severity)
