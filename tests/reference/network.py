"""A network in memory between reference nodes, and a virtual clock."""

from __future__ import annotations

from collections.abc import Callable

from tests.reference.cookie import Endpoint
from tests.reference.event import Event, Kind, Transmit
from tests.reference.node import Node

Tap = Callable[[Transmit, Endpoint], bool]


class Network:
    """Nodes at endpoints; what they send arrives at once, unless `tap` says no."""

    def __init__(self) -> None:
        """Start at `now` = 0 with nobody."""
        self.now = 0.0
        self.nodes: dict[Endpoint, Node] = {}
        self.sent: list[tuple[Transmit, Endpoint]] = []
        self.tap: Tap = lambda transmit, source: True
        self.events: dict[bytes, list[Event]] = {}

    def place(self, node: Node, endpoint: Endpoint) -> None:
        """Put a node at an endpoint, away from where it was."""
        self.nodes = {where: who for where, who in self.nodes.items() if who is not node}
        self.nodes[endpoint] = node
        self.events.setdefault(node.key, [])

    def endpoint_of(self, node: Node) -> Endpoint:
        """Say where a node is."""
        return next(where for where, who in self.nodes.items() if who is node)

    def deliver(self) -> None:
        """Carry datagrams until nobody sends any more."""
        busy = True
        while busy:
            busy = sum(self._deliver_from(node, where) for where, node in list(self.nodes.items())) > 0
        for node in self.nodes.values():
            while (event := node.poll_event()) is not None:
                self.events[node.key].append(event)

    def _deliver_from(self, node: Node, source: Endpoint) -> bool:
        busy = False
        while (transmit := node.poll_transmit()) is not None:
            busy = True
            self.sent.append((transmit, source))
            receiver = self.nodes.get(transmit.destination)
            if self.tap(transmit, source) and receiver is not None:
                receiver.handle_datagram(transmit.datagram, source, self.now)
        return busy

    def advance(self, seconds: float) -> None:
        """Let time pass, stopping at every deadline."""
        end = self.now + seconds
        self.deliver()
        while (deadline := self._next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            for node in self.nodes.values():
                node.handle_timeout(self.now)
            self.deliver()
        self.now = end

    def _next_deadline(self) -> float | None:
        deadlines = [d for node in self.nodes.values() if (d := node.poll_timeout()) is not None]
        return min(deadlines, default=None)

    def take(self, node: Node, kind: Kind) -> list[bytes]:
        """Take the payloads of a node's events of one kind."""
        mine = self.events[node.key]
        self.events[node.key] = [event for event in mine if event.kind is not kind]
        return [event.payload for event in mine if event.kind is kind]
