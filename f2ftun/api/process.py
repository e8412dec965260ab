"""Find a running node by its process, when its config no longer says where its control socket is.

A person may change `control_socket` or `state` under a running node. Its command line still names the config, and the
kernel knows at which socket that process listens. Only processes of root, of ourselves and of the config's user count,
so that nobody else can pass for the node.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")

LISTENING: Final = "00010000"
"""The flags of a listening socket in /proc/net/unix. Source: `__SO_ACCEPTCON`, linux/net.h."""


def listening_sockets(command: Sequence[str], users: frozenset[int]) -> list[Path]:
    """Give where processes of these users listen whose command line, after its first word, begins with `command`.

    What may not be read is passed over; nobody but root and the same user may see the sockets of a process.
    """
    return [path for process in _processes(command, users) for path in _sockets(process)]


def _processes(command: Sequence[str], users: frozenset[int]) -> Iterator[Path]:
    """Find processes by user and command line."""
    wanted = [os.fsencode(word) for word in command]
    for process in PROC.glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if words[1 : 1 + len(wanted)] == wanted and _user(process) in users:
                yield process
        except OSError:
            continue


def _user(process: Path) -> int:
    """Give the effective user; the owner of the folder would be root's for whoever hides their memory."""
    found = re.search(r"^Uid:\t\d+\t(\d+)", (process / "status").read_text(errors="replace"), re.MULTILINE)
    return int(found[1]) if found else -1


def _sockets(process: Path) -> Iterator[Path]:
    """Give the paths of the Unix sockets at which a process listens."""
    try:
        inodes = {os.readlink(entry) for entry in (process / "fd").iterdir()}
        lines = (process / "net/unix").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[3] == LISTENING and f"socket:[{fields[6]}]" in inodes:
            yield Path(fields[7])
