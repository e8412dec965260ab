"""Send fc00::/8 to the TUN, and nowhere else when the TUN is gone.

A rule before all others sends the prefix to a table of its own: there it goes to the TUN, and beneath lies
`unreachable`, which stays when a killed daemon's TUN takes its route along. A router advertisement writes to the main
table, which is never asked. Source: security.md §3.12.
"""

import errno
import socket
from ipaddress import IPv6Address
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from f2ftun.errors import F2ftunError
from f2ftun.linux.interface import index_of
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.underlay import OVERLAY

TABLE = 4242
RULE_PREF = 100
UNREACHABLE_METRIC = 4096
TUN_METRIC = 1024
"""The kernel's default for IPv6, written out because a lookup compares it."""
ARPHRD_NONE = 65534
"""The link type of a TUN. Source: linux/if_arp.h."""
_RTN_UNICAST, _RTN_UNREACHABLE = 1, 7


class CjdnsPresent(F2ftunError):
    """A cjdns runs here: its interface {interface} has the address {address}, so fc00::/8 is taken.

    Stop it (`systemctl stop cjdns`); two cannot share these addresses on one host.
    """


class SecondNode(F2ftunError):
    """Another f2ftun node runs on this host and owns fc00::/8 through {interface}.

    Stop it with its own config and `down`, or give this node a network namespace of its own.
    """


async def detect_cjdns(nl: Netlink, interface: str) -> None:
    """Raise `CjdnsPresent` or `SecondNode` where another TUN than `interface` owns fc00::/8.

    An overlay address on an interface that is no TUN is let be: a router advertisement may have put it there.
    """
    await nl.run(look_for_other_owners, interface)


async def apply_routing(nl: Netlink, interface: str) -> None:
    """Make the rule, the unreachable route and then the route to the TUN; put right what differs."""
    await nl.run(set_routes, interface)


async def remove_routing(nl: Netlink) -> list[str]:
    """Remove rule and table; return what there was, in words."""
    return await nl.run(remove_routes)


def look_for_other_owners(ip: IPRoute, interface: str) -> None:
    """Do it on the socket."""
    ours = look_for_tun(ip)
    for index, name in _other_tuns(ip, interface).items():
        address = _overlay_address(ip, index)
        if index == ours:
            raise SecondNode(interface=name)
        if address is not None:
            raise CjdnsPresent(interface=name, address=address)


def set_routes(ip: IPRoute, interface: str) -> None:
    """Do it on the socket: from the fail-safe up, so that no packet finds a gap."""
    index = index_of(ip, interface)
    ip.route("replace", **_OVERLAY_ROUTE, type="unreachable", priority=UNREACHABLE_METRIC)
    _add(ip.rule, **_RULE)
    ip.route("replace", **_OVERLAY_ROUTE, oif=index, priority=TUN_METRIC)


def remove_routes(ip: IPRoute) -> list[str]:
    """Do it on the socket: the rule last, so that the prefix stays ours until the table is empty."""
    found = []
    for message in ip.get_routes(family=socket.AF_INET6, table=TABLE):
        _delete_route(ip, message)
        found.append(f"a route of table {TABLE}")
    while _delete(ip.rule, **_RULE):
        found.append(f"the rule {RULE_PREF} to {OVERLAY}")
    return found


def look_for_gaps(ip: IPRoute, interface: str) -> list[str]:
    """Return what is not there of the rule, the route to the interface and the route beneath, in words."""
    routes = {(m["type"], m.get("oif")) for m in ip.get_routes(family=socket.AF_INET6, table=TABLE)}
    index = next(iter(ip.link_lookup(ifname=interface)), None)
    gaps = {
        "the rule": not any(_is_ours(message) for message in ip.get_rules(family=socket.AF_INET6)),
        "the route": (_RTN_UNICAST, index) not in routes,
        "the unreachable route": _RTN_UNREACHABLE not in {kind for kind, _ in routes},
    }
    return [name for name, missing in gaps.items() if missing]


def _is_ours(rule: Any) -> bool:
    found = (rule.get_attr("FRA_PRIORITY"), rule.get_attr("FRA_TABLE"), rule.get_attr("FRA_DST"), rule["dst_len"])
    return bool(found == (RULE_PREF, TABLE, str(OVERLAY.network_address), OVERLAY.prefixlen))


_OVERLAY_ROUTE: dict[str, Any] = {"family": socket.AF_INET6, "dst": str(OVERLAY), "table": TABLE}
_RULE: dict[str, Any] = {"family": socket.AF_INET6, "dst": str(OVERLAY), "table": TABLE, "priority": RULE_PREF}


def _add(verb: Any, **what: Any) -> None:
    try:
        verb("add", **what)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def _delete(verb: Any, **what: Any) -> bool:
    try:
        verb("del", **what)
    except NetlinkError as error:
        if error.code in {errno.ENOENT, errno.ESRCH}:
            return False
        raise
    return True


def _delete_route(ip: IPRoute, message: Any) -> None:
    kind = {"type": "unreachable"} if message["type"] == _RTN_UNREACHABLE else {"oif": message.get("oif")}
    destination = f"{message.get('dst') or '::'}/{message['dst_len']}"
    _delete(ip.route, family=socket.AF_INET6, dst=destination, table=TABLE, priority=message.get("priority"), **kind)


def look_for_tun(ip: IPRoute) -> int | None:
    """Return the index of the interface to which the overlay goes, or `None` where no live TUN has it."""
    routes = ip.get_routes(family=socket.AF_INET6, table=TABLE)
    return next((message.get("oif") for message in routes if message["type"] == _RTN_UNICAST), None)


def _other_tuns(ip: IPRoute, interface: str) -> dict[int, str]:
    links = ((link["index"], link.get("ifname"), link["ifi_type"]) for link in ip.get_links())
    return {index: name for index, name, kind in links if kind == ARPHRD_NONE and name != interface}


def _overlay_address(ip: IPRoute, index: int) -> str | None:
    present = (IPv6Address(m.get("address")) for m in ip.get_addr(family=socket.AF_INET6, index=index))
    return next((str(address) for address in present if address in OVERLAY), None)
