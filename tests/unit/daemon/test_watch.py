"""The dead man's switch: a loop that hangs is noticed, one that works is left alone."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from pathlib import Path

import pytest

from f2ftun.daemon.notify import notify
from f2ftun.daemon.watch import MISSES, Watch, _lasting
from tests.unit.daemon.fakes import play

INTERVAL = 0.1
"""Seconds; long enough that a busy machine is not taken for a hang."""


def test_a_loop_that_works_is_left_alone() -> None:
    async def story() -> None:
        hung, beats = threading.Event(), []
        watch = asyncio.create_task(Watch(lambda: beats.append(1), hung.set).run(INTERVAL))
        await asyncio.sleep(INTERVAL * MISSES * 2)
        watch.cancel()
        assert not hung.is_set()
        assert len(beats) > MISSES

    play(story)


def test_a_loop_that_hangs_is_noticed() -> None:
    async def story() -> None:
        hung = threading.Event()
        watch = asyncio.create_task(Watch(lambda: None, hung.set).run(INTERVAL))
        await asyncio.sleep(INTERVAL)
        time.sleep(INTERVAL * MISSES * 3)  # noqa: ASYNC251 - the hang that is tested
        watch.cancel()
        assert hung.is_set()

    play(story)


def test_a_data_plane_that_hangs_is_noticed() -> None:
    async def story() -> None:
        hung = threading.Event()
        watch = asyncio.create_task(Watch(lambda: hung.wait(5), hung.set).run(INTERVAL))
        await asyncio.sleep(INTERVAL)
        watch.cancel()
        assert hung.is_set()

    play(story)


def test_the_restart_keeps_all_but_who_waits() -> None:
    assert _lasting(["-c", "x", "--ready-fd", "4"]) == ["-c", "x", "--detached"]
    assert _lasting(["-c", "x", "--json"]) == ["-c", "x"]
    assert _lasting(["-c", "x"]) == ["-c", "x"]
    assert _lasting(["-c", "x", "--detached"]) == ["-c", "x", "--detached"]


def test_systemd_hears_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
        manager.close()
        notify("WATCHDOG=1")
    monkeypatch.setenv("NOTIFY_SOCKET", "nonsense")
    notify("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify("READY=1")


def test_an_abstract_socket_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")
        name = manager.getsockname().decode()
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name[1:])
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
