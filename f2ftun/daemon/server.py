"""The control socket: who may ask, what was asked, one line each way.

The folder is 0750 and the socket 0660, so that only root, the node's user and the group `f2ftun` reach it; verbs that
write are for root and the node's user alone. Who asks is what the kernel says (`SO_PEERCRED`), never what the request
says. Garbage, half a request, a request too long, descriptors passed along, and clients that neither read nor write
cost that client its connection, nobody else anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import grp
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from f2ftun.api import schema
from f2ftun.errors import F2ftunError, InternalError, NodeBusy, NotAllowed, RequestMalformed, SocketTaken

CLIENTS: Final = 64
"""Connections at once of root and the node's user, and of all others together; a person has one, a script a few."""

SHARE: Final = 8
"""Connections at once of one of those others."""

REQUEST_TIMEOUT: Final = 10.0
"""Seconds in which a client must have sent a whole request, or taken its answer."""

GROUP: Final = "f2ftun"
"""The members of this group may read. Source: systemd/f2ftun.sysusers."""

Answer = Callable[[schema.Request], Awaitable[object]]

log = logging.getLogger(__name__)


class Server:
    """Listens at `path` and has each request answered by `answer`."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._path = path
        self._answer = answer
        self._clients: dict[asyncio.Task[None], int] = {}
        self._bound: socket.socket | None = None
        self._listener: asyncio.Server | None = None

    def bind(self) -> None:
        """Replace what a killed daemon left and let clients wait. Raises `SocketTaken`, `OSError`."""
        clear_socket(self._path)
        self._bound = _bind(self._path)

    async def open(self) -> None:
        """Answer those who wait and all who come."""
        assert self._bound is not None, "bind comes before open"
        self._listener = await asyncio.start_unix_server(self._serve, sock=self._bound, limit=schema.REQUEST_BYTES)

    async def close(self) -> None:
        """Stop listening, end every conversation but the one that asked for the end, and remove the socket."""
        if self._bound is None:
            return
        (self._listener or self._bound).close()
        others = self._clients.keys() - {asyncio.current_task()}
        for client in others:
            client.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it goes, errs or is too slow."""
        task, uid = asyncio.current_task(), _peer_uid(writer)
        if task is None or not self._has_room(uid):
            log.debug("user %d has too many connections to the control socket", uid)
            writer.write(schema.write_error(NodeBusy()))
            writer.close()
            return
        self._clients[task] = uid
        try:
            await self._converse(uid, reader, writer)
        except (TimeoutError, ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            del self._clients[task]
            writer.close()

    def _has_room(self, uid: int) -> bool:
        """Say whether a user may have one more connection; nobody can take those of root and the node's user."""
        users = list(self._clients.values())
        if may_write(uid):
            return sum(map(may_write, users)) < CLIENTS
        return users.count(uid) < SHARE and sum(not may_write(user) for user in users) < CLIENTS

    async def _converse(self, uid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer request after request."""
        while True:
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                error = RequestMalformed(reason=f"it is longer than {schema.REQUEST_BYTES} bytes")
                await _send(writer, schema.write_error(error))
                return
            await _send(writer, await self._reply(uid, line))

    async def _reply(self, uid: int, line: bytes) -> bytes:
        """Give the reply to one request of a user."""
        try:
            request = schema.parse_request(line)
            check_allowed(uid, request.verb)
            return schema.write_ok(await self._answer(request))
        except F2ftunError as error:
            return schema.write_error(error)
        except Exception as error:
            log.exception("a verb failed")
            return schema.write_error(InternalError(error=f"{type(error).__name__}: {error}"))


def check_allowed(uid: int, verb: schema.Verb) -> None:
    """Raise `NotAllowed` unless this user may ask that verb."""
    if verb.writes and not may_write(uid):
        raise NotAllowed(verb=verb.words)


def may_write(uid: int) -> bool:
    """Say whether a user is root or the node's own."""
    return uid in (0, os.geteuid())


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    """Send a reply and wait until the client has taken all but the last buffer of it. Raises `TimeoutError`."""
    writer.write(line)
    async with asyncio.timeout(REQUEST_TIMEOUT):
        await writer.drain()


def _peer_uid(writer: asyncio.StreamWriter) -> int:
    """Give the user at the other end, as the kernel knows them."""
    credentials = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    uid: int = struct.unpack("3i", credentials)[1]
    return uid


def clear_socket(path: Path) -> None:
    """Remove a socket that nobody listens at any more (the lock says so). Raises `SocketTaken` for anything else."""
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise SocketTaken(path=path)
    path.unlink(missing_ok=True)


def _bind(path: Path) -> socket.socket:
    """Bind and listen with mode 0660 from the first moment: the umask allows the owner only until the group is set."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    finally:
        os.umask(before)
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(GROUP).gr_gid)
    path.chmod(0o660)
    listener.listen(2 * CLIENTS)
    return listener
