"""How one asks a node: over its control socket, or, when no daemon runs, through a process of one verb.

Blocking, and light to import, because every command line goes through it. Who runs a node is learnt from the kernel
(`SO_PEERCRED` of the socket), never from a file; that a process is gone, from its pidfd.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from f2ftun import config
from f2ftun.api import schema
from f2ftun.errors import (
    Answered,
    AnswerMissing,
    ConfigError,
    ConfigNotFound,
    ConfigUnreadable,
    NodeNotRunning,
    NodeRunning,
    NodeSilent,
    NotStarted,
    SocketForbidden,
)

if TYPE_CHECKING:
    import subprocess

ANSWER_TIMEOUT: Final = 20.0
"""Seconds to wait for an answer beyond what a verb itself asks for; a busy node with 4,000 friends answers in one."""

START_TIMEOUT: Final = 5.0
"""Seconds in which a node must answer after its start. Source: docs/manual.md, `up`."""

STOP_TIMEOUT: Final = 5.0
"""Seconds for a node to go; then it hangs and is killed."""


class Client:
    """One node, as seen from outside: the one whose config file is `path`."""

    def __init__(self, option: str | None) -> None:
        """Find the config file: `option`, else `$F2FTUN_CONFIG`, else the system's own."""
        self.path = config.find(option)

    def ask(self, verb: str, **args: object) -> Any:
        """Ask one verb, of the daemon if it runs, else of a process of its own where the verb allows that.

        Raises `Answered` with the node's sentence, `NodeNotRunning`, `NodeSilent`, `SocketForbidden`.
        """
        request = schema.write_request(verb, args)
        wait = args.get("wait_s")
        patience = ANSWER_TIMEOUT + (wait if isinstance(wait, int | float) else 0)
        connection = self.connect()
        if connection is not None:
            with connection:
                return self._converse(connection, request, patience)
        if not schema.VERBS[verb].offline:
            raise NodeNotRunning(config=self.path) if self.path.exists() else ConfigNotFound(path=self.path)
        value = self._ask_oneshot(request, patience)
        if schema.VERBS[verb].writes:
            self._tell_newcomer()
        return value

    def _tell_newcomer(self) -> None:
        """Have a node that began to run while something was stored beside it read that too."""
        connection = self.connect()
        if connection is not None:
            with connection:
                self._converse(connection, schema.write_request("reload", {}), ANSWER_TIMEOUT)

    def connect(self) -> socket.socket | None:
        """Connect to the daemon, wherever it listens; `None` when none runs.

        Raises `ConfigError` when none runs and the config is broken, `SocketForbidden`.
        """
        problem, target, user = None, None, None
        try:
            loaded = config.load(self.path)
            target, user = loaded.control_socket, loaded.user
        except ConfigNotFound:
            pass
        except ConfigError as error:
            problem = error
            target = None if isinstance(error, ConfigUnreadable) else guess_control_socket(self.path)
        connection = self._connect(target) if target is not None else None
        connection = connection or self._connect_process(user)
        if connection is None and problem is not None:
            raise problem
        return connection

    def _connect_process(self, user: str | None) -> socket.socket | None:
        """Connect to a node that listens elsewhere than its config says by now; `None` when there is no such."""
        from f2ftun.api.process import listening_sockets

        found = listening_sockets(_command("f2ftun.daemon", self.path)[1:], _trusted_users(user))
        return next(filter(None, map(self._connect, found)), None)

    def _connect(self, target: Path) -> socket.socket | None:
        """Connect to a socket; `None` when nobody listens there."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(os.fspath(target))
        except PermissionError:
            connection.close()
            raise SocketForbidden(config=self.path, socket=target) from None
        except OSError:
            connection.close()
            return None
        return connection

    def _converse(self, connection: socket.socket, request: bytes, patience: float) -> Any:
        """Send the request and read the one line that answers it."""
        connection.settimeout(patience)
        try:
            with contextlib.suppress(BrokenPipeError):  # who does not listen may yet have said why
                connection.sendall(request)
            return self._parse(_read_line(connection))
        except TimeoutError:
            raise NodeSilent(config=self.path, pid=peer_pid(connection), seconds=patience) from None
        except ConnectionResetError:
            raise AnswerMissing(config=self.path) from None

    def _ask_oneshot(self, request: bytes, patience: float) -> Any:
        """Have the verb done by a process of its own."""
        import subprocess

        command = _command("f2ftun.daemon.oneshot", self.path)
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        done = subprocess.run(command, input=request, stdout=pipe, stderr=null, timeout=patience + 60, check=False)
        return self._parse(done.stdout)

    def _parse(self, line: bytes) -> Any:
        """Read a reply: give its value or raise its error."""
        try:
            reply = json.loads(line)
        except ValueError:
            raise AnswerMissing(config=self.path) from None
        if "error" in reply:
            error = reply["error"]
            raise Answered(code=error["code"], message=error["message"], exit_status=error["exit"])
        return reply["ok"]

    def start(self) -> Any:
        """Start the daemon detached from this terminal, its pipes and its session; give what it says when ready.

        Raises `Answered` with its reason when it does not come up, `NotStarted` after `START_TIMEOUT`.
        """
        import select

        connection = self.connect()
        if connection is not None:
            connection.close()
            raise NodeRunning(config=self.path)
        ready, told = os.pipe()
        with os.fdopen(ready, "rb") as answer:
            try:
                daemon = _spawn([*_command("f2ftun.daemon", self.path), "--ready-fd", str(told)], told)
            finally:
                os.close(told)
            if not select.select([answer], [], [], START_TIMEOUT)[0]:
                daemon.kill()
                raise NotStarted(seconds=START_TIMEOUT, log=config.load(self.path).state / "daemon.log")
            return self._parse(answer.readline())

    def run(self, as_json: bool = False) -> None:
        """Become the daemon, in the foreground, which says how it went as text or as JSON. Does not return."""
        options = ["--json"] if as_json else []
        os.execv(sys.executable, [*_command("f2ftun.daemon", self.path), *options])

    def stop(self) -> Any:
        """Stop the daemon and wait until its process is gone; then, or when none runs, sweep what is left of it."""
        connection = self.connect()
        if connection is None:
            return self._ask_oneshot(schema.write_request("down", {}), ANSWER_TIMEOUT)
        with connection:
            pid = peer_pid(connection)
            process = os.pidfd_open(pid)
            try:
                return self._stop(connection, process)
            finally:
                os.close(process)

    def _stop(self, connection: socket.socket, process: int) -> Any:
        """Ask for the end and wait for it; kill what neither answers nor heeds a signal, and sweep after it."""
        request = schema.write_request("down", {})
        value = {"stopped": True, "removed": []}
        try:
            value = self._converse(connection, request, STOP_TIMEOUT)
        except (NodeSilent, AnswerMissing):
            _signal(process, signal.SIGTERM)
        if _gone(process, STOP_TIMEOUT):
            return value
        _signal(process, signal.SIGKILL)
        _gone(process, STOP_TIMEOUT)
        return self._ask_oneshot(request, ANSWER_TIMEOUT) | {"stopped": True}


def guess_control_socket(path: Path) -> Path:
    """Find the control socket by a config that is broken: a running node must still hear `status` and `down`."""
    import re

    text = path.read_text(errors="replace")
    found: dict[str, str] = dict(re.findall(r"^(control_socket|state): *[\"']?([^\"'#\n]+)", text, re.MULTILINE))
    if "control_socket" in found:
        return path.parent / found["control_socket"].strip()
    if "state" in found:
        return path.parent / found["state"].strip() / "control.sock"
    return config.SYSTEM_CONTROL_SOCKET if path == config.SYSTEM_CONFIG else path.parent / "state" / "control.sock"


def peer_pid(connection: socket.socket) -> int:
    """Give the process at the other end of a Unix socket, as the kernel knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def _command(module: str, path: Path) -> list[str]:
    """Give the command line of one of our own processes. `-P`: no module is ever taken from the current directory."""
    return [sys.executable, "-P", "-m", module, "-c", os.path.abspath(path)]


def _spawn(command: Sequence[str], told: int) -> subprocess.Popen[bytes]:
    """Start a process that lets go of our terminal, pipes, session and folder, and keeps the one descriptor `told`."""
    import subprocess

    null = subprocess.DEVNULL
    return subprocess.Popen(
        command, stdin=null, stdout=null, stderr=null, cwd="/", start_new_session=True, pass_fds=(told,)
    )


def _read_line(connection: socket.socket) -> bytes:
    """Read up to the newline, at most `REPLY_BYTES`."""
    with connection.makefile("rb") as stream:
        return stream.readline(schema.REPLY_BYTES)


def _gone(process: int, timeout: float) -> bool:
    """Wait until the process of a pidfd has ended; say whether it did."""
    import select

    poll = select.poll()
    poll.register(process, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


def _signal(process: int, number: signal.Signals) -> None:
    """Send a signal to the process of a pidfd, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process, number)


def _trusted_users(name: str | None) -> frozenset[int]:
    """Give who may run a node that we believe: root, ourselves, and the user that its config names."""
    import pwd

    users = {0, os.geteuid()}
    with contextlib.suppress(KeyError):
        users |= {pwd.getpwnam(name).pw_uid} if name is not None else set()
    return frozenset(users)
