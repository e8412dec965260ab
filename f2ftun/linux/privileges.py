"""Keep one capability of root's and give up the rest, for good.

A unit of systemd does this before the daemon starts; then nothing is left to do here. Elsewhere the daemon starts as
root: the bounding set is emptied first (afterwards nothing may), then the user is changed, then the capabilities that
stay are made permitted, effective, inheritable and ambient, so that the child `nft` has them and no exec gains others.

Capabilities belong to a thread, so this must run while there is only one.
Source: capabilities(7), prctl(2), linux/capability.h; security.md G4, G6.
"""

import ctypes
import os
import pwd
import resource
from collections.abc import Iterable, Set
from pathlib import Path

from f2ftun.errors import F2ftunError

KEEP = frozenset({"CAP_NET_ADMIN"})
NUMBERS = {"CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""The capabilities that a caller may name. Source: linux/capability.h."""
_CAP_SETPCAP = 8
_MAX_CAPABILITY = 63

_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 4, 8, 23, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 38, 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


class PrivilegeMissing(F2ftunError):
    """The process lacks the capability {capability}, without which there is no TUN.

    Start f2ftun as root.
    """


class UserUnknown(F2ftunError):
    """There is no user {user} on this host.

    Create it, or take `user` out of config.yaml.
    """


class PrivilegeRefused(F2ftunError):
    """The kernel refused to take privileges away ({step}: {reason}).

    f2ftun does not go on with more than it needs.
    """


def drop_privileges(user: str | None, keep: Set[str] = KEEP) -> None:
    """Become `user` (`None`: stay who one is), with the capabilities `keep` and no way to others; idempotent.

    No core dumps, no ptrace by others of the same user, no new privileges, umask 077. Call it before any thread starts.
    """
    assert len(os.listdir("/proc/self/task")) == 1, "capabilities belong to a thread, and there is a second one"
    numbers = {NUMBERS[name] for name in keep}
    _check_permitted(keep)
    os.umask(0o077)
    if resource.getrlimit(resource.RLIMIT_CORE) != (0, 0):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _empty_bounding_set(numbers)
    _become(user)
    _set_capabilities(numbers)
    _prctl("no new privileges", _PR_SET_NO_NEW_PRIVS, 1)
    _prctl("not dumpable", _PR_SET_DUMPABLE, 0)


def capabilities() -> dict[str, int]:
    """Read this thread's sets as bit masks: `CapInh`, `CapPrm`, `CapEff`, `CapBnd`, `CapAmb`."""
    lines = Path("/proc/thread-self/status").read_text().splitlines()
    return {name: int(value, 16) for name, _, value in (line.partition(":\t") for line in lines) if name[:3] == "Cap"}


def _check_permitted(keep: Set[str]) -> None:
    permitted = capabilities()["CapPrm"]
    for name in sorted(keep):
        if not permitted >> NUMBERS[name] & 1:
            raise PrivilegeMissing(capability=name)


def _empty_bounding_set(keep: Iterable[int]) -> None:
    if not capabilities()["CapEff"] >> _CAP_SETPCAP & 1:
        return
    for number in set(range(_MAX_CAPABILITY + 1)) - set(keep):
        if _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _prctl("bounding set", _PR_CAPBSET_DROP, number)


def _become(user: str | None) -> None:
    if user is None:
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError as error:
        raise UserUnknown(user=user) from error
    if os.getresuid() == (entry.pw_uid,) * 3:
        return
    _prctl("keep capabilities", _PR_SET_KEEPCAPS, 1)
    try:
        os.initgroups(user, entry.pw_gid)
        os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
        os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)
    except PermissionError as error:
        raise PrivilegeRefused(step=f"user {user}", reason=error.strerror) from error


def _set_capabilities(numbers: Iterable[int]) -> None:
    mask = sum(1 << number for number in numbers)
    now = capabilities()
    if any(now[name] != mask for name in ("CapPrm", "CapEff", "CapInh")):
        _capset(mask)
    if now["CapAmb"] != mask:
        _prctl("ambient set", _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
        for number in numbers:
            _prctl("ambient set", _PR_CAP_AMBIENT, _AMBIENT_RAISE, number)


def _capset(mask: int) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = (ctypes.c_uint32 * 6)(low, low, low, high, high, high)
    _check("capset", _libc.capset(header, data))


def _prctl(step: str, option: int, argument: int, second: int = 0) -> None:
    _check(
        step,
        _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), ctypes.c_ulong(0), ctypes.c_ulong(0)),
    )


def _check(step: str, result: int) -> None:
    if result != 0:
        raise PrivilegeRefused(step=step, reason=os.strerror(ctypes.get_errno()))
