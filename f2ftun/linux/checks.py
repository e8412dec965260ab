"""What `doctor` asks the host: is everything here that a node needs, and does anything stand in its way?

Each check is a function that yields findings, none if all is well. Nothing is changed.
"""

import asyncio
import errno
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

from pyroute2 import IPRoute

from f2ftun.errors import F2ftunError
from f2ftun.linux import firewall, routing
from f2ftun.linux.netlink import Netlink
from f2ftun.linux.privileges import NUMBERS, capabilities
from f2ftun.linux.tun import DEVICE
from f2ftun.linux.underlay import OVERLAY, read_underlay

RELEASED_AT = 1_795_000_000
"""Unix seconds, November 2026: a clock that shows less was never set."""
USO_KERNEL = (6, 2)
"""TUN_F_USO4, TUN_F_USO6. Source: Linux 6.2, drivers/net/tun.c."""
PRIORITY_KERNEL = (6, 14)
"""SO_PRIORITY as a control message. Source: Linux 6.14, net/core/sock.c."""
SMALL_MTU_BYTES = 1360
"""Below it, packets of the smallest MTU that IPv6 allows travel in two fragments. Source: docs/protocol.md §6.3."""
_SYSCTL = Path("/proc/sys/net")


class Severity(Enum):
    """`error`: the node cannot work so. `warning`: something will not work. `note`: it could work better."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be: what it is, why it matters, and the cure, each a sentence."""

    severity: Severity
    what: str
    why: str
    cure: str


@dataclass(frozen=True, slots=True)
class Host:
    """What the checks are about; `running`: whether the node's daemon is up, and so holds its interface and port."""

    interface: str
    listen: str
    state: Path
    running: bool


async def examine(nl: Netlink, host: Host) -> list[Finding]:
    """Return all findings, the worst first; takes some 100 ms."""
    found = await asyncio.to_thread(_examine_files, host)
    found += await nl.run(examine_network, host)
    found += await _examine_firewall(host)
    order = list(Severity)
    return sorted(found, key=lambda finding: order.index(finding.severity))


def _examine_files(host: Host) -> list[Finding]:
    checks = (_tun_device(), _capability(host), _ipv6(), _clock(), _kernel(), _port(host), _state(host), _conntrack())
    return [finding for check in checks for finding in check]


def examine_network(ip: IPRoute, host: Host) -> list[Finding]:
    """Do it on the socket."""
    checks = (_owners(ip, host), _rules(ip), _overlay_on_lan(ip), _network(ip), _routes(ip, host), _loopback(ip))
    return [finding for check in checks for finding in check]


def _tun_device() -> Iterator[Finding]:
    if not os.path.exists(DEVICE):
        yield Finding(
            Severity.ERROR,
            f"There is no {DEVICE}.",
            "Without it the kernel gives no program an interface.",
            "Run `modprobe tun`; in a container, allow the device (docker: --device /dev/net/tun).",
        )


def _capability(host: Host) -> Iterator[Finding]:
    if not host.running and not capabilities()["CapEff"] >> NUMBERS["CAP_NET_ADMIN"] & 1:
        yield Finding(
            Severity.NOTE,
            "This check runs without CAP_NET_ADMIN.",
            "The firewall cannot be read, and `up` would be refused.",
            "Run it again with sudo.",
        )


def _ipv6() -> Iterator[Finding]:
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close()
    except OSError:
        yield Finding(
            Severity.ERROR,
            "This kernel runs without IPv6.",
            "Friends have IPv6 addresses and no others.",
            "Remove `ipv6.disable=1` from the kernel's command line and reboot.",
        )
    if _read(_SYSCTL / "ipv6/conf/lo/disable_ipv6") == "1":
        yield Finding(
            Severity.WARNING,
            "IPv6 is disabled on the loopback interface.",
            "Programs on this host cannot reach this host's own overlay address.",
            "Run `sysctl -w net.ipv6.conf.lo.disable_ipv6=0` and remove the line that sets it in /etc/sysctl.d.",
        )


def _clock() -> Iterator[Finding]:
    if time.time() < RELEASED_AT:
        yield Finding(
            Severity.WARNING,
            f"The clock shows {time.strftime('%Y-%m-%d')}, a day before this program was made.",
            "Invitations expire by the clock, and friends notice when it jumps.",
            "Set it: `timedatectl set-ntp true`, or `date -s`.",
        )


def _kernel() -> Iterator[Finding]:
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    written = ".".join(map(str, version))
    if version < USO_KERNEL:
        yield Finding(
            Severity.NOTE,
            f"The kernel {written} has no UDP segmentation offload for TUNs.",
            "UDP inside the overlay (QUIC, calls) costs more processor time.",
            "Use Linux 6.2 or newer where that matters.",
        )
    if version < PRIORITY_KERNEL:
        yield Finding(
            Severity.NOTE,
            f"The kernel {written} cannot be told a packet's class packet by packet.",
            "Each friend with a guaranteed rate needs a socket of its own.",
            "Use Linux 6.14 or newer where there are many.",
        )


def _port(host: Host) -> Iterator[Finding]:
    address, _, port = host.listen.rpartition(":")
    address = address.strip("[]")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if host.running:
        return
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, int(port)))
    except (OSError, ValueError, OverflowError) as error:
        yield _port_finding(host.listen, error)


def _port_finding(listen: str, error: Exception) -> Finding:
    cures = {
        errno.EADDRINUSE: "Stop the other program (`ss -lunp` names it), or set another port as `listen`.",
        errno.EADDRNOTAVAIL: "Set `listen` to an address of this host, or to [::]:PORT.",
        errno.EACCES: "Set a port from 1024 up as `listen`.",
    }
    code = error.errno if isinstance(error, OSError) else None
    return Finding(
        Severity.ERROR,
        f"The node cannot listen on {listen}: {os.strerror(code) if code else error}.",
        "Without its port it can neither dial nor be dialled.",
        cures.get(code or 0, "Correct `listen` in config.yaml."),
    )


def _state(host: Host) -> Iterator[Finding]:
    for path, wanted in ((host.state, 0o700), (host.state / "key", 0o600)):
        try:
            mode = stat.S_IMODE(path.lstat().st_mode)
        except OSError:
            continue
        if mode & 0o077:
            yield Finding(
                Severity.ERROR,
                f"Others may look into {path} (mode {mode:04o}).",
                "Whoever reads the key is you to your friends; a node refuses to start so.",
                f"Run `chmod {wanted:04o} {path}`; if somebody else has an account here, make a new identity.",
            )


def _conntrack() -> Iterator[Finding]:
    count, limit = (_read(_SYSCTL / f"netfilter/nf_conntrack_{name}") for name in ("count", "max"))
    if count and limit and int(count) >= int(limit) * 9 // 10:
        yield Finding(
            Severity.WARNING,
            f"The kernel's table of connections is nearly full ({count} of {limit}).",
            "When it is full, new connections fail, over the overlay too.",
            "Run `sysctl -w net.netfilter.nf_conntrack_max=` with twice the number.",
        )


def _owners(ip: IPRoute, host: Host) -> Iterator[Finding]:
    try:
        routing.look_for_other_owners(ip, host.interface)
    except F2ftunError as error:
        yield Finding(Severity.ERROR, str(error), "`up` would be refused.", "See above.")


def _rules(ip: IPRoute) -> Iterator[Finding]:
    for message in ip.get_rules(family=socket.AF_INET6):
        priority = message.get_attr("FRA_PRIORITY") or 0
        if 0 < priority < routing.RULE_PREF and _matches_overlay(message.get_attr("FRA_DST"), message["dst_len"]):
            yield Finding(
                Severity.WARNING,
                f"A routing rule of another program (pref {priority}) is asked before ours (pref {routing.RULE_PREF}).",
                "It may take overlay packets another way; the firewall then drops them.",
                "See `ip -6 rule`; give that rule a number above 100, or take fc00::/8 out of it.",
            )


def _matches_overlay(destination: str | None, length: int) -> bool:
    return destination is None or IPv6Network(f"{destination}/{length}").overlaps(OVERLAY)


def _overlay_on_lan(ip: IPRoute) -> Iterator[Finding]:
    kinds = {link["index"]: (link.get("ifname"), link["ifi_type"]) for link in ip.get_links()}
    for message in ip.get_addr(family=socket.AF_INET6):
        name, kind = kinds.get(message["index"], ("?", 0))
        address = message.get_attr("IFA_ADDRESS")
        if kind != routing.ARPHRD_NONE and IPv6Address(address) in OVERLAY:
            yield Finding(
                Severity.WARNING,
                f"The interface {name} has the address {address}, out of fc00::/8.",
                "While f2ftun runs nothing travels there; a hostile router on your network may have announced it.",
                "If it is yours, renumber to fd00::/8 (RFC 4193 gives it to local nets); else look for that router.",
            )


def _network(ip: IPRoute) -> Iterator[Finding]:
    underlay = read_underlay(ip)
    if not underlay.addresses:
        yield Finding(
            Severity.WARNING,
            "No interface is up with an address.",
            "Friends cannot be reached without a network beneath.",
            "Connect this host; the node notices by itself.",
        )
    elif underlay.mtu < SMALL_MTU_BYTES:
        yield Finding(
            Severity.NOTE,
            f"An interface carries no more than {underlay.mtu} bytes per packet.",
            "Large packets travel in two pieces, at some cost in speed.",
            "Raise its MTU if the network behind it allows.",
        )


def _routes(ip: IPRoute, host: Host) -> Iterator[Finding]:
    missing = routing.look_for_gaps(ip, host.interface)
    if host.running and missing:
        yield Finding(
            Severity.ERROR,
            f"Of what sends the overlay to {host.interface}, this is gone: {', '.join(missing)}.",
            "Another program removed it, or set the interface down; friends cannot be reached.",
            "Run `f2ftun reload`; look for what manages interfaces here (NetworkManager, systemd-networkd).",
        )
    elif not host.running and len(missing) == 1 and routing.look_for_tun(ip) is None:
        yield Finding(
            Severity.NOTE,
            "A node that was killed left fc00::/8 unreachable.",
            "That is on purpose: nothing of the overlay may leave by another way.",
            "Run `f2ftun up` to go on, or `f2ftun down` to remove it.",
        )


def _loopback(ip: IPRoute) -> Iterator[Finding]:
    if not ip.get_links(1)[0]["flags"] & 1:
        yield Finding(
            Severity.WARNING,
            "The loopback interface is down.",
            "Programs on this host cannot reach this host's own overlay address.",
            "Run `ip link set lo up`.",
        )


async def _examine_firewall(host: Host) -> list[Finding]:
    if shutil.which("nft", path=firewall.PATH) is None:
        return [_from_error(firewall.NftMissing())]
    try:
        chains = await firewall.input_chains()
    except firewall.NftNotPermitted:
        return []
    except F2ftunError as error:
        return [_from_error(error)]
    return [*_own_table(host, chains), *_foreign_chains(host, chains)]


def _from_error(error: F2ftunError) -> Finding:
    return Finding(Severity.ERROR, str(error), "`up` would be refused.", "See above.")


def _own_table(host: Host, chains: list[firewall.Chain]) -> Iterator[Finding]:
    if host.running and not any(chain.table == firewall.TABLE for chain in chains):
        yield Finding(
            Severity.ERROR,
            f"The firewall table inet {firewall.TABLE} is gone.",
            "Friends reach every port of this host, and a neighbour on the LAN its overlay address.",
            "Run `f2ftun reload`; look for what flushes the ruleset (`nft flush ruleset` in a script or service).",
        )


def _foreign_chains(host: Host, chains: list[firewall.Chain]) -> Iterator[Finding]:
    for chain in chains:
        if chain.table != firewall.TABLE and chain.policy == "drop":
            yield Finding(
                Severity.NOTE,
                f"The firewall table {chain.family} {chain.table} drops what it does not know (chain {chain.name}).",
                f"It must let UDP to {host.listen} in, and on {host.interface} what you allow to friends.",
                f"See `nft list chain {chain.family} {chain.table} {chain.name}`.",
            )


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
