"""Give up what root has and a node does not need, before it reads or opens anything else.

The folders that the node's user will need are made and given to them while that is still possible. Everything after,
the TUN included, is done with CAP_NET_ADMIN alone.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from f2ftun.config import Config
from f2ftun.daemon.server import GROUP
from f2ftun.linux.privileges import KEEP, UserUnknown, drop_privileges
from f2ftun.store import make_state_folder
from f2ftun.wire.endpoint import parse_listen

FIRST_FREE_PORT: Final = 1024
"""Ports below need CAP_NET_BIND_SERVICE. Source: ip(7)."""

NICE: Final = -10
"""What is late here is late for every program that uses the tunnel; the systemd unit says the same."""


def give_up(loaded: Config) -> None:
    """Become the config's user with as few rights as the node can do with. Raises what `drop_privileges` raises."""
    make_state_folder(loaded.state)
    _make_socket_folder(loaded)
    if loaded.user is not None and os.geteuid() == 0:
        _give_folders(loaded, loaded.user)
    _take_precedence()
    privileged = 0 < parse_listen(loaded.listen).port < FIRST_FREE_PORT
    drop_privileges(loaded.user, KEEP | ({"CAP_NET_BIND_SERVICE"} if privileged else set()))


def _take_precedence() -> None:
    """Be preferred by the scheduler, threads to come included; where that is refused, run like any other."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(NICE, os.getpriority(os.PRIO_PROCESS, 0)))


def _make_socket_folder(loaded: Config) -> None:
    """Make the folder of the control socket, 0750 and of the group that may read, where it is not there."""
    folder = loaded.control_socket.parent
    if folder == loaded.state:
        return
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o750)
        with contextlib.suppress(KeyError, PermissionError):
            os.chown(folder, -1, grp.getgrnam(GROUP).gr_gid)
        folder.chmod(0o750)


def _give_folders(loaded: Config, user: str) -> None:
    """Give the user the state folder, what lies in it, and the folder of the socket."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise UserUnknown(user=user) from None
    for path in (*_state_files(loaded.state), loaded.control_socket.parent):
        os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def _state_files(state: Path) -> Iterator[Path]:
    """Yield the state folder and the plain files in it that root made."""
    yield state
    for entry in os.scandir(state):
        if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_uid == 0:
            yield Path(entry.path)
