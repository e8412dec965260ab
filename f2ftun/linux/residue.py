"""Remove what a killed daemon left: it stayed to hold the overlay shut, and `down` ends that too."""

from f2ftun.linux import firewall
from f2ftun.linux.interface import check_interface
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.routing import look_for_tun, remove_routing


async def sweep(nl: Netlink, interface: str) -> list[str]:
    """Remove rule, table and nftables of a node that is dead; return what there was, in words.

    Does nothing while a TUN, `interface` or another, still has the route: then the owner lives, and these are its own.
    """
    check_interface(interface)
    if await nl.run(look_for_tun) is not None:
        return []
    found = await remove_routing(nl)
    if await firewall.remove():
        found.append(f"the nftables table inet {firewall.TABLE}")
    return found
