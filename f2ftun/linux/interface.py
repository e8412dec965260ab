"""The name of a network interface, checked before it stands in a path, an ioctl or an nft script."""

import re

from pyroute2 import IPRoute

from f2ftun.errors import F2ftunError, UsageError

MAX_NAME_BYTES = 15
"""Source: IFNAMSIZ in linux/if.h, less the final zero."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
_RESERVED = frozenset({"all", "default", "lo"})


class InterfaceNameRefused(UsageError):
    """The interface name {name!r} cannot be used; take at most 15 letters, digits, "_", "-" or ".", such as f2f0."""


class InterfaceGone(F2ftunError):
    """The interface {interface} is gone; another program removed it.

    Run `f2ftun down`, then `f2ftun up`.
    """


def index_of(ip: IPRoute, name: str) -> int:
    """Return the kernel's number of an interface; raise `InterfaceGone` where there is none of that name."""
    for index in ip.link_lookup(ifname=name):
        return int(index)
    raise InterfaceGone(interface=name)


def check_interface(name: str) -> str:
    """Return the name; raise `InterfaceNameRefused` for what the kernel or nft would misread."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InterfaceNameRefused(name=name[:64])
    return name
