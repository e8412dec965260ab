"""`f2ftun dissect`: what captured datagrams say; with a node's key log, what is in them.

Reads pcap and pcapng files, or an interface. Needs no daemon; listening needs CAP_NET_RAW. Numbers and hex only are
printed of what came from the network, so no capture can write to the terminal.
"""

from __future__ import annotations

import importlib.util
import json as json_module
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from f2ftun.errors import F2ftunError, UsageError
from f2ftun.ui.cli import Command
from f2ftun.wire.capture import LINK_RAW, NotACapture, Record, read_capture, udp_payload
from f2ftun.wire.keylog import DataKey, parse_key_log

if TYPE_CHECKING:
    from f2ftun.ui.cli import Shell

_ETH_P_ALL = 0x0003
_MAX_PACKET_BYTES = 1 << 18
_LOOK_UP_INTERVAL = 0.2
"""Seconds until an interrupt is noticed where nothing passes."""
_SHOWN_HEX_CHARACTERS = 32

Row = dict[str, Any]


class ScapyMissing(F2ftunError):
    """Dissecting needs scapy, which is not installed. Install it with: pip install 'f2ftun[dissect]'"""


class CaptureUnreadable(F2ftunError):
    """{path} cannot be dissected: {reason}. Give a file written by tcpdump -w or Wireshark."""


class KeyLogUnreadable(F2ftunError):
    """The key log {path} cannot be read: {reason}."""


class InterfaceUnheard(F2ftunError):
    """The interface {interface} cannot be listened to: {reason}. `ip link` lists interfaces; listening needs root."""


class NothingToDissect(UsageError):
    """Say what to dissect: a capture file, or -i and an interface."""


class KeyLog:
    """The keys of a node's key log, read anew when the file has grown."""

    def __init__(self, path: Path | None) -> None:
        """Read the file once. Raises `KeyLogUnreadable`."""
        self._path = path
        self._size = -1
        self._keys: dict[int, DataKey] = {}

    def keys(self) -> dict[int, DataKey]:
        """Give the key of each receiver index. Raises `KeyLogUnreadable`."""
        if self._path is None:
            return self._keys
        try:
            size = self._path.stat().st_size
            if size != self._size:
                self._keys = parse_key_log(self._path.read_text("ascii", errors="replace"))
                self._size = size
        except OSError as error:
            raise KeyLogUnreadable(path=str(self._path), reason=error.strerror or "") from None
        return self._keys


@click.command(cls=Command)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("-i", "--interface", metavar="IF", help="Listen here instead; end with Ctrl-C.")
@click.option("--keylog", metavar="FILE", type=click.Path(path_type=Path), help="A node's key log: show frames too.")
@click.pass_obj
def dissect(shell: Shell, file: Path | None, interface: str | None, keylog: Path | None) -> int:
    """Show what captured datagrams say."""
    if (file is None) == (interface is None):
        raise NothingToDissect
    return dissect_file(file, keylog, shell.json) if file else dissect_live(interface or "", keylog, shell.json)


def dissect_file(path: Path, keylog: Path | None, json: bool) -> int:
    """Print the datagrams of a pcap or pcapng file. Raises `CaptureUnreadable`, `KeyLogUnreadable`, `ScapyMissing`."""
    try:
        with path.open("rb") as stream:
            return _print(_rows(read_capture(stream), KeyLog(keylog)), json)
    except NotACapture:
        raise CaptureUnreadable(path=str(path), reason="it is no pcap or pcapng file") from None
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CaptureUnreadable(path=str(path), reason=error.strerror or "it cannot be read") from None


def dissect_live(interface: str, keylog: Path | None, json: bool) -> int:
    """Print what passes an interface until interrupted. Raises `InterfaceUnheard`, and as `dissect_file`."""
    try:
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        with closing(listener):
            listener.bind((interface, _ETH_P_ALL))
            return _print(_rows(_listen(listener), KeyLog(keylog)), json)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise InterfaceUnheard(interface=interface, reason=error.strerror or "no such interface") from None


def _listen(listener: socket.socket) -> Iterator[Record]:
    """Give what passes, from the IP header on, until interrupted; what was begun is shown to its end."""
    ended = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: ended.set())
    listener.settimeout(_LOOK_UP_INTERVAL)
    try:
        while not ended.is_set():
            with suppress(TimeoutError):
                yield Record(time.time(), LINK_RAW, listener.recv(_MAX_PACKET_BYTES))
    finally:
        signal.signal(signal.SIGINT, before)


def _rows(records: Iterator[Record], key_log: KeyLog) -> Iterator[Row]:
    """Dissect what is f2ftun's; other traffic is passed over."""
    if importlib.util.find_spec("scapy") is None:
        raise ScapyMissing
    from f2ftun.wire.dissection import dissect_payload

    for record in records:
        carried = udp_payload(record.link, record.data)
        if carried is None:
            continue
        for dissection in dissect_payload(carried.payload, key_log.keys()):
            where = {"source": carried.source, "destination": carried.destination}
            yield {"captured_at": record.captured_at, **where, **dissection}


def _print(rows: Iterator[Row], json: bool) -> int:
    """Print row by row; as JSON, one array that is whole even when the rows end early."""
    if not json:
        for row in rows:
            click.echo(_line(row))
        return 0
    first = next(rows, None)
    click.echo("[" + ("" if first is None else json_module.dumps(first)), nl=False)
    try:
        for row in rows:
            click.echo(",\n" + json_module.dumps(row), nl=False)
    finally:
        click.echo("]")
    return 0


def _line(row: Row) -> str:
    """Write a row for people."""
    words = [_time(row["captured_at"]), row["source"], ">", row["destination"], f"{row['bytes']:5}", row["type"]]
    if row.get("forged"):
        words.append("FORGED, or of another session")
    if (frame := row.get("frame")) is not None:
        return " ".join([*words, f"#{row['counter']} to {row['fields']['receiver_index']}:", _text(frame)])
    return " ".join([*words, _text(row["fields"])])


def _time(captured_at: float) -> str:
    """Write the time of day in UTC; captures may claim times that no calendar has."""
    try:
        return datetime.fromtimestamp(captured_at, UTC).strftime("%H:%M:%S.%f")
    except (ValueError, OverflowError, OSError):
        return "--:--:--.------"


def _text(fields: dict[str, int | str]) -> str:
    return " ".join(f"{name}={_shortened(value)}" for name, value in fields.items() if value != "")


def _shortened(value: int | str) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN_HEX_CHARACTERS else f"{text[:_SHOWN_HEX_CHARACTERS]}…({len(text) // 2} bytes)"
