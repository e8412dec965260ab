"""The name of a network interface, checked before it stands in a path, an ioctl or an nft script."""

import re

from f2ftun.errors import UsageError

MAX_NAME_BYTES = 15
"""Source: IFNAMSIZ in linux/if.h, less the final zero."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}", re.ASCII)
_RESERVED = frozenset({"all", "default", "lo"})


class InterfaceNameRefused(UsageError):
    """The interface name {name!r} cannot be used; take at most 15 letters, digits, "_", "-" or ".", such as f2f0."""


def check_interface(name: str) -> str:
    """Return the name; raise `InterfaceNameRefused` for what the kernel or nft would misread."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InterfaceNameRefused(name=name[:64])
    return name
