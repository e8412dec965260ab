"""The hostile peer against a reference node: nothing breaks, nobody is let in who should not be."""

from __future__ import annotations

import pytest

from tests.reference.datagram import InitiationPayload
from tests.reference.event import Kind
from tests.reference.hostile import LOW_ORDER_POINTS, HostileNode, Mutator, low_order_initiation, stranger_initiations
from tests.reference.identity import device_from
from tests.reference.peer import Peer
from tests.reference.test_node import ALICE_AT, BOB_AT, ELSEWHERE, PSK, Pair, counted_entropy

CASES = 3000


class HostilePair(Pair):
    """Alice is hostile, Bob is not."""

    alice: HostileNode

    def __init__(self) -> None:
        super().__init__()
        self.alice = HostileNode(device_from("alice").private_key, entropy=counted_entropy("mallory"))
        self.network.place(self.alice, ALICE_AT)
        self.bob_of_alice: Peer = self.alice.add_peer(self.bob.key, psk=PSK, endpoints=[BOB_AT])


def test_low_order_ephemerals_are_refused_in_silence() -> None:
    pair = HostilePair()
    for number, point in enumerate(LOW_ORDER_POINTS):
        payload = InitiationPayload((2**62 + 2_000_000_000 + number).to_bytes(8, "big") + bytes(4))
        pair.bob.handle_datagram(low_order_initiation(pair.alice, pair.bob.key, point, payload), ALICE_AT, 0.0)
    assert pair.bob.poll_transmit() is None
    assert pair.bob.drops["refused initiation"] == len(LOW_ORDER_POINTS)


def test_strangers_with_a_valid_mac1_get_nothing_but_cookies_under_load() -> None:
    pair = HostilePair()
    flood = stranger_initiations(pair.bob.key, counted_entropy("flood"))
    for number in range(400):
        pair.bob.handle_datagram(next(flood), ("203.0.113.5", number), 0.0)
    pair.network.deliver()
    assert sum(len(t.datagram) for t, _ in pair.network.sent) <= 0.5 * 400 * 153
    assert pair.bob.drops["refused initiation"] == 200


@pytest.mark.parametrize("seed", range(3))
def test_mutated_frames_and_datagrams_leave_the_session_alive(seed: int) -> None:
    pair, mutator = HostilePair(), Mutator(seed)
    pair.meet()
    recorded = [transmit.datagram for transmit, _ in pair.network.sent]
    session = pair.bob_of_alice.current
    assert session is not None
    for number in range(CASES):
        pair.network.now += 0.001
        if number % 3:
            datagram = session.seal(mutator.aligned_frame())
        else:
            datagram = mutator.datagram(recorded)
        pair.bob.handle_datagram(datagram, ALICE_AT if number % 5 else ELSEWHERE, pair.network.now)
        if number % 50 == 0:
            pair.network.deliver()
    pair.network.deliver()
    assert len(pair.alice_of_bob.halves) <= 4
    pair.network.take(pair.bob, Kind.PACKET)
    pair.send(b"still there")
    assert pair.network.take(pair.bob, Kind.PACKET) == [pair.packet(b"still there")]
