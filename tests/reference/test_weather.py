"""Two reference nodes on a bad network, under a virtual clock: the rules themselves must lead out of every state.

Datagrams are lost, late, doubled and out of order; both ends rekey and dial when they like; one end changes its
address. What arrives, arrives once; when the weather clears, both hear each other within seconds.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random

import pytest

from tests.reference.cookie import Endpoint
from tests.reference.event import Kind
from tests.reference.identity import device_from
from tests.reference.network import Network
from tests.reference.node import Node
from tests.reference.superpacket import udp_packet
from tests.reference.test_node import PSK, counted_entropy

SEEDS = 300 if os.environ.get("F2FTUN_FULL") == "1" else 12
STORM_S, CALM_S = 400.0, 8.0


class Weather(Network):
    """A network that loses, delays and doubles."""

    def __init__(self, seed: int, loss: float, delay: float) -> None:
        """Begin with a seed; `loss` as a share, `delay` the longest in seconds."""
        super().__init__()
        self.random = random.Random(seed)
        self.loss, self.delay = loss, delay
        self._sky: list[tuple[float, int, bytes, Endpoint, Endpoint]] = []
        self._number = itertools.count()

    def deliver(self) -> None:
        """Throw what was sent into the sky, and let fall what is due."""
        self._throw()
        while self._sky and self._sky[0][0] <= self.now:
            _, _, datagram, source, destination = heapq.heappop(self._sky)
            if (receiver := self.nodes.get(destination)) is not None:
                receiver.handle_datagram(datagram, source, self.now)
            self._throw()
        for node in self.nodes.values():
            while (event := node.poll_event()) is not None:
                self.events[node.key].append(event)

    def _throw(self) -> None:
        for source, node in self.nodes.items():
            while (transmit := node.poll_transmit()) is not None:
                for _ in range(1 + (self.random.random() < 0.1)):
                    if self.random.random() >= self.loss:
                        due = self.now + self.random.random() ** 3 * self.delay
                        flight = (due, next(self._number), transmit.datagram, source, transmit.destination)
                        heapq.heappush(self._sky, flight)

    def advance(self, seconds: float) -> None:
        """Let time pass in steps of 50 ms."""
        end = self.now + seconds
        while self.now < end:
            self.now += 0.05
            for node in self.nodes.values():
                if (due := node.poll_timeout()) is not None and due <= self.now:
                    node.handle_timeout(self.now)
            self.deliver()


class Storm:
    """Alice and Bob, who both know where the other was, and send a numbered packet each half second."""

    def __init__(self, seed: int, loss: float) -> None:
        self.weather = Weather(seed, loss, 2.0)
        self.nodes = [Node(device_from(name).private_key, entropy=counted_entropy(f"{name} {seed}")) for name in "ab"]
        self.where: list[Endpoint] = [("192.0.2.1", 1), ("192.0.2.2", 2)]
        for node, endpoint in zip(self.nodes, self.where, strict=True):
            self.weather.place(node, endpoint)
        for node, other, endpoint in zip(self.nodes, self.nodes[::-1], self.where[::-1], strict=True):
            node.add_peer(other.key, psk=PSK, endpoints=[endpoint])
        self.sent = 0

    def send(self) -> None:
        """Send one packet each way."""
        self.sent += 1
        for node, other in zip(self.nodes, self.nodes[::-1], strict=True):
            packet = udp_packet(node.address, other.address, b"%d" % self.sent)
            node.send_packet(other.key, packet, self.weather.now)

    def rage(self, seconds: float) -> None:
        """Go on for a while, dialling and moving now and then."""
        chance = self.weather.random
        end = self.weather.now + seconds
        while self.weather.now < end:
            self.send()
            if chance.random() < 0.02:
                side = chance.randrange(2)
                self.nodes[side].dial(self.nodes[1 - side].key, self.weather.now)
            if chance.random() < 0.01:
                self.weather.place(self.nodes[0], (f"192.0.2.{chance.randrange(10, 200)}", chance.randrange(1, 9999)))
            self.weather.advance(0.5)

    def heard(self) -> list[list[bytes]]:
        """Take the numbers that each side heard."""
        return [[packet[48:] for packet in self.weather.take(node, Kind.PACKET)] for node in self.nodes]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_the_storm_both_hear_each_other(seed: int) -> None:
    storm = Storm(seed, loss=seed % 6 * 0.1)
    storm.rage(STORM_S)
    for numbers in storm.heard():
        assert len(numbers) == len(set(numbers)), "heard twice"
        assert len(numbers) > storm.sent * (1 - storm.weather.loss) * 0.5
    storm.weather.loss, storm.weather.delay = 0.0, 0.01
    first = storm.sent + 1
    calm_at = storm.weather.now
    while storm.weather.now < calm_at + CALM_S:
        storm.send()
        storm.weather.advance(0.25)
    last = [b"%d" % number for number in range(storm.sent - 4, storm.sent + 1)]
    for numbers in storm.heard():
        assert numbers[-5:] == last, f"not clear {CALM_S} s after the storm, which ended at {first}"
    assert len(storm.nodes[0].sessions) <= 3
    assert len(storm.nodes[1].pending) <= 1
