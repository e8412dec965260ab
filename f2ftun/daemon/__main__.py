"""The daemon's process: `python -m f2ftun.daemon -c CONFIG`, as `f2ftun up` and systemd start it.

Privileges go first, then the lock is taken, then everything is opened that a node is made of, and only when the TUN
answers is that told to whoever started us: through a pipe whose end they gave us, or to systemd. Whatever fails is
told the same way, as one sentence. SIGTERM and `down` end it within a second, and nothing is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NoReturn

from f2ftun import config
from f2ftun.api import schema
from f2ftun.config import Config
from f2ftun.daemon.control import Control
from f2ftun.daemon.home import Home, Lock
from f2ftun.daemon.host import Host
from f2ftun.daemon.log import open_log
from f2ftun.daemon.node import MIN_LIFE, Node
from f2ftun.daemon.notify import notify
from f2ftun.daemon.ping import Pinger
from f2ftun.daemon.privilege import give_up
from f2ftun.daemon.reload import reload
from f2ftun.daemon.server import Server
from f2ftun.daemon.watch import Watch, restart
from f2ftun.errors import F2ftunError, InternalError

THREADS: Final = 2
"""For what waits for a child process, `nft`; each thread costs some megabytes."""

log = logging.getLogger("f2ftun.daemon")


class Starter:
    """Whoever started this process, and is told once how that went; `descriptor` is the pipe to them, if they wait.

    Without one it is a person or a service manager in the foreground, or, with `as_json`, a program.
    """

    def __init__(self, descriptor: int | None, as_json: bool = False) -> None:
        self._descriptor = descriptor
        self._json = as_json

    def tell_ready(self, value: dict[str, Any]) -> None:
        """Say that the node is up."""
        notify("READY=1")
        if self._json:
            self._print(value)
        self._tell(schema.write_ok(value))

    def tell_error(self, error: F2ftunError) -> None:
        """Say why it is not."""
        if self._json:
            self._print({"error": {"code": error.code, "message": str(error)}})
        elif self._descriptor is None:
            print(f"f2ftun: {error}", file=sys.stderr)  # noqa: T201 - nobody else hears it
        self._tell(schema.write_error(error))

    def _print(self, value: object) -> None:
        """Print the one JSON value that this process prints."""
        self._json = False
        print(json.dumps(value), flush=True)  # noqa: T201 - nobody else hears it

    def _tell(self, line: bytes) -> None:
        """Write to the pipe and let go of it; a starter who is gone does not matter."""
        if self._descriptor is not None:
            try:
                os.write(self._descriptor, line)
            except BrokenPipeError:
                log.warning("nobody waited for the node to start")
            os.close(self._descriptor)
            self._descriptor = None


def main() -> NoReturn:
    """Run the daemon; its exit status is 0 if it was asked to end."""
    options = _parse(sys.argv[1:])
    logging.getLogger().addHandler(logging.NullHandler())  # before there is a log, only the starter is told
    starter = Starter(options.ready_fd, options.json)
    try:
        began_at = time.monotonic()
        status = _run(Path(options.config), starter, detached=options.ready_fd is not None or options.detached)
        if status != 0 and time.monotonic() - began_at > MIN_LIFE:
            restart()
    except F2ftunError as error:
        log.error("%s", error)
        starter.tell_error(error)
        status = error.exit_status
    except Exception as error:
        log.exception("the node failed")
        starter.tell_error(InternalError(error=f"{type(error).__name__}: {error}"))
        status = 1
    logging.shutdown()
    os._exit(status)  # threads that still resolve a name must not delay the end


def _parse(arguments: list[str]) -> argparse.Namespace:
    """Read our own command line."""
    parser = argparse.ArgumentParser(prog="python -m f2ftun.daemon")
    parser.add_argument("-c", "--config", required=True)
    parser.add_argument("--ready-fd", type=int)
    parser.add_argument("--detached", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def _run(path: Path, starter: Starter, detached: bool) -> int:
    """Run from the config to the end."""
    import uvloop

    loaded = config.load(path)
    pinger = Pinger()
    give_up(loaded)
    lock = Lock.take(loaded)
    open_log(loaded.log_level, loaded.state if detached else None)
    home = Home.open(path)
    try:
        return uvloop.run(_serve(home, pinger, starter))
    finally:
        home.close()
        lock.close()


async def _serve(home: Home, pinger: Pinger, starter: Starter) -> int:
    """Open the node and its control socket, and close them when it should end."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(THREADS, "worker"))
    node = Node(home, Host(home.config.interface, home.identity.address))
    server = Server(home.config.control_socket, Control(home, node, pinger).answer)
    server.bind()
    try:
        await node.open()
        await server.open()
        _heed_signals(node)
        node.spawn(Watch(node.check).run())
        starter.tell_ready(_introduced(home.config, node))
        log.info("%s is up at %s", home.config.name, home.identity.address)
        await node.stopping.wait()
        notify("STOPPING=1")
        log.info("stopping")
    finally:
        await server.close()
        await node.close()
    return 1 if node.failed else 0


def _introduced(loaded: Config, node: Node) -> dict[str, Any]:
    """Say who is up where."""
    return {
        "pid": os.getpid(),
        "name": loaded.name,
        "address": str(node.home.identity.address),
        "interface": loaded.interface,
        "listen": node.device.listen,
    }


def _heed_signals(node: Node) -> None:
    """End on SIGTERM and SIGINT, reload on SIGHUP."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: node.spawn(_reload(node)))


async def _reload(node: Node) -> None:
    """Apply a changed config; a broken one is logged and changes nothing."""
    try:
        log.info("reload: %s", await reload(node))
    except F2ftunError as error:
        log.error("reload: %s", error)


if __name__ == "__main__":
    main()
