"""One verb of a node whose daemon does not run: a request on stdin, its reply on stdout, then the process ends.

`python -m f2ftun.daemon.oneshot -c CONFIG`, started by `api/client`. It has the rights of whoever started it. `init`
makes the node; `invite` and `join` make it too where there is none, so that a fresh machine needs no other command
first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from f2ftun.api import schema
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home, create
from f2ftun.errors import ConfigNotFound, F2ftunError, InternalError, NodeNotRunning
from f2ftun.wire.invite import parse as parse_invite
from f2ftun.wire.key import write_key
from f2ftun.wire.name import parse_name
from f2ftun.wire.quantity import parse_duration

FOUNDING: Final = frozenset({"invite", "join"})
"""Verbs that make the node where there is none."""


def main() -> None:
    """Answer the one request."""
    try:
        value = _answer(Path(sys.argv[2]), schema.parse_request(sys.stdin.buffer.readline(schema.REQUEST_BYTES + 1)))
        reply = schema.write_ok(value)
    except F2ftunError as error:
        reply = schema.write_error(error)
    except Exception as error:  # noqa: BLE001 - no traceback reaches a user
        reply = schema.write_error(InternalError(error=f"{type(error).__name__}: {error}"))
    sys.stdout.buffer.write(reply)
    sys.stdout.buffer.flush()


def _answer(path: Path, request: schema.Request) -> object:
    """Open the node, do the verb, close the node."""
    if not request.verb.offline:
        raise NodeNotRunning(config=path) if os.path.lexists(path) else ConfigNotFound(path=path)
    if request.verb.name == "init":
        return _found(path, request)
    if request.verb.name == "doctor" and not os.path.lexists(path):
        from f2ftun.daemon.doctor import doctor_before

        return _finish(doctor_before(path), kernel=True)
    founding = request.verb.name in FOUNDING and not os.path.lexists(path)
    if founding:
        _check(request)
    home = create(path) if founding else Home.open(path)
    try:
        return _finish(Control(home).answer(request), request.verb.kernel)
    finally:
        home.close()


def _check(request: schema.Request) -> None:
    """Read what was typed before a node is made for it."""
    name, invite, expires = (request.args.get(key) for key in ("name", "invite", "expires"))
    if name is not None:
        parse_name(str(name))
    if invite is not None:
        parse_invite(str(invite))
    if expires is not None:
        parse_duration(str(expires))


def _found(path: Path, request: schema.Request) -> object:
    """Make a node."""
    args: dict[str, Any] = request.args
    home = create(path, **args)
    try:
        return {
            "config": str(path),
            "key": write_key(home.identity.node_key),
            "address": str(home.identity.address),
            "kept_key": home.kept_key,
        }
    finally:
        home.close()


def _finish(work: Coroutine[Any, Any, object], kernel: bool) -> object:
    """Run a verb to its end; one that does not ask the kernel never waits and needs no event loop."""
    if kernel:
        import asyncio

        return asyncio.run(work)
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a verb waited that should not")


if __name__ == "__main__":
    main()
