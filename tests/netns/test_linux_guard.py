"""What another program takes away is named at once, can be put back, and what the daemon does itself is not told."""

import asyncio

import pytest
import uvloop

from f2ftun.linux import firewall, link, routing
from f2ftun.linux.firewall import Rule
from f2ftun.linux.guard import Guard
from f2ftun.linux.netlink import Netlink
from tests.netns.inside import ADDRESS, INTERFACE, Host, bring_up, new_host

pytestmark = pytest.mark.netns
QUIET_S = 0.4


def guarded(host: Host, *commands: str) -> list[str] | None:
    """Let another program run commands; return what the guard says is gone, having put it back."""

    async def work(nl: Netlink) -> list[str] | None:
        async with Guard(nl, INTERFACE, ADDRESS) as guard:
            for command in commands:
                await asyncio.to_thread(host.sh, command)
            gaps = await next_within(guard)
            if gaps is not None:
                await put_back(nl)
                assert await next_within(guard) is None, "what is put back is not told"
            return gaps

    return host.run(work, loop=uvloop.new_event_loop)


async def next_within(guard: Guard) -> list[str] | None:
    try:
        return await asyncio.wait_for(anext(guard), QUIET_S)
    except TimeoutError:
        return None


async def put_back(nl: Netlink) -> None:
    await firewall.apply(firewall.plan(INTERFACE, ADDRESS, [Rule(None, "tcp", 22, 22)]))
    await link.configure_link(nl, INTERFACE, ADDRESS, 1400)
    await routing.apply_routing(nl, INTERFACE)


def test_what_is_taken_is_told_and_can_be_put_back() -> None:
    with new_host() as host:
        tun = bring_up(host, [Rule(None, "tcp", 22, 22)])
        whole = host.state()
        for command, gaps in {
            "nft flush ruleset": ["the firewall table"],
            "nft delete table inet f2ftun": ["the firewall table"],
            "ip -6 rule del pref 100": ["the rule"],
            "ip -6 route flush table 4242": ["the route", "the unreachable route"],
            f"ip link set {INTERFACE} down": ["the route", "the address"],
            f"ip -6 addr flush dev {INTERFACE}": ["the address"],
        }.items():
            assert guarded(host, command) == gaps, command
            assert host.state() == whole, command
        tun.close()


HARMLESS = ("nft add table inet theirs", "ip -6 rule add pref 500 lookup main", "ip link set lo mtu 9000")


@pytest.mark.parametrize("command", HARMLESS)
def test_what_takes_nothing_is_not_told(command: str) -> None:
    with new_host() as host:
        tun = bring_up(host)
        assert guarded(host, command) is None
        tun.close()


def test_new_rules_of_our_own_are_not_told() -> None:
    async def work(nl: Netlink) -> None:
        async with Guard(nl, INTERFACE, ADDRESS) as guard:
            for port in range(5):
                await firewall.apply(firewall.plan(INTERFACE, ADDRESS, [Rule(None, "tcp", 80, 80 + port)]))
            assert await next_within(guard) is None

    with new_host() as host:
        tun = bring_up(host)
        host.run(work, loop=uvloop.new_event_loop)
        tun.close()
