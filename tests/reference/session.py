"""A session: two keys, two indices, a counter out and a window in. Source: docs/protocol.md §3.3, §3.5, §4."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.reference import crypto
from tests.reference.datagram import AES, Data, seal_data
from tests.reference.window import ReplayWindow

REKEY_AFTER, REKEY_AFTER_RESPONDER, REJECT_AFTER, ERASE_AFTER = 120.0, 150.0, 180.0, 540.0
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
REKEY_AFTER_MESSAGES, REKEY_AFTER_MESSAGES_AES = 2**60, 2**27


@dataclass
class Session:
    """What two nodes share after a handshake."""

    own_index: int
    peer_index: int
    receive_key: bytes
    send_key: bytes
    initiator: bool
    born_at: float
    psk_id: bytes = bytes(4)
    features: int = 0
    counter: int = 0
    window: ReplayWindow = field(default_factory=ReplayWindow)

    def is_expired(self, now: float) -> bool:
        """Say whether nothing may be sent or accepted any more."""
        return now - self.born_at >= REJECT_AFTER or self.counter >= REJECT_AFTER_MESSAGES

    @property
    def aes(self) -> bool:
        """Whether data is under AES-256-GCM."""
        return bool(self.features & AES)

    def rekey_at(self) -> float:
        """Give the time at which this side starts the next handshake; long ago when it has sent enough."""
        if self.counter >= (REKEY_AFTER_MESSAGES_AES if self.aes else REKEY_AFTER_MESSAGES):
            return self.born_at
        return self.born_at + (REKEY_AFTER if self.initiator else REKEY_AFTER_RESPONDER)

    def seal(self, frame: bytes) -> bytes:
        """Make the next data datagram."""
        data = seal_data(self.send_key, self.peer_index, self.counter, frame, aes=self.aes)
        self.counter += 1
        return data.write()

    def counter_of(self, data: Data) -> int:
        """Unmask the counter; authentic only once `open` gave a frame."""
        return data.counter(crypto.mask_key(self.receive_key))

    def open(self, data: Data) -> bytes | None:
        """Check, decrypt, then mark: give the frame, or `None` for a replay or a forgery, which change nothing."""
        counter = self.counter_of(data)
        if counter >= REJECT_AFTER_MESSAGES or not self.window.may_accept(counter):
            return None
        unseal = crypto.unseal_aes if self.aes else crypto.unseal
        frame = unseal(self.receive_key, counter, data.ciphertext)
        if frame is not None:
            self.window.mark(counter)
        return frame

    def key_log_line(self) -> str:
        """Write the line of the key log. Source: docs/protocol.md §10."""
        cipher = "aes-256-gcm" if self.aes else "chacha20-poly1305"
        indices = f"{self.own_index:08x} {self.peer_index:08x}"
        return f"SESSION {indices} {self.receive_key.hex()} {self.send_key.hex()} {cipher}"
