"""The client: it finds the node or does without, and whatever answers, a sentence comes of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from f2ftun import config
from f2ftun.api import client as client_module
from f2ftun.api import schema
from f2ftun.api.client import Client, peer_pid
from f2ftun.errors import (
    Answered,
    AnswerMissing,
    ConfigNotFound,
    ConfigSyntax,
    ConfigUnreadable,
    ControlSocketTooLong,
    NodeNotRunning,
    NodeRunning,
    NodeSilent,
    SocketForbidden,
)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    path = tmp_path / "config.yaml"
    path.write_text(config.render(name="alice"))
    (tmp_path / "state").mkdir(mode=0o700)
    return Client(str(path))


@contextmanager
def daemon(client: Client, serve: Callable[[socket.socket], None], folder: str = "state") -> Iterator[None]:
    """Answer one connection in a thread."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(client.path.parent / folder / "control.sock"))
        listener.listen()
        thread = threading.Thread(target=lambda: serve(listener.accept()[0]))
        thread.start()
        yield
        thread.join()


def answering(reply: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            stream.readline()
            connection.sendall(reply)

    return serve


def test_a_running_node_is_asked(client: Client) -> None:
    with daemon(client, answering(b'{"ok": ["bob"]}\n')):
        assert client.ask("friend_list") == ["bob"]


def test_its_error_is_raised_as_it_stands(client: Client) -> None:
    with (
        daemon(client, answering(b'{"error": {"code": "name_refused", "message": "No {x}.", "exit": 2}}\n')),
        pytest.raises(Answered) as caught,
    ):
        client.ask("friend_list")
    assert (caught.value.code, str(caught.value), caught.value.answered_status) == ("name_refused", "No {x}.", 2)


@pytest.mark.parametrize("reply", [b"", b"{", b'{"ok": '])
def test_an_answer_that_breaks_off(client: Client, reply: bytes) -> None:
    with daemon(client, answering(reply)), pytest.raises(AnswerMissing):
        client.ask("status")


def test_a_node_that_says_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_TIMEOUT", 0.05)
    over = threading.Event()

    def serve(connection: socket.socket) -> None:
        with connection:
            over.wait(5)

    with daemon(client, serve):
        with pytest.raises(NodeSilent, match=f"process {os.getpid()}"):
            client.ask("status")
        over.set()


def test_no_node(client: Client) -> None:
    with pytest.raises(NodeNotRunning, match=f"sudo f2ftun -c {client.path} up"):
        client.ask("status")
    client.path.unlink()
    for verb in ("status", "reload"):
        with pytest.raises(ConfigNotFound, match=f"sudo f2ftun -c {client.path} init"):
            client.ask(verb)


@pytest.mark.parametrize(
    ("settings", "folder"),
    [("", "state"), ("state: elsewhere", "elsewhere"), ("control_socket: 'run/control.sock' # there", "run")],
)
def test_a_config_that_is_broken_does_not_hide_the_node(client: Client, settings: str, folder: str) -> None:
    (client.path.parent / folder).mkdir(exist_ok=True)
    (client.path.parent / "state/control.sock").unlink(missing_ok=True)
    client.path.write_text(f"name: [\n{settings}\n")
    with pytest.raises(ConfigSyntax):
        client.ask("status")
    with daemon(client, answering(b'{"ok": 1}\n'), folder):
        assert client.ask("status") == 1


def test_a_socket_that_a_killed_node_left(client: Client) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(client.path.parent / "state" / "control.sock"))
    assert client.connect() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_socket_that_is_not_for_us(client: Client) -> None:
    path = client.path.parent / "state" / "control.sock"
    for folder in (client.path.parent, client.path.parent.parent, client.path.parent.parent.parent):
        folder.chmod(0o755)
    client.path.chmod(0o644)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        os.seteuid(65534)
        try:
            with pytest.raises(SocketForbidden):
                client.connect()
        finally:
            os.seteuid(0)


NODE = """
import os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listening", flush=True)
connection, _ = listener.accept()
connection.makefile("rb").readline()
connection.sendall(b'{"ok": "found"}\\n')
"""
"""What stands for a node of another process, called as a node is."""


@contextmanager
def process(client: Client, monkeypatch: pytest.MonkeyPatch, source: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process whose command line is that of a node, but for the program."""
    target = client.path.parent / "elsewhere.sock"
    target.unlink(missing_ok=True)
    monkeypatch.setattr(client_module, "_command", lambda _, path: [sys.executable, "-c", source, os.fspath(target)])
    command = client_module._command("", client.path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running
        running.kill()


def test_a_node_that_listens_elsewhere_than_its_config_says_is_found(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(client, monkeypatch, NODE):
        assert client.ask("status") == "found"
    with pytest.raises(NodeNotRunning):
        client.ask("status")
    with process(client, monkeypatch, NODE), pytest.raises(NodeRunning):
        client.start()
    monkeypatch.setattr(client_module, "_trusted_users", lambda _: frozenset())
    with process(client, monkeypatch, NODE), pytest.raises(NodeNotRunning):
        client.ask("status")


REFUSING = NODE.replace('{"ok": "found"}', "")


@pytest.mark.parametrize("heeds", [True, False])
def test_down_is_true_of_a_node_that_does_not_answer(
    client: Client, monkeypatch: pytest.MonkeyPatch, heeds: bool
) -> None:
    monkeypatch.setattr(client_module, "STOP_TIMEOUT", 0.5)
    monkeypatch.setattr(Client, "_ask_oneshot", lambda *_: {"stopped": False, "removed": ["a route"]})
    deaf = "" if heeds else "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    with process(client, monkeypatch, deaf + REFUSING + "connection.close()\ntime.sleep(60)") as node:
        assert client.stop() == {"stopped": True, "removed": [] if heeds else ["a route"]}
        assert node.wait() == (-signal.SIGTERM if heeds else -signal.SIGKILL)


@pytest.mark.parametrize("path", ["x" * 200 + ".sock", "state/no/such", "config.yaml/under"])
def test_a_socket_that_cannot_be_is_no_node(client: Client, path: str) -> None:
    client.path.write_text(f"control_socket: {path}\n")
    with pytest.raises(ControlSocketTooLong if len(path) > 107 else NodeNotRunning):
        client.ask("status")


def test_a_config_that_is_no_file_is_said_to_be_none(client: Client, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        for verb in ("status", "key"):
            with pytest.raises(ConfigUnreadable, match=r"it is not a file|Is a directory"):
                Client(str(path)).ask(verb)


def test_verbs_that_need_no_daemon_are_done_without(client: Client) -> None:
    (client.path.parent / "state").rmdir()
    client.path.unlink()
    made = client.ask("init", name="alice")
    assert client.ask("key") == made["key"]
    assert client.ask("address") == made["address"]


def test_the_pid_is_the_kernels_word() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_pid(one) == os.getpid()


def test_a_node_that_started_meanwhile_hears_of_what_was_stored(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            asked.append(stream.readline())
            connection.sendall(b'{"ok": {}}\n')

    one, other = socket.socketpair(socket.AF_UNIX)
    connections: list[socket.socket | None] = [None, one]
    monkeypatch.setattr(Client, "connect", lambda self: connections.pop(0))
    monkeypatch.setattr(Client, "_ask_oneshot", lambda *_: "stored")
    thread = threading.Thread(target=serve, args=(other,))
    thread.start()
    assert client.ask("friend_remove", name="bob") == "stored"
    thread.join()
    assert asked == [schema.write_request("reload", {})]
    connections += [None]
    assert client.ask("friend_list") == "stored"
