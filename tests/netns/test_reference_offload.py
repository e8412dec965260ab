"""What the real data plane hands to the kernel in one piece is, cut again, exactly what the friend sent.

Random runs go in; the TUN's packets come out with their virtio headers, are cut as the kernel would cut them, and must
be the same packets in the same order. *Joined* is the sender's word: a liar's packets may lose their own headers, no
more.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.netns.conftest import FULL
from tests.netns.device import INTERFACE, Inbox, RealNode
from tests.netns.lab import ETH_P_ALL, PACKET_IGNORE_OUTGOING, SO_RCVBUFFORCE, SOL_PACKET, Lab
from tests.netns.test_reference_hostile import meet, settle
from tests.reference.frame import TCP, UDP, Packet, elide, fill_checksum
from tests.reference.identity import device_from
from tests.reference.node import Node
from tests.reference.superpacket import CWR, FIN, PSH, Superpacket, segment
from tests.reference.udp import UdpNode

PACKET_VNET_HDR = 15
VNET_HEADER = struct.Struct("=BBHHHH")
NEEDS_CSUM, GSO_NONE = 1, 0
"""Source: Linux if_packet.h, virtio_net.h."""
RUNS = 4000 if FULL else 400
ACK, SYN, RST, URG = 0x10, 0x02, 0x04, 0x20
TIMESTAMPS = bytes.fromhex("0101080a0102030405060708")


@pytest.fixture
def real(lab: Lab) -> Iterator[RealNode]:
    with RealNode(lab.namespace("real"), device_from("real")) as node:
        yield node


@pytest.fixture
def friend(real: RealNode) -> Iterator[UdpNode]:
    with real.reference(Node, device_from("friend")) as node:
        yield node


def watch_with_headers(real: RealNode) -> Inbox:
    """See what comes out of the TUN with a virtio header before each packet."""
    with real.namespace.entered():
        watcher = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        watcher.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        watcher.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        watcher.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        watcher.bind((INTERFACE, ETH_P_ALL))
    return Inbox(watcher)


def cut(captured: bytes) -> list[bytes]:
    """Cut a captured packet as the kernel would, its checksums computed."""
    flags, gso_type, _, segment_bytes, _, _ = VNET_HEADER.unpack_from(captured)
    packet = captured[VNET_HEADER.size :]
    addresses = packet[8:24], packet[24:40]
    if gso_type == GSO_NONE:
        return [elide(packet, partial=bool(flags & NEEDS_CSUM)).restore(*addresses)]
    return [part.restore(*addresses) for part in segment(Superpacket(packet, segment_bytes))]


class Runs:
    """Makes random runs of TCP or UDP packets; `honest` ones keep the promises of *joined*."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def run(self, honest: bool) -> list[Packet]:
        """Make 1 to 30 packets of one kind."""
        make = self.random.choice((self._tcp, self._udp))
        return make(self.random.randrange(1, 31), honest)

    def _often(self, honest: bool) -> bool:
        """Say yes, always where honest and mostly else."""
        return honest or self.random.random() < 0.85

    def _size(self, honest: bool, whole: int) -> int:
        return whole if self._often(honest) else self.random.choice((0, 1, whole // 2, whole + 1))

    def _udp(self, count: int, honest: bool) -> list[Packet]:
        whole = self.random.choice((1, 2, 500, 1000))
        packets: list[Packet] = []
        for number in range(count):
            body = self.random.randbytes(self._size(honest, whole))
            port = 5000 if self._often(honest) else 5001
            head = struct.pack(">HHHH", 40000, port, 8 + len(body), 0)
            packets.append(self._packet(UDP, head + body, number > 0 and self._often(honest)))
        return packets

    def _tcp(self, count: int, honest: bool) -> list[Packet]:
        whole = self.random.choice((1, 2, 500, 1000))
        options = self.random.choice((b"", TIMESTAMPS))
        sequence, packets = self.random.getrandbits(32), list[Packet]()
        for number in range(count):
            body = self.random.randbytes(self._size(honest, whole))
            options = options if self._often(honest) else self.random.choice((b"", TIMESTAMPS))
            head = self._tcp_header(sequence, options, self._flags(number, count, honest), self._often(honest))
            packets.append(self._packet(TCP, head + body, number > 0 and self._often(honest)))
            sequence = (sequence + (len(body) if self._often(honest) else 7)) & 0xFFFFFFFF
        return packets

    def _flags(self, number: int, count: int, honest: bool) -> int:
        if not self._often(honest):
            return ACK | self.random.choice((FIN, PSH, CWR, SYN, RST, URG))
        first = CWR if number == 0 and self.random.random() < 0.2 else 0
        return ACK | first | (self.random.choice((0, PSH, FIN | PSH)) if number == count - 1 else 0)

    def _tcp_header(self, sequence: int, options: bytes, flags: int, usual: bool) -> bytes:
        acknowledged = 2000 if usual else self.random.getrandbits(32)
        offset = (20 + len(options)) // 4 << 4
        return struct.pack(">HHIIBBHHH", 40000, 81, sequence, acknowledged, offset, flags, 0x7210, 0, 0) + options

    def _packet(self, next_header: int, payload: bytes, joined: bool) -> Packet:
        first_word = b"\x60\x01\x23\x45"
        return Packet(first_word, next_header, 64, payload, partial=True, joined=joined)


def send_runs(real: RealNode, friend: UdpNode, honest: bool) -> tuple[list[bytes], list[bytes], int]:
    """Send random runs; give the packets sent, those that came once cut, and in how many pieces they came."""
    session = friend.node.peers[real.key].current
    assert session is not None
    runs, sent = Runs(7), list[bytes]()
    with watch_with_headers(real) as tun:
        for number in range(RUNS):
            run = runs.run(honest)
            sent += [packet.restore(friend.node.address, real.address) for packet in run]
            send_together(friend, real, [session.seal(packet.write()) for packet in run])
            if number % 20 == 0:
                settle(real, friend)
        settle(real, friend)
        pieces = tun.came()
    assert real.device.drops()["rx_tun_refused"] == 0
    return sent, [packet for piece in pieces for packet in cut(piece)], len(pieces)


def test_honest_runs_come_out_as_they_went_in(real: RealNode, friend: UdpNode) -> None:
    meet(real, friend)
    sent, came, pieces = send_runs(real, friend, honest=True)
    assert flows(came) == flows(sent)
    assert pieces < len(sent) * 0.6


def test_runs_that_lie_come_out_with_their_bytes_and_no_others(real: RealNode, friend: UdpNode) -> None:
    """Let a friend join what does not belong together: its own headers may suffer, but no byte is lost."""
    meet(real, friend)
    sent, came, _ = send_runs(real, friend, honest=False)
    assert {packet[8:40] for packet in came} == {friend.node.address + real.address}
    assert b"".join(map(transport_body, came)) == b"".join(map(transport_body, sent))


def transport_body(packet: bytes) -> bytes:
    """Give what a TCP or UDP packet carries."""
    return packet[40 + ((packet[52] >> 4) * 4 if packet[6] == TCP else 8) :]


def send_together(friend: UdpNode, real: RealNode, datagrams: list[bytes]) -> None:
    """Send in as few system calls as their sizes allow."""
    train: list[bytes] = []
    for datagram in datagrams:
        if train and not len(datagram) <= len(train[0]) == len(train[-1]):
            friend.send_train(train, real.endpoint)
            train = []
        train.append(datagram)
    friend.send_train(train, real.endpoint)


def flows(packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """Sort packets by protocol and ports; within a flow the order counts."""
    sorted_packets: dict[bytes, list[bytes]] = {}
    for packet in packets:
        sorted_packets.setdefault(packet[6:7] + packet[40:44], []).append(packet)
    return sorted_packets


def test_the_cut_is_that_of_the_kernel(real: RealNode) -> None:
    """Hold the test's own idea of cutting to what it is compared with: checksums are right, sizes as asked."""
    body = bytes(range(250)) * 10
    head = struct.pack(">HHHH", 40000, 5000, 8 + len(body), 0)
    packet = Packet(b"\x60\0\0\0", UDP, 64, head + body).restore(real.address, real.address)
    parts = cut(VNET_HEADER.pack(NEEDS_CSUM, 5, 48, 1000, 40, 6) + packet)
    assert [len(part) - 48 for part in parts] == [1000, 1000, 500]
    assert all(fill_checksum(UDP, part[40:], part[8:24], part[24:40]) == part[40:] for part in parts)
