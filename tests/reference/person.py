"""What a daemon does above a reference node: invitations, post-quantum exchange. Source: docs/protocol.md §8, §9."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey

from tests.reference import crypto
from tests.reference.control import (
    JOIN,
    KEM_ANSWER,
    KEM_OFFER,
    REFUSE,
    WELCOME,
    Message,
    parse_message,
    record_key,
    write_message,
    write_record,
)
from tests.reference.event import Event, Kind
from tests.reference.frame import Control
from tests.reference.identity import Device, Invite, hybrid_psk
from tests.reference.udp import UdpNode

REPEAT_INTERVAL = 1.0


@dataclass
class Offer:
    """An encapsulation key that waits for its answer."""

    private_key: MLKEM768PrivateKey
    psk: bytes
    repeat_at: float


class Person:
    """A device with a name, its node on a socket, the invitations it gave and the one it follows."""

    def __init__(self, udp: UdpNode, device: Device, name: str) -> None:
        self.udp, self.device, self.name = udp, device, name
        self.invites: dict[bytes, Invite] = {}
        self.bound: dict[bytes, bytes] = {}
        self.following: Invite | None = None
        self.refused = 0
        self._join_at = 0.0
        self._offers: dict[bytes, Offer] = {}
        self._answers: dict[bytes, tuple[bytes, bytes]] = {}

    @property
    def record(self) -> bytes:
        """The own device record."""
        return write_record(self.device, self.name, 1)

    def invite(self, secret: bytes, expires_at: int) -> str:
        """Give a line that makes whoever uses it first a friend."""
        invite = Invite(self.device.key, secret, expires_at, (self.udp.endpoint,))
        key = crypto.public_key(invite.peer_private_key)
        self.invites[key] = invite
        self.udp.node.add_peer(key, psk=invite.peer_psk, has_address=False)
        return invite.write()

    def follow(self, invite: Invite) -> None:
        """Dial the inviter as the invite peer, and ask to be their friend until answered."""
        self.following = invite
        self.udp.node.add_peer(
            invite.inviter,
            psk=invite.peer_psk,
            endpoints=list(invite.endpoints),
            own_private_key=invite.peer_private_key,
            has_address=False,
        )

    def step(self) -> None:
        """Read what came, repeat what is unanswered."""
        self.udp.step(0.01)
        events, self.udp.events = self.udp.events, []
        for event in events:
            self._handle(event)
        if self.following is not None and self.udp.now >= self._join_at:
            self._join_at = self.udp.now + REPEAT_INTERVAL
            self.say(self.following.inviter, write_message(JOIN, self.record))
        for key, offer in self._offers.items():
            if self.udp.now >= offer.repeat_at:
                offer.repeat_at = self.udp.now + REPEAT_INTERVAL
                self.say(key, write_message(KEM_OFFER, 1, offer.private_key.public_key().public_bytes_raw()))

    def say(self, key: bytes, message: bytes) -> None:
        """Send a control message."""
        self.udp.node.send_frame(key, Control(message).write(), self.udp.now)

    def _handle(self, event: Event) -> None:
        if event.kind is Kind.SESSION:
            self._offer(event.peer)
        message = parse_message(event.payload) if event.kind is Kind.CONTROL else None
        handler = {JOIN: self._on_join, WELCOME: self._on_welcome, REFUSE: self._on_refuse}.get(
            message.kind if message else 0,
            {KEM_OFFER: self._on_offer, KEM_ANSWER: self._on_answer}.get(message.kind if message else 0),
        )
        if message is not None and handler is not None:
            handler(event.peer, message)

    def _on_join(self, peer: bytes, message: Message) -> None:
        """Bind the invitation to the first key that asks; refuse any other."""
        invite, key = self.invites.get(peer), record_key(message.bytes(1))
        if invite is None:
            return
        if key is None or self.bound.setdefault(peer, key) != key:
            self.say(peer, write_message(REFUSE))
            return
        if key not in self.udp.node.peers:
            where = self.udp.node.peers[peer].endpoint
            self.udp.node.add_peer(key, psk=invite.friend_psk, endpoints=[where] if where else [])
        self.say(peer, write_message(WELCOME, self.record))

    def _on_welcome(self, peer: bytes, message: Message) -> None:
        """Become friends with the inviter, who must be who the line said."""
        invite = self.following
        if invite is None or record_key(message.bytes(1)) != invite.inviter:
            return
        self.following = None
        self.udp.node.add_peer(invite.inviter, psk=invite.friend_psk, endpoints=list(invite.endpoints))
        self.udp.node.dial(invite.inviter, self.udp.now)

    def _on_refuse(self, peer: bytes, message: Message) -> None:
        self.refused += 1

    def _offer(self, key: bytes) -> None:
        """Offer an encapsulation key in the first session, where both want and the own key is the lower."""
        peer = self.udp.node.peers[key]
        wanted = peer.current is not None and peer.current.features & 1 and peer.address
        if wanted and self.device.key < key and peer.hybrid_psk is None and key not in self._offers:
            self._offers[key] = Offer(MLKEM768PrivateKey.generate(), peer.psk, self.udp.now)

    def _on_offer(self, key: bytes, message: Message) -> None:
        """Answer with a ciphertext; a repeated offer with the same."""
        peer, offered = self.udp.node.peers[key], message.bytes(2)
        if offered not in self._answers:
            shared, ciphertext = MLKEM768PublicKey.from_public_bytes(offered).encapsulate()
            self._answers[offered] = (ciphertext, hybrid_psk(peer.psk, shared, offered, ciphertext))
        ciphertext, peer.hybrid_psk = self._answers[offered]
        self.say(key, write_message(KEM_ANSWER, message.number(1), ciphertext))

    def _on_answer(self, key: bytes, message: Message) -> None:
        """Take the new psk and start a handshake with it."""
        offer, peer = self._offers.pop(key, None), self.udp.node.peers[key]
        if offer is None:
            return
        ciphertext = message.bytes(2)
        shared = offer.private_key.decapsulate(ciphertext)
        offered = offer.private_key.public_key().public_bytes_raw()
        peer.hybrid_psk = hybrid_psk(offer.psk, shared, offered, ciphertext)
        self.udp.node.dial(key, self.udp.now)
