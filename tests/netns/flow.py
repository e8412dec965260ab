"""Traffic that can be accounted for: numbered UDP packets, what came of them, and copies with checksums."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.netns.lab import SO_RCVBUFFORCE, Namespace, wait_for

MAGIC = b"f2fflow!"
HEADER = struct.Struct("!8sQ16s")
FILLING = random.Random(0).randbytes(66_000)
FILLING_STARTS = 1000
"""A packet's filling begins at one of so many places, so that no two neighbours are alike."""


def numbered(number: int, size: int) -> bytes:
    """Write a packet's payload: number, a digest, and a filling that the digest covers."""
    at = number % FILLING_STARTS
    body = FILLING[at : at + max(0, size - HEADER.size)]
    digest = hashlib.blake2s(struct.pack("!Q", number) + body, digest_size=16).digest()
    return HEADER.pack(MAGIC, number, digest) + body


@dataclass
class Sink:
    """Counts numbered packets at a UDP port of a namespace, in a thread."""

    namespace: Namespace
    port: int
    seen: Counter[int] = field(default_factory=Counter)
    corrupt: int = 0

    def __enter__(self) -> Sink:
        self._socket = self.namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
        self._socket.bind(("::", self.port))
        self._socket.settimeout(0.1)
        self._running = True
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self._socket.close()

    @property
    def duplicates(self) -> int:
        """How many packets came more than once."""
        return sum(times - 1 for times in self.seen.values())

    def is_quiet(self) -> bool:
        """Say whether nothing has come for half a second."""
        before = sum(self.seen.values())
        time.sleep(0.5)
        return sum(self.seen.values()) == before

    def _count(self) -> None:
        while self._running:
            with contextlib.suppress(TimeoutError):
                self._take(self._socket.recv(65535))

    def _take(self, payload: bytes) -> None:
        if len(payload) < HEADER.size:
            self.corrupt += 1
            return
        magic, number, digest = HEADER.unpack_from(payload)
        wanted = hashlib.blake2s(struct.pack("!Q", number) + payload[HEADER.size :], digest_size=16).digest()
        if magic != MAGIC or digest != wanted:
            self.corrupt += 1
        else:
            self.seen[number] += 1


class Source:
    """Sends numbered packets at a steady rate until told to stop, in a thread."""

    def __init__(self, namespace: Namespace, to: str, port: int, *, rate: float = 500.0, size: int = 200) -> None:
        self._socket = namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self._to, self._rate, self._size = (to, port), rate, size
        self.sent: dict[int, float] = {}

    def __enter__(self) -> Source:
        self._running = True
        self._thread = threading.Thread(target=self._send, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self._socket.close()

    def _send(self) -> None:
        began, number = time.monotonic(), 0
        while self._running:
            while number < (time.monotonic() - began) * self._rate:
                number += 1
                self.sent[number] = time.monotonic()
                with contextlib.suppress(OSError):
                    self._socket.sendto(numbered(number, self._size), self._to)
            time.sleep(0.001)


def check(source: Source, sink: Sink, share: float) -> None:
    """Assert that at least a share of the packets sent so far came in the end; say which runs did not."""
    sent = list(source.sent)
    wait_for(lambda: sink.seen[sent[-1]] or sink.seen[sent[-2]] or sink.is_quiet(), "the last packets", 5)
    seen = set(sink.seen)
    runs: list[list[int]] = []
    for number in sent:
        if number not in seen and runs and runs[-1][1] == number:
            runs[-1][1] += 1
        elif number not in seen:
            runs.append([number, number + 1])
    lost = sum(end - begin for begin, end in runs)
    assert lost <= (1 - share) * len(sent), f"{lost} of {len(sent)} lost, in runs {runs[:20]}"


def send_numbered(
    namespace: Namespace, to: str, port: int, numbers: range, *, size: int = 200, rate: float = 5000.0
) -> None:
    """Send numbered packets once each, at a rate."""
    began = time.monotonic()
    with namespace.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as out:
        for index, number in enumerate(numbers):
            with contextlib.suppress(OSError):
                out.sendto(numbered(number, size), (to, port))
            ahead = index / rate - (time.monotonic() - began)
            if ahead > 0.002:
                time.sleep(ahead)


def copy(source: Namespace, sink: Namespace, to: str, port: int, megabytes: int, *, timeout: float = 60.0) -> float:
    """Copy random bytes over TCP with socat; assert that the same came out, and return the seconds it took."""
    data = random.Random(megabytes).randbytes(megabytes << 20)
    (source.folder / "sent").write_bytes(data)
    got = sink.folder / "got"
    got.unlink(missing_ok=True)
    receiver = sink.start("socat", "-u", f"TCP6-LISTEN:{port},reuseaddr", f"OPEN:{got},creat,trunc", log="socat.log")
    wait_for(lambda: f":{port}" in sink.run("ss", "-Hltn").stdout, "socat to listen", 5)
    began = time.monotonic()
    source.run("socat", "-u", f"OPEN:{source.folder}/sent", f"TCP6:[{to}]:{port}", timeout=timeout)
    receiver.wait(timeout)
    took = time.monotonic() - began
    assert hashlib.sha256(got.read_bytes()).digest() == hashlib.sha256(data).digest()
    return took


def iperf(client: Namespace, server: Namespace, to: str, *options: str, port: int = 5201, seconds: int = 2) -> float:
    """Run iperf3 and return the bits per second received."""
    import json

    running = server.start("iperf3", "-s", "-1", "-p", str(port), log="iperf3.log")
    wait_for(lambda: f":{port}" in server.run("ss", "-Hltn").stdout, "iperf3 to listen", 5)
    argv = ["iperf3", "-c", to, "-p", str(port), "-t", str(seconds), "-J", *options]
    done = client.run(*argv, check=False, timeout=seconds + 30)
    running.wait(10)
    told = json.loads(done.stdout)
    assert "error" not in told, told["error"]
    end = told["end"]
    return float(end.get("sum_received", end.get("sum", {}))["bits_per_second"])
