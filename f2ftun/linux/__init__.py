"""Wanted state to kernel, idempotent: read, compare, change, put back.

A node comes up in this order, so that no packet of the overlay can leave by another way at any moment:

1. `privileges.drop_privileges` while the process still has one thread;
2. `netlink.Netlink`, then `routing.detect_cjdns`, which refuses a host whose fc00::/8 belongs to somebody else;
3. `firewall.apply(firewall.plan(…))`: what a killed daemon left is replaced in one step, never removed first;
4. `tun.open_tun`, `link.configure_link`, `routing.apply_routing`.

It goes down in this order: close the TUN (its address and route go with it), `routing.remove_routing`,
`firewall.remove`. Where the daemon is dead already, `residue.sweep` does the last two.
"""
