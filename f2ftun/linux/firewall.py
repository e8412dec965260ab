"""The nftables of the overlay: default deny on the TUN, and no packet of fc00::/8 anywhere else.

One table, `inet f2ftun`, replaced in one transaction. Five chains:
- `incoming` (before everything else): overlay addresses come by the TUN or the loopback alone, and by the TUN only
  from the overlay to us;
- `input`: on the TUN, ICMPv6 echo, answers to what we asked, errors about it, and what was allowed by name. An answer
  is known by its direction, so that `deny` stops a flow that stands;
- `forward`: nothing from or to the TUN, whatever the host forwards else;
- `output`, `outgoing`: overlay addresses leave by the TUN or the loopback alone.

Rules become set elements, so that a packet's way is equally short with one friend and with 4,000.
The rules stay when the daemon is killed: then they and the unreachable route hold the overlay shut.
Source: security.md A9, A10, C3, §3.12.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Literal

from f2ftun.errors import F2ftunError
from f2ftun.linux.interface import check_interface
from f2ftun.linux.underlay import OVERLAY

TABLE = "f2ftun"
NFT_TIMEOUT_S = 10.0
"""A transaction takes some 20 ms; this only bounds a kernel that hangs."""
PATH = "/usr/sbin:/sbin:/usr/local/sbin:/usr/bin:/bin"
_ERRORS = "{ destination-unreachable, packet-too-big, time-exceeded, parameter-problem }"
"""What the data plane itself answers to a local program, from our own address."""
_MISSING = re.compile(r"Unable to initialize Netlink|Protocol not supported|Operation not supported|cache init.*failed")


class NftMissing(F2ftunError):
    """The program nft is not installed, and without it nothing keeps strangers from the overlay address.

    Run `apt install nftables`.
    """


class NftNotPermitted(F2ftunError):
    """The kernel does not let this process set firewall rules.

    Start f2ftun as root, or with the capability CAP_NET_ADMIN.
    """


class NftablesMissing(F2ftunError):
    """The kernel has no nftables ({reason}), without which the overlay cannot be kept shut.

    Use a kernel with CONFIG_NF_TABLES_INET and CONFIG_NFT_CT.
    """


class NftRefused(F2ftunError):
    """nft refused the firewall rules: {reason}."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A permission: who (`None`: every friend) may reach which local ports (1–65535, both ends included)."""

    source: IPv6Address | None
    protocol: Literal["tcp", "udp"]
    first_port: int
    last_port: int


@dataclass(frozen=True, slots=True)
class Chain:
    """A base chain of whichever program; `policy` is `accept` or `drop`."""

    family: str
    table: str
    name: str
    policy: str


def plan(interface: str, address: IPv6Address, rules: Sequence[Rule]) -> str:
    """Write the nft script that makes the wanted state out of any other. Pure; raises `InterfaceNameRefused`."""
    check_interface(interface)
    return _SCRIPT.format(
        table=TABLE, tun=f'"{interface}"', overlay=OVERLAY, own=address, errors=_ERRORS, sets=_sets(rules)
    )


async def apply(script: str) -> None:
    """Make the kernel's rules those of the script, all at once or not at all; raises one of this module's errors."""
    await asyncio.to_thread(_run_nft, "-f", "-", script=script)


async def stands() -> bool:
    """Say whether the table is there."""
    listed = await asyncio.to_thread(_run_nft, "list", "tables", "inet")
    return f"table inet {TABLE}" in listed.splitlines()


async def remove() -> bool:
    """Remove the table; say whether there was one."""
    if not await stands():
        return False
    await apply(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
    return True


async def input_chains() -> list[Chain]:
    """Read all base chains, of any table, that packets to this host pass."""
    listed = json.loads(await asyncio.to_thread(_run_nft, "-j", "list", "chains"))["nftables"]
    chains = [entry["chain"] for entry in listed if entry.get("chain", {}).get("hook") == "input"]
    return [Chain(c["family"], c["table"], c["name"], c["policy"]) for c in chains]


_SCRIPT = """\
add table inet {table}
delete table inet {table}
table inet {table} {{
{sets}
  chain incoming {{
    type filter hook prerouting priority -300; policy accept;
    iifname "lo" accept
    iifname != {tun} ip6 daddr {overlay} counter drop
    iifname != {tun} ip6 saddr {overlay} counter drop
    iifname != {tun} accept
    ip6 saddr {overlay} ip6 saddr != {own} ip6 daddr {own} accept
    ip6 saddr {own} ip6 daddr {own} icmpv6 type {errors} accept
    counter drop
  }}
  chain input {{
    type filter hook input priority 0; policy accept;
    iifname != {tun} accept
    icmpv6 type echo-request accept
    ct state established ct direction reply accept
    ct state related accept
    ip6 saddr . tcp dport @tcp_from accept
    ip6 saddr . udp dport @udp_from accept
    tcp dport @tcp_all accept
    udp dport @udp_all accept
    counter drop
  }}
  chain forward {{
    type filter hook forward priority -300; policy accept;
    iifname {tun} counter drop
    oifname {tun} counter drop
  }}
  chain output {{
    type filter hook output priority 0; policy accept;
    oifname {{ {tun}, "lo" }} accept
    ip6 daddr {overlay} counter drop
    ip6 saddr {overlay} counter drop
  }}
}}
"""


def _sets(rules: Sequence[Rule]) -> str:
    lines = []
    for protocol in ("tcp", "udp"):
        chosen = [rule for rule in rules if rule.protocol == protocol]
        lines.append(_set(f"{protocol}_all", "inet_service", _elements(r for r in chosen if r.source is None)))
        lines.append(_set(f"{protocol}_from", "ipv6_addr . inet_service", _elements(r for r in chosen if r.source)))
    return "\n".join(lines)


def _set(name: str, kind: str, elements: Sequence[str]) -> str:
    filled = f" elements = {{ {', '.join(elements)} }};" if elements else ""
    return f"  set {name} {{ type {kind}; flags interval;{filled} }}"


def _elements(rules: Iterable[Rule]) -> list[str]:
    """Write disjoint ranges, because nft refuses those that overlap."""
    by_source: dict[IPv6Address | None, list[tuple[int, int]]] = defaultdict(list)
    for rule in rules:
        by_source[rule.source].append((rule.first_port, rule.last_port))
    return [
        f"{source} . {first}-{last}" if source else f"{first}-{last}"
        for source, ranges in by_source.items()
        for first, last in _merged(ranges)
    ]


def _merged(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


def _run_nft(*arguments: str, script: str = "") -> str:
    program = shutil.which("nft", path=PATH)
    if program is None:
        raise NftMissing
    try:
        done = subprocess.run(
            [program, *arguments],
            input=script,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=NFT_TIMEOUT_S,
            env={"PATH": PATH, "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NftRefused(reason=str(error)) from error
    if done.returncode != 0:
        raise _told(done.stderr)
    return done.stdout


def _told(stderr: str) -> F2ftunError:
    reason = next(iter(stderr.strip().splitlines()), "it gave no reason").removeprefix("Error: ")
    if "Operation not permitted" in stderr:
        return NftNotPermitted()
    if _MISSING.search(stderr):
        return NftablesMissing(reason=reason)
    return NftRefused(reason=reason)
