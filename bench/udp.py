"""Small UDP packets: one process sends at a rate, another counts what came.

Run as `python -m bench.udp sink PORT IDLE_S` and `python -m bench.udp send ADDRESS PORT RATE SECONDS`; RATE 0 is as
fast as it goes. `stream` is like `send` with packets of `STREAM_BYTES`, and sleeps in between, as a program with a
steady rate does. Each prints one JSON value.
"""

from __future__ import annotations

import json
import socket
import sys
import time

PAYLOAD_BYTES = 64
BUFFER_BYTES = 8 << 20
STREAM_BYTES = 1300
PAUSE = 0.001
"""Seconds a steady sender sleeps when it is ahead."""

BURST = 64
"""Packets sent between two looks at the clock."""

SO_RCVBUFFORCE = 33
"""Source: Linux asm-generic/socket.h."""


def sink(port: int, idle_s: float) -> int:
    """Count datagrams until none came for `idle_s`."""
    receiver = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    receiver.bind(("::", port))
    print("ready", flush=True)
    buffer, received = bytearray(2048), 0
    receiver.settimeout(15.0)
    try:
        receiver.recv_into(buffer)
        receiver.settimeout(idle_s)
        while True:
            received += 1
            receiver.recv_into(buffer)
    except TimeoutError:
        return received


def send(
    address: str, port: int, rate: float, seconds: float, size: int = PAYLOAD_BYTES, pause: float | None = None
) -> int:
    """Send for `seconds` at `rate` packets per second, and say how many went; sleep for `pause` when ahead."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.connect((address, port))
    payload, sent, began = bytes(size), 0, time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        due = min(BURST, int(elapsed * rate) - sent) if rate else BURST
        sent += sum(_offer(sender, payload) for _ in range(due))
        if pause and due < BURST:
            time.sleep(pause)
    return sent


def _offer(sender: socket.socket, payload: bytes) -> bool:
    try:
        return sender.send(payload) > 0
    except OSError:
        return False


def main(argv: list[str]) -> None:
    """Run the role that the arguments name."""
    if argv[0] == "sink":
        print(json.dumps(sink(int(argv[1]), float(argv[2]))))
    elif argv[0] == "stream":
        print(json.dumps(send(argv[1], int(argv[2]), float(argv[3]), float(argv[4]), STREAM_BYTES, PAUSE)))
    else:
        print(json.dumps(send(argv[1], int(argv[2]), float(argv[3]), float(argv[4]))))


if __name__ == "__main__":
    main(sys.argv[1:])
