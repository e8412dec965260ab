"""Give the TUN its address, its MTU and the manners of an interface that is nobody's router.

The address is a /128 without prefix route (the routes are `routing`'s) and without duplicate detection (it is a hash of
a key); the kernel's own link-local address is not wanted, because a friend is no neighbour.
"""

import errno
import socket
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from f2ftun.errors import F2ftunError
from f2ftun.linux.interface import check_interface, index_of
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.underlay import IFF_UP, OVERLAY, own_addresses, underlay_mtu

__all__ = ["configure_link", "own_addresses", "underlay_mtu"]

MIN_MTU_BYTES = 1280
"""Below it the kernel takes IPv6 off the interface. Source: RFC 8200 §5."""
MAX_MTU_BYTES = 65535
ADDRESS_BITS = 128
TXQUEUELEN_PACKETS = 500
"""The kernel's own default for a TUN. Source: drivers/net/tun.c, TUN_READQ_SIZE."""

IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
"""Source: linux/if_addr.h."""
_ADDR_GEN_MODE_NONE = 1
_SYSCTLS = {"disable_ipv6": "0", "accept_ra": "0", "accept_redirects": "0", "autoconf": "0", "forwarding": "0"}
_PROC = Path("/proc/sys/net/ipv6/conf")


class Ipv6Missing(F2ftunError):
    """The kernel runs without IPv6, on which f2ftun stands.

    Remove `ipv6.disable=1` from its command line and reboot.
    """


class Ipv6Disabled(F2ftunError):
    """IPv6 is disabled on this host for new interfaces.

    Run `sysctl -w net.ipv6.conf.default.disable_ipv6=0` and remove the line that sets it in /etc/sysctl.d.
    """


class MtuRefused(F2ftunError):
    """An MTU of {mtu} bytes cannot carry IPv6 over {interface}; it must be 1280 to 65535."""


async def configure_link(
    nl: Netlink, interface: str, address: IPv6Address, mtu: int, *, txqueuelen: int = TXQUEUELEN_PACKETS
) -> None:
    """Bring the interface up with this one address; change only what differs, so that flows go on.

    `mtu` in bytes, 1280 to 65535; `txqueuelen` in packets (superpackets count as one). Raises `Ipv6Missing`,
    `Ipv6Disabled`, `MtuRefused`, `NetworkRefused`.
    """
    if not MIN_MTU_BYTES <= mtu <= MAX_MTU_BYTES:
        raise MtuRefused(mtu=mtu, interface=interface)
    await nl.run(configure_interface, check_interface(interface), address, mtu, txqueuelen)


def configure_interface(ip: IPRoute, interface: str, address: IPv6Address, mtu: int, txqueuelen: int) -> None:
    """Do it on the socket; the name is that of the action in an error."""
    index = index_of(ip, interface)
    for name, value in _SYSCTLS.items():
        write_sysctl(_PROC / interface / name, value)
    _check_ipv6(ip, index)
    _set_link(ip, index, mtu, txqueuelen)
    _set_address(ip, index, address)


def look_for_gaps(ip: IPRoute, interface: str, address: IPv6Address) -> list[str]:
    """Return what is not there of the interface and its address, in words."""
    index = next(iter(ip.link_lookup(ifname=interface)), None)
    if index is None:
        return [f"the interface {interface}"]
    present = {IPv6Address(m.get("address")) for m in ip.get_addr(family=socket.AF_INET6, index=index)}
    return [] if address in present else ["the address"]


def write_sysctl(path: Path, value: str) -> bool:
    """Set one kernel setting and say whether it holds now; a systemd unit may see /proc/sys read-only or not at all.

    Only `disable_ipv6` is needed (and checked otherwise); `firewall` does by itself what the others do once more.
    """
    try:
        if path.read_text().strip() != value:
            path.write_text(value)
    except OSError:
        return False
    return True


def _check_ipv6(ip: IPRoute, index: int) -> None:
    families = ip.get_links(index)[0].get_attr("IFLA_AF_SPEC")
    ipv6 = families and families.get_attr("AF_INET6")
    if ipv6 is None:
        raise Ipv6Missing
    if ipv6.get_attr("IFLA_INET6_CONF")["disable_ipv6"]:
        raise Ipv6Disabled


def _set_link(ip: IPRoute, index: int, mtu: int, txqueuelen: int) -> None:
    link = ip.get_links(index)[0]
    if (link.get("mtu"), link.get("txqlen")) != (mtu, txqueuelen):
        ip.link("set", index=index, mtu=mtu, txqlen=txqueuelen)
    if not link["flags"] & IFF_UP:
        ip.link("set", index=index, **_NO_LINK_LOCAL)
        ip.link("set", index=index, state="up")


_NO_LINK_LOCAL: dict[str, Any] = {
    "IFLA_AF_SPEC": {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
}


def _set_address(ip: IPRoute, index: int, address: IPv6Address) -> None:
    present = {IPv6Address(m.get("address")): m["prefixlen"] for m in ip.get_addr(family=socket.AF_INET6, index=index)}
    if present.get(address) != ADDRESS_BITS:
        _add_address(ip, index, address)
    for other in present.keys() - {address}:
        if other in OVERLAY or present[other] != ADDRESS_BITS:
            ip.addr("del", index=index, address=str(other), prefixlen=present[other])


def _add_address(ip: IPRoute, index: int, address: IPv6Address) -> None:
    try:
        ip.addr(
            "add", index=index, address=str(address), prefixlen=ADDRESS_BITS, flags=IFA_F_NODAD | IFA_F_NOPREFIXROUTE
        )
    except NetlinkError as error:
        if error.code == errno.EACCES:
            raise Ipv6Disabled from error
        raise
