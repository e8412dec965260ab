"""What is measured of one tunnel, and how.

TCP by iperf3; small UDP packets by `bench.udp`; round trips by ping every 2 ms; the daemons' processor time from
/proc/PID/stat, which sums all threads.
"""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.lab import BenchError, Namespace, wait_for
from bench.rivals import ROOT, Tunnel

TCP_PORT = 5201
UDP_PORT = 5202
LOSS_LIMIT = 0.01
"""Share of packets that a rate may lose and still count as carried."""

TRIES = 2
"""A busy machine stumbles now and then; a rate that is too high fails every time."""

PING_INTERVAL = 0.002
"""Seconds; root may ask for it."""

UDP_SINK_IDLE = 0.5
"""Seconds without a packet after which the sink stops counting."""

FIRST_RATE = 8_000.0
"""Packets per second at which the search for the highest clean rate begins at the latest."""

SENDER_LIMIT = 0.9
"""A rate of which less than this share left the sender is the sender's own limit, not the tunnel's."""

Sample = dict[str, float]
"""One turn's figures by name."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each measurement lasts, in seconds, and how many rates the search for the clean UDP rate tries."""

    seconds: int
    udp_seconds: float
    steps: int


class Turn:
    """One contender's tunnel under measurement."""

    def __init__(self, ends: Sequence[Namespace], tunnel: Tunnel, effort: Effort) -> None:
        self._ends, self._tunnel, self._effort = ends, tunnel, effort

    def measure(self) -> Sample:
        """Take every figure once."""
        sample = self._idle_rtt() | self._tcp() | self._loaded_rtt() | self._udp()
        return sample | self._memory()

    def _tcp(self) -> Sample:
        self._stream(1, 0, 1)
        before = self._cpu()
        out = self._stream(1, 0, self._effort.seconds)
        spent = [after - earlier for after, earlier in zip(self._cpu(), before, strict=True)]
        gigabytes = out * self._effort.seconds / 8e9
        return {
            "tcp1_out_bps": out,
            "tcp1_in_bps": self._stream(1, 1, self._effort.seconds),
            "tcp4_out_bps": self._stream(4, 0, self._effort.seconds),
            "tcp4_in_bps": self._stream(4, 1, self._effort.seconds),
            "cpu_send_s_per_gb": spent[0] / gigabytes,
            "cpu_receive_s_per_gb": spent[1] / gigabytes,
        }

    def _stream(self, streams: int, sender: int, seconds: int) -> float:
        """Measure TCP from one end to the other, in bits per second received."""
        client = self._client(streams, sender, seconds)
        told, _ = client.communicate(timeout=seconds + 30)
        return received_bps(told)

    def _client(self, streams: int, sender: int, seconds: int) -> subprocess.Popen[str]:
        ends, address = self._ends, self._tunnel.addresses[1 - sender]
        return stream(ends[sender], ends[1 - sender], address, seconds, streams)

    def _idle_rtt(self) -> Sample:
        p50, p99 = self._ping(self._effort.seconds)
        return {"rtt_idle_p50_s": p50, "rtt_idle_p99_s": p99}

    def _loaded_rtt(self) -> Sample:
        client = self._client(1, 0, self._effort.seconds + 1)
        p50, p99 = self._ping(self._effort.seconds)
        client.communicate(timeout=self._effort.seconds + 30)
        return {"rtt_loaded_p50_s": p50, "rtt_loaded_p99_s": p99}

    def _ping(self, seconds: int) -> tuple[float, float]:
        """Ping every 2 ms; return the median and the 99th percentile in seconds."""
        argv = ["ping", "-i", str(PING_INTERVAL), "-w", str(seconds), self._tunnel.addresses[1]]
        told = self._ends[0].run(*argv, check=False, timeout=seconds + 20)
        times = [float(ms) / 1e3 for ms in re.findall(r"time=([0-9.]+) ms", told)]
        if len(times) < 20:
            raise BenchError(f"only {len(times)} pings were answered")
        return statistics.median(times), statistics.quantiles(times, n=100)[98]

    def _udp(self) -> Sample:
        seconds = self._effort.udp_seconds
        _, flooded = self._packets(0.0, seconds)
        best = self._search(max(FIRST_RATE, flooded / seconds))
        return {"udp_flood_pps": flooded / seconds, "udp_clean_pps": best}

    def _search(self, guess: float) -> float:
        """Find the highest rate that loses under 1 %: grow while it is carried, then halve the gap."""
        clean, dirty, rate = 0.0, math.inf, guess
        for _ in range(self._effort.steps):
            carried = self._clean(rate)
            clean, dirty = (max(clean, carried), dirty) if carried else (clean, rate)
            if carried and carried < rate * SENDER_LIMIT:
                break
            rate = _next_rate(clean, dirty)
        return clean

    def _clean(self, rate: float) -> float:
        """Offer a rate, up to `TRIES` times; return the rate received once under 1 % was lost, else 0."""
        for _ in range(TRIES):
            sent, received = self._packets(rate, self._effort.udp_seconds)
            if sent and received >= sent * (1 - LOSS_LIMIT):
                return received / self._effort.udp_seconds
        return 0.0

    def _packets(self, rate: float, seconds: float) -> tuple[int, int]:
        return packets(self._ends[0], self._ends[1], self._tunnel.addresses[1], rate, seconds)

    def _cpu(self) -> tuple[float, float]:
        a, b = (sum(map(_cpu_seconds, pids)) for pids in self._tunnel.pids)
        return a, b

    def _memory(self) -> Sample:
        return {"rss_bytes": float(max(sum(map(_rss_bytes, pids)) for pids in self._tunnel.pids))}


def _next_rate(clean: float, dirty: float) -> float:
    if dirty == math.inf:
        return clean * 1.5
    return math.sqrt(clean * dirty) if clean else dirty / 2


def stream(
    sender: Namespace, receiver: Namespace, address: str, seconds: int, streams: int = 1
) -> subprocess.Popen[str]:
    """Start TCP from one namespace to the other; what it prints at its end is for `received_bps`."""
    wait_for(lambda: not _listens(receiver, TCP_PORT), "the last iperf3 to end", 10)
    server = receiver.start("iperf3", "-s", "-1", "-p", str(TCP_PORT), log="iperf3.log")
    wait_for(lambda: _listens(receiver, TCP_PORT) or server.poll() is not None, "iperf3", 5)
    argv = ["iperf3", "-c", address, "-p", str(TCP_PORT), "-J", "-t", str(seconds), "-P", str(streams)]
    return _popen(sender, argv)


def packets(
    sender: Namespace, receiver: Namespace, address: str, rate: float, seconds: float, role: str = "send"
) -> tuple[int, int]:
    """Send UDP packets at a rate; return how many were sent and how many came. `role` is one of `bench.udp`'s."""
    sink = _popen(receiver, python("bench.udp", "sink", str(UDP_PORT), str(UDP_SINK_IDLE)))
    assert sink.stdout is not None
    sink.stdout.readline()
    argv = python("bench.udp", role, address, str(UDP_PORT), str(rate), str(seconds))
    sent = sender.run(*argv, timeout=seconds + 20)
    told, _ = sink.communicate(timeout=40)
    return int(json.loads(sent)), int(json.loads(told))


def python(module: str, *argv: str) -> list[str]:
    """Write the command of one of our own programs."""
    return ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", module, *argv]


def _popen(end: Namespace, argv: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        end.command(argv), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _listens(end: Namespace, port: int) -> bool:
    return f":{port}" in end.run("ss", "-Hltn")


def received_bps(told: str) -> float:
    """Read what arrived from what the client of a stream printed."""
    answer = json.loads(told)
    if "error" in answer:
        raise BenchError(f"iperf3: {answer['error']}")
    return float(answer["end"]["sum_received"]["bits_per_second"])


def _cpu_seconds(pid: int) -> float:
    """Read the processor time of all threads, user and system. Source: proc(5), fields 14 and 15."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rss_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def measure(ends: Sequence[Namespace], tunnel: Tunnel, effort: Effort) -> Sample:
    """Measure a tunnel that answers; raise `BenchError` where a program fails."""
    began = time.monotonic()
    try:
        return Turn(ends, tunnel, effort).measure() | {"turn_s": time.monotonic() - began}
    except (subprocess.SubprocessError, json.JSONDecodeError, OSError) as error:
        raise BenchError(str(error)) from error
