"""Two reference nodes talk with each other, by the rules of docs/protocol.md."""

from __future__ import annotations

import itertools

import pytest

from tests.reference import crypto
from tests.reference.cookie import Endpoint
from tests.reference.datagram import AES, COOKIE_REPLY, DATA, INITIATION, RESPONSE, parse_initiation
from tests.reference.event import Kind, Transmit
from tests.reference.frame import Control, Nothing
from tests.reference.identity import device_from
from tests.reference.network import Network
from tests.reference.node import Entropy, Node
from tests.reference.session import REKEY_AFTER_MESSAGES_AES
from tests.reference.superpacket import Superpacket, rejoin, segment, tcp_packet, udp_packet

ALICE_AT, BOB_AT, ELSEWHERE = ("192.0.2.1", 4242), ("192.0.2.2", 4242), ("198.51.100.9", 999)
PSK = crypto.hash32(b"psk")


def counted_entropy(name: str) -> Entropy:
    """Give bytes that differ from draw to draw and are equal from run to run."""
    counter = itertools.count()

    def draw(size: int) -> bytes:
        stream = b"".join(crypto.hash32(f"{name} {next(counter)}".encode()) for _ in range(size // 32 + 1))
        return stream[:size]

    return draw


class Pair:
    """Alice and Bob, friends with a psk; Alice knows Bob's endpoint, Bob none."""

    def __init__(self) -> None:
        self.network = Network()
        self.alice = Node(device_from("alice").private_key, entropy=counted_entropy("alice"), features=1)
        self.bob = Node(device_from("bob").private_key, entropy=counted_entropy("bob"), features=1)
        self.network.place(self.alice, ALICE_AT)
        self.network.place(self.bob, BOB_AT)
        self.bob_of_alice = self.alice.add_peer(self.bob.key, psk=PSK, endpoints=[BOB_AT])
        self.alice_of_bob = self.bob.add_peer(self.alice.key, psk=PSK)

    def meet(self) -> None:
        self.alice.dial(self.bob.key, self.network.now)
        self.network.deliver()

    def packet(self, body: bytes = b"hello") -> bytes:
        return udp_packet(self.alice.address, self.bob.address, body)

    def send(self, body: bytes = b"hello") -> None:
        self.alice.send_packet(self.bob.key, self.packet(body), self.network.now)
        self.network.deliver()

    def types_sent(self, source: Endpoint) -> list[int]:
        return [transmit.datagram[0] for transmit, where in self.network.sent if where == source]

    def resend(self, transmit: Transmit, source: Endpoint) -> None:
        self.bob.handle_datagram(transmit.datagram, source, self.network.now)
        self.network.deliver()


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_first_packet_brings_up_a_session_both_ways(pair: Pair) -> None:
    pair.send()
    assert pair.network.take(pair.bob, Kind.PACKET) == [pair.packet()]
    assert pair.alice_of_bob.endpoint == ALICE_AT
    answer = udp_packet(pair.bob.address, pair.alice.address, b"hello back")
    pair.bob.send_packet(pair.alice.key, answer, pair.network.now)
    pair.network.deliver()
    assert pair.network.take(pair.alice, Kind.PACKET) == [answer]
    assert pair.types_sent(ALICE_AT)[:2] == [INITIATION, DATA]
    assert pair.types_sent(BOB_AT)[0] == RESPONSE


def test_both_ends_derive_mirrored_sessions_and_share_features(pair: Pair) -> None:
    pair.meet()
    ours, theirs = pair.bob_of_alice.current, pair.alice_of_bob.current
    assert ours is not None
    assert theirs is not None
    assert (ours.send_key, ours.receive_key) == (theirs.receive_key, theirs.send_key)
    assert (ours.own_index, ours.peer_index) == (theirs.peer_index, theirs.own_index)
    assert ours.features == theirs.features == 1


def test_different_psks_never_meet(pair: Pair) -> None:
    pair.bob_of_alice.psk = bytes(32)
    pair.meet()
    assert pair.bob_of_alice.current is None
    assert pair.alice.drops["refused response"] == 1


def test_stranger_gets_no_byte(pair: Pair) -> None:
    del pair.bob.peers[pair.alice.key]
    pair.meet()
    assert pair.types_sent(BOB_AT) == []


def test_replayed_data_is_refused_and_changes_nothing(pair: Pair) -> None:
    pair.send()
    recorded = [transmit for transmit, where in pair.network.sent if where == ALICE_AT]
    pair.network.take(pair.bob, Kind.PACKET)
    before = len(pair.network.sent)
    for transmit in [*recorded, *reversed(recorded)]:
        pair.resend(transmit, ELSEWHERE)
    assert pair.network.take(pair.bob, Kind.PACKET) == []
    assert pair.alice_of_bob.endpoint == ALICE_AT
    assert [t.datagram[0] for t, _ in pair.network.sent[before:]] == [COOKIE_REPLY]


def test_every_flipped_bit_is_refused(pair: Pair) -> None:
    pair.meet()
    assert pair.bob_of_alice.current is not None
    good = pair.bob_of_alice.current.seal(Control(b"x").write())
    before = len(pair.network.sent)
    for bit in range(8, len(good) * 8):
        forged = bytearray(good)
        forged[bit // 8] ^= 1 << bit % 8
        pair.resend(Transmit(bytes(forged), BOB_AT), ELSEWHERE)
    assert pair.network.take(pair.bob, Kind.CONTROL) == []
    assert len(pair.network.sent) == before
    pair.resend(Transmit(good, BOB_AT), ALICE_AT)
    assert pair.network.take(pair.bob, Kind.CONTROL) == [b"x"]


def test_rekeys_without_loss(pair: Pair) -> None:
    pair.meet()
    for number in range(20):
        pair.network.advance(20.0)
        pair.send(b"%d" % number)
    assert pair.network.take(pair.bob, Kind.PACKET) == [pair.packet(b"%d" % number) for number in range(20)]
    assert pair.types_sent(ALICE_AT).count(INITIATION) == 4
    assert len({session.send_key for session in pair.alice.log}) == 4
    assert len(pair.bob.sessions) <= 2


def test_silent_death_is_noticed_and_dialled_in_1400_ms(pair: Pair) -> None:
    pair.meet()
    pair.network.tap = lambda transmit, source: False
    before = len(pair.network.sent)
    pair.send()
    pair.network.advance(1.39)
    sent = [t.datagram[0] for t, where in pair.network.sent[before:] if where == ALICE_AT]
    assert sent == [DATA] * 4
    pair.network.advance(0.02)
    assert pair.types_sent(ALICE_AT)[-1] == INITIATION


def test_under_load_only_cookies_let_in(pair: Pair) -> None:
    stranger = Node(device_from("eve").private_key)
    stranger.add_peer(pair.bob.key, endpoints=[BOB_AT])
    stranger.dial(pair.bob.key, 0.0)
    junk = stranger.poll_transmit()
    assert junk is not None
    for port in range(300):
        pair.resend(junk, ("203.0.113.5", port))
    replies = [t for t, where in pair.network.sent if t.datagram[0] == COOKIE_REPLY]
    assert 0 < len(replies) <= 300
    pair.meet()
    assert pair.bob_of_alice.current is None
    assert len(pair.network.take(pair.alice, Kind.COOKIE)) == 1
    pair.network.advance(0.6)
    assert len(pair.alice.log) == 1
    assert pair.types_sent(ALICE_AT)[:3] == [INITIATION, INITIATION, DATA]


def test_clock_gone_back_is_healed_by_a_cookie(pair: Pair) -> None:
    pair.meet()
    rebooted = Node(pair.alice.private_key, epoch=pair.alice.epoch - 1e9)
    peer = rebooted.add_peer(pair.bob.key, psk=PSK, endpoints=[BOB_AT])
    pair.network.place(rebooted, ALICE_AT)
    rebooted.dial(pair.bob.key, pair.network.now)
    pair.network.advance(1.0)
    assert peer.current is not None


def test_old_initiations_with_cookies_are_accepted_twice_a_second_at_most(pair: Pair) -> None:
    test_clock_gone_back_is_healed_by_a_cookie(pair)
    initiations = [t for t, _ in pair.network.sent if t.datagram[0] == INITIATION]
    with_mac2 = [t for t in initiations if (i := parse_initiation(t.datagram)) and i.mac2 != bytes(16)]
    before = pair.bob.drops["old timestamp"]
    for transmit in with_mac2 * 2:
        pair.resend(transmit, ALICE_AT)
    assert pair.bob.drops["old timestamp"] == before + 2 * len(with_mac2)


def test_timestamps_rise_when_the_clock_stands() -> None:
    peer = Pair().bob_of_alice
    stamps = [peer.next_timestamp(1_700_000_000_999_999_999) for _ in range(200)]
    assert stamps == sorted(set(stamps))
    assert all(int.from_bytes(stamp[8:], "big") < 10**9 for stamp in stamps)
    assert all(int.from_bytes(stamp[8:], "big") % 2**24 == 0 for stamp in stamps)


def test_roams_after_the_new_address_answered(pair: Pair) -> None:
    pair.meet()
    pair.network.place(pair.alice, ELSEWHERE)
    pair.alice.probe(pair.bob.key, pair.network.now)
    pair.network.deliver()
    assert pair.alice_of_bob.endpoint == ELSEWHERE
    assert pair.network.take(pair.bob, Kind.ROAMED) == [b""]


def test_does_not_roam_to_an_address_that_cannot_answer(pair: Pair) -> None:
    pair.meet()
    assert pair.bob_of_alice.current is not None
    captured = pair.bob_of_alice.current.seal(Control(b"captured on the way").write())
    before = len(pair.network.sent)
    pair.resend(Transmit(captured, BOB_AT), ELSEWHERE)
    assert pair.alice_of_bob.endpoint == ALICE_AT
    out = [t for t, _ in pair.network.sent[before:] if t.destination == ELSEWHERE]
    assert sum(len(t.datagram) for t in out) <= len(captured)


def test_held_back_datagram_does_not_move_the_address(pair: Pair) -> None:
    pair.meet()
    assert pair.bob_of_alice.current is not None
    held = pair.bob_of_alice.current.seal(Control(b"held").write())
    pair.send()
    before = len(pair.network.sent)
    pair.resend(Transmit(held, BOB_AT), ELSEWHERE)
    assert len(pair.network.sent) == before
    assert pair.network.take(pair.bob, Kind.CONTROL) == [b"held"]


def test_simultaneous_dialling_leaves_both_able_to_talk(pair: Pair) -> None:
    pair.alice_of_bob.endpoints = [ALICE_AT]
    pair.alice.dial(pair.bob.key, 0.0)
    pair.bob.dial(pair.alice.key, 0.0)
    pair.network.deliver()
    pair.send()
    assert pair.network.take(pair.bob, Kind.PACKET) == [pair.packet()]
    answer = udp_packet(pair.bob.address, pair.alice.address, b"x")
    pair.bob.send_packet(pair.alice.key, answer, pair.network.now)
    pair.network.deliver()
    assert pair.network.take(pair.alice, Kind.PACKET) == [answer]


def test_probe_reply_tells_the_size_that_came(pair: Pair) -> None:
    pair.meet()
    pair.network.take(pair.alice, Kind.PROBE_REPLY)
    token = pair.alice.probe(pair.bob.key, pair.network.now, size=1216)
    pair.network.deliver()
    replies = [event for event in pair.network.events[pair.alice.key] if event.kind is Kind.PROBE_REPLY]
    assert [(event.payload, event.counter) for event in replies] == [(token, 1216 + 29)]


def test_large_packet_and_control_travel_as_fragments(pair: Pair) -> None:
    pair.meet()
    pair.send(b"x" * 1300)
    pair.alice.send_frame(pair.bob.key, Control(b"c" * 2300).write(), pair.network.now)
    pair.network.deliver()
    assert pair.network.take(pair.bob, Kind.PACKET) == [pair.packet(b"x" * 1300)]
    assert pair.network.take(pair.bob, Kind.CONTROL) == [b"c" * 2300]
    assert max(len(transmit.datagram) for transmit, _ in pair.network.sent) <= 1252


def test_fragments_may_come_in_any_order_but_not_late(pair: Pair) -> None:
    peer = pair.alice_of_bob
    assert peer.join_fragment(1, True, b"b", 0.0) is None
    assert peer.join_fragment(1, False, b"a", 0.5) == b"ab"
    assert peer.join_fragment(2, False, b"a", 0.0) is None
    assert peer.join_fragment(2, True, b"b", 1.0) is None
    for number in range(10, 20):
        peer.join_fragment(number, False, b"", 1.0)
    assert list(peer.halves) == [16, 17, 18, 19]


def test_run_is_rejoined_to_the_superpacket(pair: Pair) -> None:
    pair.meet()
    packet = tcp_packet(pair.alice.address, pair.bob.address, bytes(range(256)) * 20, flags=0x19)
    for part in segment(Superpacket(packet, 1000)):
        pair.alice.send_frame(pair.bob.key, part.write(), pair.network.now)
    pair.network.deliver()
    events = [event for event in pair.network.events[pair.bob.key] if event.kind is Kind.PACKET]
    assert [event.joined for event in events] == [False, True, True, True, True, True]
    assert [event.counter for event in events] == list(range(events[0].counter, events[0].counter + 6))


def test_rejoin_undoes_segment() -> None:
    source, destination = bytes([0xFC]) * 16, bytes([0xFC, 1]) * 8
    for packet in (
        tcp_packet(source, destination, b"z" * 3000, flags=0x99, options=b"\x01" * 12),
        udp_packet(source, destination, b"z" * 3000),
    ):
        assert rejoin(segment(Superpacket(packet, 1000)), source, destination) == Superpacket(packet, 1000)


def test_invite_peer_may_speak_control_only(pair: Pair) -> None:
    invite_key = crypto.hash32(b"invite")
    pair.alice.add_peer(pair.bob.key, psk=PSK, endpoints=[BOB_AT], own_private_key=invite_key)
    pair.bob.add_peer(crypto.public_key(invite_key), psk=PSK, has_address=False)
    pair.meet()
    pair.send()
    pair.alice.send_frame(pair.bob.key, Control(b"join").write(), 0.0)
    pair.network.deliver()
    assert pair.network.take(pair.bob, Kind.PACKET) == []
    assert pair.network.take(pair.bob, Kind.CONTROL) == [b"join"]
    assert pair.bob.drops["packet of an invite peer"] == 1


def test_hybrid_psk_is_named_and_used(pair: Pair) -> None:
    pair.bob_of_alice.hybrid_psk = pair.alice_of_bob.hybrid_psk = crypto.hash32(b"hybrid")
    pair.meet()
    assert pair.bob_of_alice.current is not None
    assert pair.bob_of_alice.current.psk_id == crypto.hash32(b"f2ftun psk" + crypto.hash32(b"hybrid"))[:4]


def test_restarted_friend_without_the_hybrid_psk_is_met_with_the_old_one(pair: Pair) -> None:
    pair.bob_of_alice.hybrid_psk = crypto.hash32(b"hybrid")
    pair.meet()
    assert pair.bob.drops["refused initiation"] == 1
    pair.network.advance(5.0)
    assert pair.bob_of_alice.current is not None
    assert pair.bob_of_alice.current.psk_id == bytes(4)


def test_low_order_ephemeral_and_empty_frame(pair: Pair) -> None:
    pair.meet()
    pair.alice.send_frame(pair.bob.key, Nothing().write(), 0.0)
    pair.network.deliver()
    assert pair.network.take(pair.bob, Kind.NOTHING) == [b""]
    assert crypto.exchange(pair.alice.private_key, bytes(32)) is None


def test_aes_is_used_where_both_offer_it() -> None:
    for ours, theirs, agreed in ((3, 3, True), (3, 1, False), (1, 3, False)):
        pair = Pair()
        pair.alice.features, pair.bob.features = ours, theirs
        pair.send()
        assert pair.network.take(pair.bob, Kind.PACKET) == [pair.packet()]
        assert [session.aes for session in (*pair.alice.log, *pair.bob.log)] == [agreed, agreed]


def test_aes_sessions_are_renewed_by_count(pair: Pair) -> None:
    pair.alice.features = pair.bob.features = AES
    pair.meet()
    assert pair.bob_of_alice.current is not None
    pair.bob_of_alice.current.counter = REKEY_AFTER_MESSAGES_AES
    pair.network.now += 1.0
    pair.send()
    assert len(pair.alice.log) == 2


def test_without_keepalive_rekeying_waits_for_traffic(pair: Pair) -> None:
    pair.bob_of_alice.keepalive = pair.alice_of_bob.keepalive = 0.0
    pair.meet()
    pair.network.advance(160.0)
    assert len(pair.alice.log) == 1
    pair.send()
    assert len(pair.alice.log) == 2


def test_overlay_addresses_are_no_sources(pair: Pair) -> None:
    pair.alice.dial(pair.bob.key, 0.0)
    initiation = pair.alice.poll_transmit()
    assert initiation is not None
    pair.resend(initiation, ("fc00::1", 4242))
    assert pair.bob.drops == {"from the overlay": 1}
