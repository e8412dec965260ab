"""A systemd of the test's own, process 1 of its own namespaces, that runs units of this repository.

Nothing of the host is changed: its files are read-only in there, its units are not, and processes, network, host name
and control groups are the namespaces' own. All of it ends with process 1. It boots an empty target; a test starts what
it wants to look at.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.netns.lab import wait_for

BOOT = Path(__file__).with_name("boot_systemd.sh")
CONTROL_GROUPS = Path("/sys/fs/cgroup")
EMPTY = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\n"


class ServiceManager:
    """One systemd, from `__enter__` to `__exit__`; `etc` and `state` are its /etc and /var/lib."""

    def __init__(self, *visible: str) -> None:
        """Prepare its files; folders of /tmp that it needs are named in `visible`."""
        self._folder = Path(tempfile.mkdtemp(prefix="f2flab-systemd-"))
        self._folder.chmod(0o755)
        self._group = f"f2flab-{os.getpid()}"
        self._visible = visible
        self._pid = 0
        self.etc = self._folder / "etc"
        self.state = self._folder / "lib"
        self.log = self._folder / "log"
        self.state.mkdir()
        (self._folder / "empty").mkdir()
        (self._folder / "visible/tmp").mkdir(parents=True)
        shutil.copytree("/etc", self.etc, symlinks=True)
        shutil.rmtree(self.etc / "systemd/system", ignore_errors=True)
        for name in ("nothing", "sysinit", "basic", "shutdown"):
            self.add_unit(f"{name}.target", EMPTY)

    def add_unit(self, name: str, text: str) -> None:
        """Give it a unit, or a drop-in such as `a.service.d/b.conf`."""
        path = self.etc / "systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def __enter__(self) -> Self:
        """Boot it and wait until it answers."""
        with self.log.open("wb") as log:
            command: list[str | Path] = [BOOT, "outside", self._folder, self._group, *self._visible]
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        try:
            wait_for(self._answers, f"systemd, which says: {self.log.read_text()}", 20.0)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it and all it started."""
        self._remove()

    def _answers(self) -> bool:
        """Say whether process 1 takes commands."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        if not children:
            return False
        self._pid = int(children[0])
        return self.run("systemctl", "is-active", "nothing.target", check=False).stdout == "active\n"

    def _remove(self) -> None:
        self._process.kill()
        self._process.wait()
        for parent in (CONTROL_GROUPS, *CONTROL_GROUPS.iterdir()):
            _remove_group(parent / self._group)
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command beside process 1, as root there."""
        command = ["nsenter", f"--target={self._pid}", "--all", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        assert not check or done.returncode == 0, f"{words}: {done.stderr}{done.stdout}\n{self.log.read_text()}"
        return done

    def show(self, unit: str, *properties: str) -> list[str]:
        """Read properties of a unit."""
        options = [f"--property={name}" for name in properties]
        shown = dict(line.split("=", 1) for line in self.run("systemctl", "show", unit, *options).stdout.splitlines())
        return [shown[name] for name in properties]


def _remove_group(path: Path) -> None:
    """Remove a control group and those in it, once their processes are gone."""
    if not path.is_dir():
        return
    wait_for(lambda: not any(file.read_text() for file in path.rglob("cgroup.procs")), f"the end of {path}")
    for folder in sorted((p for p in (path, *path.rglob("*")) if p.is_dir()), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
