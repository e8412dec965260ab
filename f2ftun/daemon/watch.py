"""The dead man's switch: a node whose control loop hangs ends, so that nothing half alive remains.

A task beats every `BEAT_INTERVAL`, after asking the data plane's thread for its counters: a beat says that both are
well. A thread wakes as often and counts its own wake-ups without a beat between them; so a process that was stopped
or a machine that slept is not taken for a hang. After `MISSES` it starts the program anew in the same process:
descriptors close, the TUN with them, and the routes beneath it refuse what would otherwise leave the host. systemd
hears the same beats.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from f2ftun.daemon.notify import notify

BEAT_INTERVAL: Final = 5.0
"""Seconds between beats. Idle CPU: two wake-ups in that time. systemd's WatchdogSec must be at least three times
this."""

MISSES: Final = 4
"""Wake-ups of the watching thread without a beat: 20 s. A node with 4,000 friends needs one to start."""

log = logging.getLogger(__name__)


def restart() -> None:
    """Start this program anew in the same process, with the same arguments but for the descriptor to report to."""
    os.execv(sys.executable, [sys.executable, "-P", "-m", "f2ftun.daemon", *_lasting(sys.argv[1:])])


def _lasting(arguments: list[str]) -> list[str]:
    """Drop `--ready-fd N` and `--json`: whoever waited for it has his answer."""
    arguments = [word for word in arguments if word != "--json"]
    if "--ready-fd" not in arguments:
        return arguments
    at = arguments.index("--ready-fd")
    return [*arguments[:at], "--detached", *arguments[at + 2 :]]


class Watch:
    """Watches one event loop; `check` is called in it before each beat and must return."""

    def __init__(self, check: Callable[[], object], hung: Callable[[], None] = restart) -> None:
        self._check = check
        self._hung = hung
        self._beats = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._count, name="watch", daemon=True)

    async def run(self, interval: float = BEAT_INTERVAL) -> None:
        """Beat until cancelled."""
        self._interval = interval
        self._thread.start()
        try:
            while True:
                self._beat()
                await asyncio.sleep(interval)
        finally:
            self._over.set()

    def _beat(self) -> None:
        """Beat, if all is well."""
        try:
            self._check()
        except Exception:
            log.exception("the node is not well")
            return
        self._beats += 1
        notify("WATCHDOG=1")

    def _count(self) -> None:
        """Count wake-ups without a beat."""
        misses, seen = 0, self._beats
        while not self._over.wait(self._interval):
            misses, seen = (misses + 1 if self._beats == seen else 0), self._beats
            if misses >= MISSES:
                log.critical("the control loop hangs; starting anew")
                self._hung()
                return
