"""What a daemon that was started as root can still do: the kernel answers, in a process of its own (security.md G6)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.netns
ROOT = Path(__file__).parents[2]
NET_ADMIN = 1 << 12

PRELUDE = """
import ctypes, json, os, resource, socket, subprocess, sys
from f2ftun.errors import F2ftunError
from f2ftun.linux.privileges import drop_privileges

def tries(function, *arguments):
    try:
        function(*arguments)
        return "done"
    except OSError as error:
        return os.strerror(error.errno)

def status(text):
    return dict(line.split(":\\t", 1) for line in text.splitlines() if ":\\t" in line)
"""

AFTER = """
drop_privileges(*ARGUMENTS)
libc = ctypes.CDLL(None, use_errno=True)
own = status(open("/proc/self/status").read())
child = status(subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout)
nft = subprocess.run(["/usr/sbin/nft", "-f", "-"], input="table inet x\\n", capture_output=True, text=True)
mount = libc.mount(b"none", b"/mnt", b"tmpfs", 0, None)
print(json.dumps({
    "own": own, "child": child, "nft": nft.stderr, "mount": mount,
    "core": resource.getrlimit(resource.RLIMIT_CORE), "dumpable": libc.prctl(3, 0, 0, 0, 0), "umask": os.umask(0o77),
    "setuid": tries(os.setuid, 0 if os.getuid() else 1),
    "raw": tries(socket.socket, socket.AF_INET6, socket.SOCK_RAW, 58),
    "shadow": tries(open, "/etc/shadow"), "uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(),
}))
"""


def run(script: str, *wrapper: str) -> subprocess.CompletedProcess[str]:
    words = ["unshare", "--net", *wrapper, sys.executable, "-c", PRELUDE + script]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)


def after(arguments: str, *wrapper: str) -> dict[str, Any]:
    done = run(f"ARGUMENTS = ({arguments})\n" + AFTER, *wrapper)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def sets(status: dict[str, str]) -> set[int]:
    return {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


@pytest.mark.parametrize("user", ["None", "'nobody'"])
def test_one_capability_is_left_and_no_way_back(user: str) -> None:
    found = after(f"{user},")
    assert sets(found["own"]) == {NET_ADMIN}
    assert sets(found["child"]) == {NET_ADMIN}, "nft has it, and no more"
    assert (found["own"]["NoNewPrivs"], found["child"]["NoNewPrivs"]) == ("1", "1")
    assert found["nft"] == ""
    assert found["mount"] == -1
    assert found["setuid"] == "Operation not permitted"
    assert found["raw"] == "Operation not permitted"
    assert (found["core"], found["dumpable"], found["umask"]) == ([0, 0], 0, 0o77)


def test_another_user_is_another_user_in_every_way() -> None:
    found = after("'nobody',")
    assert found["uid"] == [65534] * 3
    assert len(set(found["gid"])) == 1
    assert found["gid"][0] != 0
    assert 0 not in found["groups"]
    assert found["shadow"] == "Permission denied"


def test_more_can_be_kept_by_name() -> None:
    found = after("None, {'CAP_NET_ADMIN', 'CAP_NET_BIND_SERVICE'}")
    assert sets(found["own"]) == {NET_ADMIN | 1 << 10}


def test_all_of_it_can_be_given_up() -> None:
    assert sets(after("None, frozenset()")["own"]) == {0}


SYSTEMD = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
SYSTEMD_CAPABILITIES = (
    "--bounding-set=-all,+net_admin",
    "--inh-caps=-all,+net_admin",
    "--ambient-caps=-all,+net_admin",
)


def test_started_by_systemd_nothing_is_left_to_do() -> None:
    """Without CAP_SETPCAP nor any call that its filter refuses: the state is right already."""
    assert sets(after("None,", *SYSTEMD, *SYSTEMD_CAPABILITIES)["own"]) == {NET_ADMIN}
    assert sets(after("'nobody',", *SYSTEMD, *SYSTEMD_CAPABILITIES)["own"]) == {NET_ADMIN}


def test_twice_is_once() -> None:
    done = run("drop_privileges('nobody'); drop_privileges('nobody')")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "wrapper", "sentence"),
    [
        ("None", [*SYSTEMD, "--bounding-set=-all"], "lacks the capability CAP_NET_ADMIN"),
        ("'no-such-user'", [], "There is no user no-such-user on this host"),
        ("'daemon'", [*SYSTEMD, *SYSTEMD_CAPABILITIES], "refused to take privileges away (user daemon"),
    ],
)
def test_what_cannot_be_is_a_sentence(arguments: str, wrapper: list[str], sentence: str) -> None:
    script = f"try: drop_privileges({arguments})\nexcept F2ftunError as error: print(error)"
    done = run(script, *wrapper)
    assert sentence in done.stdout, done.stderr


def test_a_second_thread_is_refused() -> None:
    """It would keep all capabilities."""
    script = (
        "import threading\ngo = threading.Event()\nthread = threading.Thread(target=go.wait)\nthread.start()\n"
        "try: drop_privileges(None)\nexcept AssertionError as error: print(error)\ngo.set()"
    )
    assert "capabilities belong to a thread" in run(script).stdout
