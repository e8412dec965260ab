"""The control socket: it stands between anything that can be sent and the node."""

from __future__ import annotations

import array
import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from f2ftun.api import schema
from f2ftun.daemon import server as server_module
from f2ftun.daemon.server import CLIENTS, SHARE, Server, check_allowed
from f2ftun.errors import FriendUnknown, NotAllowed, SocketTaken
from tests.unit.daemon.fakes import play


async def answer(request: schema.Request) -> object:
    match request.verb.name:
        case "key":
            return "k"
        case "friend_show":
            raise FriendUnknown(name=str(request.args["name"]), hint="")
        case "doctor":
            raise ZeroDivisionError("a fault")
    return dict(request.args)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Path]:
    path = folder / "control.sock"
    server = Server(path, answer)
    server.bind()
    await server.open()
    try:
        yield path
    finally:
        await server.close()


async def converse(path: Path, data: bytes) -> Any:
    """Send some bytes and read one line."""
    reader, writer = await asyncio.open_unix_connection(path, limit=schema.REPLY_BYTES)
    writer.write(data)
    line = await reader.readline()
    writer.close()
    return json.loads(line) if line else None


def test_verbs_errors_and_faults_are_answered(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}
            error = (await converse(path, b'{"verb": "friend_show", "args": {"name": "bob"}}\n'))["error"]
            assert error["code"] == "friend_unknown"
            fault = (await converse(path, b'{"verb": "doctor"}\n'))["error"]
            assert fault["code"] == "internal_error"
            assert "Traceback" not in fault["message"]

    play(story)


def test_a_connection_may_ask_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            reader, writer = await asyncio.open_unix_connection(path)
            for _ in range(3):
                writer.write(b'{"verb": "key"}\n')
                assert json.loads(await reader.readline()) == {"ok": "k"}
            writer.close()

    play(story)


def test_the_socket_is_for_owner_and_group_and_goes_with_the_server(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert not path.exists()

    play(story)


def test_what_a_killed_daemon_left_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(tmp_path / "control.sock"))
        async with serving(tmp_path) as path:
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}
        for plant in (lambda: path.write_text("mine"), lambda: path.symlink_to(tmp_path), path.mkdir):
            plant()
            with pytest.raises(SocketTaken):
                Server(path, answer).bind()
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    play(story)


def test_a_request_that_is_too_long_costs_its_sender_the_connection(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            assert (await converse(path, b"x" * (schema.REQUEST_BYTES * 2)))["error"]["code"] == "request_malformed"
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}

    play(story)


def test_slow_clients_and_too_many_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            slow = [await asyncio.open_unix_connection(path) for _ in range(CLIENTS)]
            for _, writer in slow:
                writer.write(b'{"verb":')
            assert (await converse(path, b""))["error"]["code"] == "node_busy"
            assert [await reader.read() for reader, _ in slow] == [b""] * CLIENTS
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}
            for _, writer in slow:
                writer.close()

    monkeypatch.setattr(server_module, "REQUEST_TIMEOUT", 0.2)
    play(story)


def test_nobody_can_lock_out_root_and_the_nodes_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = 1000

    async def story() -> None:
        nonlocal uid
        async with serving(tmp_path) as path:
            held = []
            for uid in (1000, 1001):  # noqa: B007 - the server looks at it
                held += [await asyncio.open_unix_connection(path) for _ in range(SHARE + 1)]
                assert (await converse(path, b'{"verb": "key"}\n'))["error"]["code"] == "node_busy"
            uid = 1002
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}
            for uid in range(2000, 2000 + CLIENTS):  # noqa: B007
                held += [await asyncio.open_unix_connection(path)]
            assert (await converse(path, b'{"verb": "key"}\n'))["error"]["code"] == "node_busy"
            uid = os.geteuid()
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}
            for _, writer in held:
                writer.close()

    monkeypatch.setattr(server_module, "_peer_uid", lambda _: uid)
    play(story)


def test_descriptors_passed_along_are_not_taken(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            with socket.socket(socket.AF_UNIX) as client, open("/dev/null") as passed:  # noqa: ASYNC230 - no disk
                client.connect(os.fspath(path))
                before = len(os.listdir("/proc/self/fd"))
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [passed.fileno()] * 20))
                client.sendmsg([b'{"verb": "key"}\n'], [rights])
                client.setblocking(False)
                assert json.loads(await asyncio.get_running_loop().sock_recv(client, 100)) == {"ok": "k"}
                assert len(os.listdir("/proc/self/fd")) - before <= 1

    play(story)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunks=st.lists(st.binary(max_size=60), max_size=4))
def test_garbage_harms_nobody(tmp_path: Path, chunks: list[bytes]) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            _, writer = await asyncio.open_unix_connection(path)
            for chunk in chunks:
                writer.write(chunk)
                await asyncio.sleep(0)
            writer.close()
            assert await converse(path, b'{"verb": "key"}\n') == {"ok": "k"}

    play(story)


def test_who_may_write() -> None:
    for verb in schema.VERBS.values():
        check_allowed(0, verb)
        check_allowed(os.geteuid(), verb)
        if verb.writes:
            with pytest.raises(NotAllowed):
                check_allowed(12345, verb)
        else:
            check_allowed(12345, verb)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_the_kernel_says_who_asks(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as path:
            for folder in (path, tmp_path, tmp_path.parent, tmp_path.parent.parent):
                folder.chmod(0o777)
            os.seteuid(65534)
            try:
                client = socket.socket(socket.AF_UNIX)
                client.connect(os.fspath(path))
            finally:
                os.seteuid(0)
            reader, writer = await asyncio.open_unix_connection(sock=client)
            writer.write(b'{"verb": "down", "args": {}, "uid": 0}\n{"verb": "key"}\n')
            assert json.loads(await reader.readline())["error"]["code"] == "not_allowed"
            assert json.loads(await reader.readline()) == {"ok": "k"}
            writer.close()

    play(story)


def test_closing_waits_for_nobody(tmp_path: Path) -> None:
    """A client whose answer was just sent must not outlive the cancellation that comes with it."""

    async def story() -> None:
        server = Server(tmp_path / "control.sock", answer)
        server.bind()
        await server.open()
        reader, writer = await asyncio.open_unix_connection(tmp_path / "control.sock")
        writer.write(b'{"verb": "key"}\n')
        await reader.readline()
        async with asyncio.timeout(1):
            await server.close()
        writer.close()

    for _ in range(20):
        uvloop.run(story())
