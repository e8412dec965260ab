"""The monitor under the daemon's own event loop: a change is told once, and what is none is not."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from f2ftun.linux.monitor import Monitor
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.underlay import Underlay
from tests.netns.inside import Host, bring_up, join_hosts, new_host

pytestmark = pytest.mark.netns
QUIET_S = 0.35
"""Nothing is told within this time: thrice the debounce and more."""


@pytest.fixture
def host() -> Iterator[Host]:
    with new_host() as host, new_host() as neighbor:
        join_hosts(host, neighbor, 2)
        host.sh("ip route add default via 192.0.2.2")
        host.sh("ip -6 addr flush dev lan2 scope link")  # its duplicate detection would be a change of its own
        yield host


def watch(host: Host, *changes: str, wait_s: float = QUIET_S) -> list[Underlay]:
    """Make changes (each a command, all one after the other at once); return what the monitor tells within a while."""

    async def next_within(monitor: Monitor, wait_s: float) -> Underlay | None:
        try:
            return await asyncio.wait_for(anext(monitor), wait_s)
        except TimeoutError:
            return None

    async def work(nl: Netlink) -> list[Underlay]:
        told: list[Underlay] = []
        async with Monitor(nl) as monitor:
            for change in changes:
                await asyncio.to_thread(host.sh, change)
            while (underlay := await next_within(monitor, wait_s)) is not None:
                told.append(underlay)
        return told

    return host.run(work, loop=uvloop.new_event_loop)


@pytest.mark.parametrize(
    "change",
    [
        "ip addr add 192.0.2.77/24 dev lan2",
        "ip -6 addr add 2001:db8:2::77/64 dev lan2 nodad",
        "ip addr del 192.0.2.1/24 dev lan2",
        "ip route replace default via 192.0.2.3",
        "ip route del default",
        "ip -6 route add default via 2001:db8:2::2",
        "ip link set lan2 down",
        "ip link del lan2",
        "ip link set lan2 mtu 1300",
    ],
)
def test_a_change_is_told_once(host: Host, change: str) -> None:
    assert len(watch(host, change)) == 1


@pytest.mark.parametrize(
    "change",
    [
        "ip addr change 192.0.2.1/24 dev lan2 valid_lft 1000 preferred_lft 500",
        "ip -6 addr change 2001:db8:2::1/64 dev lan2 valid_lft 1000 preferred_lft 500 nodad",
        "ip addr add 127.0.0.9/8 dev lo",
        "ip link add idle type veth peer name idle2",
        "ip link set lan2 alias x",
        "ip -6 neigh add 2001:db8:2::9 lladdr 02:00:00:00:00:09 dev lan2",
        "ip -6 route add unreachable fc00::/8 table 4242",
    ],
)
def test_what_changes_nothing_is_not_told(host: Host, change: str) -> None:
    assert watch(host, change) == []


def test_a_cable_pulled_and_put_back_is_told(host: Host) -> None:
    """The same address on another network: the snapshots are equal, but the path may be another."""
    assert len(watch(host, "ip link set lan2 down", "ip link set lan2 up", "ip route add default via 192.0.2.2")) >= 1
    assert len(watch(host, "ip addr del 192.0.2.1/24 dev lan2", "ip addr add 192.0.2.1/24 dev lan2")) >= 1


def test_our_own_tun_is_not_told(host: Host) -> None:
    async def work(nl: Netlink) -> None:
        async with Monitor(nl) as monitor:
            tun = await asyncio.to_thread(bring_up, host)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(monitor), QUIET_S)
            tun.close()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(monitor), QUIET_S)

    host.run(work, loop=uvloop.new_event_loop)


def test_a_storm_of_changes_is_told_a_few_times(host: Host, tmp_path: Path) -> None:
    batch = tmp_path / "batch"
    lines = [f"addr add 10.0.{n // 200}.{n % 200 + 1}/32 dev lan2" for n in range(2000)]
    batch.write_text("\n".join(lines) + "\n")
    told = watch(host, f"ip -batch {batch}", wait_s=1.5)
    assert 1 <= len(told) <= 5
    assert len(told[-1].addresses) == 2002


def test_it_is_told_soon(host: Host) -> None:
    async def work(nl: Netlink) -> float:
        async with Monitor(nl) as monitor:
            await asyncio.to_thread(host.sh, "ip addr add 192.0.2.77/24 dev lan2")
            start = time.monotonic()
            await asyncio.wait_for(anext(monitor), 2)
            return time.monotonic() - start

    assert host.run(work, loop=uvloop.new_event_loop) < 0.5


def test_leaving_it_while_it_waits(host: Host) -> None:
    async def work(nl: Netlink) -> None:
        async with Monitor(nl) as monitor:
            waiting = asyncio.ensure_future(anext(monitor))
            await asyncio.sleep(0)
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await waiting

    host.run(work, loop=uvloop.new_event_loop)
