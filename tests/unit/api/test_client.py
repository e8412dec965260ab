"""The client: it finds the node or does without, and whatever answers, a sentence comes of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from f2ftun import config
from f2ftun.api import client as client_module
from f2ftun.api import schema
from f2ftun.api.client import Client, peer_pid
from f2ftun.errors import Answered, AnswerMissing, NodeNotRunning, NodeSilent, SocketForbidden


@pytest.fixture
def client(tmp_path: Path) -> Client:
    path = tmp_path / "config.yaml"
    path.write_text(config.render(name="alice"))
    (tmp_path / "state").mkdir(mode=0o700)
    return Client(str(path))


@contextmanager
def daemon(client: Client, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Answer one connection in a thread."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(client.path.parent / "state" / "control.sock"))
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
    with pytest.raises(NodeNotRunning):
        client.ask("status")


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
