"""The units do what they promise: little exposure, a user of their own, folders that only it can read."""

import os
import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent / "systemd"
SERVICE = UNITS / "f2ftun.service"
EXPOSURE_CEILING = 2.0
REQUIRED = """
    Type=notify User=f2ftun AmbientCapabilities=CAP_NET_ADMIN CapabilityBoundingSet=CAP_NET_ADMIN NoNewPrivileges=yes
    ProtectSystem=strict ProtectHome=yes PrivateTmp=yes DevicePolicy=closed ProtectProc=invisible ProcSubset=pid
    ProtectKernelTunables=yes ProtectKernelModules=yes ProtectKernelLogs=yes ProtectControlGroups=yes ProtectClock=yes
    ProtectHostname=yes RestrictNamespaces=yes RestrictRealtime=yes RestrictSUIDSGID=yes LockPersonality=yes
    MemoryDenyWriteExecute=yes SystemCallFilter=@system-service SystemCallArchitectures=native UMask=0077
    KeyringMode=private StateDirectoryMode=0700
"""


def run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_unit_is_little_exposed() -> None:
    report = run("systemd-analyze", "security", "--offline=yes", "--no-pager", SERVICE)
    level = re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)
    assert level, report
    assert float(level[1]) <= EXPOSURE_CEILING, report


def test_the_unit_has_every_hardening_line() -> None:
    lines = set(SERVICE.read_text().splitlines())
    assert set(REQUIRED.split()) <= lines
    assert "DeviceAllow=/dev/net/tun rw" in lines
    assert "SystemCallFilter=~@privileged @resources" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user")
def test_the_user_and_its_folders_are_made(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    run("systemd-sysusers", f"--root={tmp_path}", UNITS / "f2ftun.sysusers")
    run("systemd-tmpfiles", f"--root={tmp_path}", "--create", UNITS / "f2ftun.tmpfiles")
    user = re.search(r"^f2ftun:[^:]*:(\d+):", (tmp_path / "etc/passwd").read_text(), re.MULTILINE)
    state = (tmp_path / "var/lib/f2ftun").stat()
    assert user
    assert state.st_uid == int(user[1])
    assert state.st_mode & 0o777 == 0o700
