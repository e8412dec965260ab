"""What a running node changes on its host, in the order in which it is safe, and puts back.

Up: nobody else owns fc00::/8; the TUN is made; the firewall stands before the link has an address; then the routes.
Down: the reverse. A killed node leaves rule, `unreachable` and firewall in place, which keep the overlay shut until
the next `up` or `down`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from f2ftun.core.friend import Friend
from f2ftun.core.rule import ALL, Protocol, Rule
from f2ftun.errors import F2ftunError
from f2ftun.linux import firewall
from f2ftun.linux.guard import Guard
from f2ftun.linux.link import configure_link, own_addresses, underlay_mtu
from f2ftun.linux.monitor import Monitor
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.residue import sweep
from f2ftun.linux.routing import apply_routing, detect_cjdns, remove_routing
from f2ftun.linux.tun import Tun, open_tun

OVERHEAD_BYTES: Final = 100
"""What the underlay's MTU has more than the TUN's: 40 + 8 outer, 13 + 16 of the datagram, padding, less the 32 that
header elision saves; the rest is for circuits. 1400 over 1500. Source: docs/protocol.md §4, §5.1.
"""

MIN_MTU_BYTES: Final = 1280
"""Source: RFC 8200 §5."""

MAX_MTU_BYTES: Final = 9000
"""As the config allows."""

log = logging.getLogger(__name__)


class Host:
    """The kernel's side of one node."""

    def __init__(self, interface: str, address: IPv6Address) -> None:
        self.interface = interface
        self.mtu = 0
        self.underlay_mtu = 0
        self._address = address
        self._netlink: Netlink | None = None
        self._tun: Tun | None = None

    @property
    def netlink(self) -> Netlink:
        """The netlink thread, from `open` to `close`."""
        assert self._netlink is not None, "the host is not open"
        return self._netlink

    async def open(self, mtu: int | None, rules: Iterable[firewall.Rule]) -> int:
        """Make the TUN and everything around it; give its descriptor. Raises errors of `linux/`, with nothing left."""
        self._netlink = Netlink()
        try:
            return await self._open(mtu, rules)
        except BaseException:
            await self.close()
            raise

    async def _open(self, mtu: int | None, rules: Iterable[firewall.Rule]) -> int:
        """Do it."""
        await detect_cjdns(self.netlink, self.interface)
        self.underlay_mtu = await underlay_mtu(self.netlink)
        self.mtu = mtu or overlay_mtu(self.underlay_mtu)
        self._tun = open_tun(self.interface)
        await self.apply(rules)
        return self._tun.fileno()

    async def apply(self, rules: Iterable[firewall.Rule]) -> None:
        """Make firewall, link and routes what they should be, whatever they are."""
        await self.apply_rules(rules)
        await configure_link(self.netlink, self.interface, self._address, self.mtu)
        await apply_routing(self.netlink, self.interface)

    async def apply_rules(self, rules: Iterable[firewall.Rule]) -> None:
        """Make the firewall what it should be."""
        await firewall.apply(firewall.plan(self.interface, self._address, list(rules)))

    async def addresses(self) -> list[IPv4Address | IPv6Address]:
        """Give the addresses at which others may reach this host, best first."""
        return await own_addresses(self.netlink)

    def monitor(self) -> Monitor:
        """Watch the underlay."""
        return Monitor(self.netlink)

    def guard(self) -> Guard:
        """Watch over what `apply` has made."""
        return Guard(self.netlink, self.interface, self._address)

    async def close(self, *, keep_shut: bool = False) -> None:
        """Put everything back; what cannot be put back is logged and does not keep the rest from it.

        `keep_shut` leaves the walls, as a killed node does. Without a TUN of ours nothing is ours: rule and firewall
        may be another node's.
        """
        if self._netlink is None:
            return
        if self._tun is not None and not keep_shut:
            with _logged("the routes"):
                await remove_routing(self._netlink)
        if self._tun is not None:
            self._tun.close()
        if self._tun is not None and not keep_shut:
            with _logged("the firewall"):
                await firewall.remove()
        self._netlink.close()
        self._netlink = None


def overlay_mtu(underlay_mtu: int) -> int:
    """Give the TUN's MTU over an underlay's, bytes."""
    return min(max(underlay_mtu - OVERHEAD_BYTES, MIN_MTU_BYTES), MAX_MTU_BYTES)


@contextlib.contextmanager
def _logged(what: str) -> Iterator[None]:
    """Log a failure instead of raising it."""
    try:
        yield
    except (F2ftunError, OSError) as error:
        log.error("%s could not be removed: %s", what, error)


def kernel_rules(rules: Iterable[Rule], friends: Iterable[Friend]) -> list[firewall.Rule]:
    """Write rules about names as rules about addresses."""
    addresses = {friend.name: friend.address for friend in friends}
    return [
        firewall.Rule(
            None if rule.who == ALL else addresses[rule.who],
            "tcp" if rule.protocol is Protocol.TCP else "udp",
            rule.first,
            rule.last,
        )
        for rule in rules
        if rule.who == ALL or rule.who in addresses
    ]


async def sweep_residue(interface: str) -> list[str]:
    """Remove what a killed node left; say what that was."""
    with Netlink() as netlink:
        return await sweep(netlink, interface)


async def host_addresses() -> list[IPv4Address | IPv6Address]:
    """Give the addresses at which others may reach this host, best first, without a running node."""
    with Netlink() as netlink:
        return await own_addresses(netlink)
