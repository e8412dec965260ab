"""The netlink thread: the one place where pyroute2 runs.

pyroute2 drives an event loop of its own, which may be neither the daemon's (it is running already) nor uvloop's (which
knows no AF_NETLINK). So one thread holds one socket and one selector loop; work comes in as functions of that socket,
one after the other, and goes out as plain values.

Source: docs.pyroute2.org; measured traps with 0.9.7 under uvloop.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, Self, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from f2ftun.errors import F2ftunError

RENEW_AFTER = 256
"""Calls on one socket: pyroute2 0.9.7 keeps what it reads after an answer, some 3 KB a call, until that closes."""

P = ParamSpec("P")
T = TypeVar("T")


class NetworkNotPermitted(F2ftunError):
    """The kernel does not let this process {action}.

    Start f2ftun as root, or with the capability CAP_NET_ADMIN.
    """


class NetworkRefused(F2ftunError):
    """The kernel refused to {action}: {reason}. `f2ftun doctor` says more."""


class Netlink:
    """A context manager around the thread and its socket. Opening takes some 6 ms, an answer 1 ms."""

    def __init__(self) -> None:
        self._calls = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="netlink")
        try:
            self._loop, self._socket = self._thread.submit(_open_socket).result()
        except BaseException:
            self._thread.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Finish what was asked, close the socket and end the thread. A second call does nothing."""
        if self._socket is not None:
            self._thread.submit(_close_socket, self._loop, self._socket).result()
            self._thread.shutdown()
            self._socket = None

    async def run(self, function: Callable[Concatenate[IPRoute, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function(socket, …)` in the thread and return what it returns.

        Its name, underscores as spaces, says in `NetworkRefused` and `NetworkNotPermitted` what failed.
        """
        call = asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: function(self._fresh_socket(), *args, **kwargs)
        )
        try:
            return await call
        except NetlinkError as error:
            raise _told(error, function.__name__) from error

    def _fresh_socket(self) -> IPRoute:
        """Give the socket, a new one after `RENEW_AFTER` calls; only in the thread."""
        if self._calls == RENEW_AFTER:
            _close_socket(self._loop, self._socket)
            self._loop, self._socket = _open_socket()
            self._calls = 0
        self._calls += 1
        return self._socket


def _told(error: NetlinkError, function: str) -> F2ftunError:
    action = function.strip("_").replace("_", " ")
    if error.code in {errno.EPERM, errno.EACCES}:
        return NetworkNotPermitted(action=action)
    return NetworkRefused(action=action, reason=os.strerror(error.code))


def _open_socket() -> tuple[asyncio.AbstractEventLoop, IPRoute]:
    loop = asyncio.SelectorEventLoop()
    return loop, IPRoute(use_event_loop=loop)


def _close_socket(loop: asyncio.AbstractEventLoop, socket: IPRoute) -> None:
    socket.close()
    loop.run_until_complete(asyncio.sleep(0))  # its transport closes in the loop's next turn
    loop.close()
