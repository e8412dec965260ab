"""The unit of systemd/ as a real systemd runs it: what the daemon may do there is enough, and no more."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.lab import wait_for
from tests.netns.service_manager import ServiceManager

ROOT = Path(__file__).resolve().parents[2]
NEEDED = [str(ROOT), sys.prefix, sys.base_prefix]
CAP_NET_ADMIN = 1 << 12

pytestmark = pytest.mark.skipif(
    not os.path.exists("/lib/systemd/systemd") or shutil.which("nsenter") is None, reason="needs systemd and nsenter"
)

# The unit is taken as it is, but for where Python lies and how long a test waits for the watchdog. Home folders are
# empty but for that: with ProtectHome=yes a Python in somebody's home could not be run at all.
DROP_IN = f"""
[Service]
WatchdogSec=3
ProtectHome=tmpfs
BindReadOnlyPaths={" ".join(NEEDED)}
StandardOutput=file:/run/f2ftun.log
StandardError=file:/run/f2ftun.log
"""


@pytest.fixture(scope="module")
def manager() -> Iterator[ServiceManager]:
    """Boot a systemd with the unit, its user and its folders, and a node that was made by root."""
    made = ServiceManager(*NEEDED)
    unit = (ROOT / "systemd/f2ftun.service").read_text()
    made.add_unit("f2ftun.service", unit.replace("/usr/local/bin/f2ftun", f"{sys.executable} -P -m f2ftun"))
    made.add_unit("f2ftun.service.d/test.conf", DROP_IN)
    with made:
        made.run("systemd-sysusers", str(ROOT / "systemd/f2ftun.sysusers"))
        made.run("systemd-tmpfiles", "--create", str(ROOT / "systemd/f2ftun.tmpfiles"))
        f2ftun(made, "init", "--name", "alice")
        yield made


@pytest.fixture
def pid(manager: ServiceManager) -> Iterator[int]:
    """Start the unit; give its main process, in the numbers of its own namespace."""
    manager.run("systemctl", "start", "f2ftun")
    yield main_pid(manager)
    manager.run("systemctl", "stop", "f2ftun")


def f2ftun(manager: ServiceManager, *words: str) -> object:
    command = (sys.executable, "-P", "-m", "f2ftun", "-c", "/etc/f2ftun/config.yaml", "--json")
    return json.loads(manager.run(*command, *words).stdout)


def main_pid(manager: ServiceManager) -> int:
    """Give the unit's main process, 0 when there is none; a number of its own namespace, never to be killed here."""
    return int(manager.show("f2ftun", "MainPID")[0])


def kernel_has(manager: ServiceManager) -> list[str]:
    """List what of a node the namespace's kernel holds."""
    found = {
        "link": "f2f0" in manager.run("ip", "link").stdout,
        "rule": "4242" in manager.run("ip", "-6", "rule").stdout,
        "table": "f2ftun" in manager.run("nft", "list", "ruleset").stdout,
    }
    return [name for name, there in found.items() if there]


def test_the_node_runs_as_its_user_with_one_capability(manager: ServiceManager, pid: int) -> None:
    status = dict(re.findall(r"^(\w+):\s*(.*)$", manager.run("cat", f"/proc/{pid}/status").stdout, re.MULTILINE))
    assert int(status["Uid"].split()[0]) == int(manager.run("id", "-u", "f2ftun").stdout)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == CAP_NET_ADMIN
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    assert kernel_has(manager) == ["link", "rule", "table"]


def test_every_kind_of_command_works_in_there(manager: ServiceManager, pid: int) -> None:
    f2ftun(manager, "allow", "all", "tcp/80")
    assert "80" in manager.run("nft", "list", "table", "inet", "f2ftun").stdout
    f2ftun(manager, "deny", "all", "tcp/80")
    assert f2ftun(manager, "friend", "list") == []
    invitation = f2ftun(manager, "invite", "bob")
    assert isinstance(invitation, dict)
    assert invitation["running"]
    status = f2ftun(manager, "status")
    assert isinstance(status, dict)
    assert status["name"] == "alice"
    manager.run("systemctl", "reload", "f2ftun")
    assert main_pid(manager) == pid


def test_its_group_may_look_and_nobody_else_may_anything(manager: ServiceManager, pid: int) -> None:
    group = manager.run("id", "-g", "f2ftun").stdout.strip()
    assert ask_as(manager, f"--groups={group}", "status") == (0, None)
    assert ask_as(manager, f"--groups={group}", "invite", "eve") == (1, "not_allowed")
    assert ask_as(manager, "--clear-groups", "status") == (1, "socket_forbidden")
    assert main_pid(manager) == pid


def ask_as(manager: ServiceManager, groups: str, *words: str) -> tuple[int, str | None]:
    """Type a command as nobody, with such groups; give its exit status and the code of its error."""
    command = (sys.executable, "-P", "-m", "f2ftun", "-c", "/etc/f2ftun/config.yaml", "--json", *words)
    done = manager.run("setpriv", "--reuid=65534", "--regid=65534", groups, *command, check=False)
    value = json.loads(done.stdout)
    return done.returncode, value["error"]["code"] if "error" in value else None


def test_what_root_does_meanwhile_is_the_nodes(manager: ServiceManager) -> None:
    f2ftun(manager, "invite", "carol")
    manager.run("systemctl", "start", "f2ftun")
    f2ftun(manager, "invite", "dave")
    manager.run("systemctl", "stop", "f2ftun")
    f2ftun(manager, "allow", "all", "tcp/22")
    manager.run("systemctl", "start", "f2ftun")
    f2ftun(manager, "deny", "all", "tcp/22")
    manager.run("systemctl", "stop", "f2ftun")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_node_that_dies_or_hangs_is_started_again(manager: ServiceManager, pid: int, number: signal.Signals) -> None:
    manager.run("systemctl", "kill", "--kill-who=main", f"--signal={number.name}", "f2ftun")
    wait_for(lambda: main_pid(manager) not in {0, pid}, "another process", 15.0)
    wait_for(lambda: manager.show("f2ftun", "ActiveState") == ["active"], "the node to be ready again", 15.0)
    assert kernel_has(manager) == ["link", "rule", "table"]


def test_a_stopped_unit_leaves_nothing(manager: ServiceManager, pid: int) -> None:
    manager.run("systemctl", "stop", "f2ftun")
    assert manager.show("f2ftun", "ActiveState", "Result") == ["inactive", "success"]
    assert kernel_has(manager) == []
