"""What a reference node knows of one friend."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from tests.reference.cookie import COOKIE_LIFETIME, Endpoint
from tests.reference.datagram import Initiation, psk_id
from tests.reference.noise import Initiator
from tests.reference.session import Session

TIMESTAMP_STEP_NS = 1 << 24
SECOND_NS = 1_000_000_000
TAI64_BASE = 2**62 + 10
FRAGMENT_LIFETIME = 1.0
FRAGMENT_PAIRS = 4
UNPROVED_ADDRESSES = 16
NO_PSK_ID = bytes(4)


@dataclass
class Pending:
    """An initiation under way."""

    index: int
    noise: Initiator
    initiation: Initiation
    psk: bytes
    psk_id: bytes
    retry_at: float


@dataclass
class Candidate:
    """An address that a friend may have moved to, and the probe sent there."""

    endpoint: Endpoint
    token: bytes
    sent_at: float


@dataclass
class Half:
    """One fragment that waits for the other."""

    last: bool
    body: bytes
    came_at: float


@dataclass
class Peer:
    """A friend, or an invite peer (`address` is then empty)."""

    key: bytes
    psk: bytes
    private_key: bytes
    address: bytes
    endpoints: list[Endpoint]
    keepalive: float = 25.0
    hybrid_psk: bytes | None = None
    datagram_bytes: int = 1252
    endpoint: Endpoint | None = None
    previous: Session | None = None
    current: Session | None = None
    next: Session | None = None
    next_reply_to: Endpoint | None = None
    pending: Pending | None = None
    dial_timeout: float = 0.25
    unanswered_dials: int = 0
    timestamp_sent_ns: int = 0
    timestamp_seen: bytes | None = None
    stale_accepted_at: float = -1.0
    answered_at: float = -1.0
    cookie_answered_at: float = -1.0
    cookies: dict[Endpoint, tuple[bytes, float]] = field(default_factory=dict)
    waiting: list[bytes] = field(default_factory=list)
    halves: OrderedDict[int, Half] = field(default_factory=OrderedDict)
    next_fragment_id: int = 0
    candidate: Candidate | None = None
    owed_bytes: OrderedDict[Endpoint, int] = field(default_factory=OrderedDict)
    probes: dict[bytes, float] = field(default_factory=dict)
    sent_at: float = 0.0
    unanswered_since: float | None = None
    life_probes: int = 0

    def sessions(self) -> list[Session]:
        """List those that stand, the current one first."""
        return [session for session in (self.current, self.next, self.previous) if session is not None]

    def psk_for(self, wanted: bytes) -> bytes | None:
        """Find the psk that an initiation names."""
        if wanted == NO_PSK_ID:
            return self.psk
        return self.hybrid_psk if self.hybrid_psk is not None and psk_id(self.hybrid_psk) == wanted else None

    def psk_to_dial_with(self) -> tuple[bytes, bytes]:
        """Choose the psk and its id: hybrid where there is one, the friendship's own after two vain tries."""
        if self.hybrid_psk is None or self.unanswered_dials >= 2:
            return self.psk, NO_PSK_ID
        return self.hybrid_psk, psk_id(self.hybrid_psk)

    def next_timestamp(self, unix_ns: int) -> bytes:
        """Give a TAI64N later than all before."""
        seconds, nanoseconds = divmod(unix_ns, SECOND_NS)
        wanted = seconds * SECOND_NS + nanoseconds // TIMESTAMP_STEP_NS * TIMESTAMP_STEP_NS
        if wanted <= self.timestamp_sent_ns:
            seconds, nanoseconds = divmod(self.timestamp_sent_ns, SECOND_NS)
            overflows = nanoseconds + TIMESTAMP_STEP_NS >= SECOND_NS
            wanted = (seconds + 1) * SECOND_NS if overflows else self.timestamp_sent_ns + TIMESTAMP_STEP_NS
        self.timestamp_sent_ns = wanted
        seconds, nanoseconds = divmod(wanted, SECOND_NS)
        return (seconds + TAI64_BASE).to_bytes(8, "big") + nanoseconds.to_bytes(4, "big")

    def cookie_for(self, endpoint: Endpoint, now: float) -> bytes | None:
        """Give the cookie held for an endpoint, if it is fresh."""
        cookie, came_at = self.cookies.get(endpoint, (b"", -COOKIE_LIFETIME))
        return cookie if now - came_at < COOKIE_LIFETIME and cookie else None

    def owe(self, endpoint: Endpoint, count: int) -> None:
        """Note bytes that came from an address which is not proved: as many may go there."""
        self.owed_bytes[endpoint] = self.owed_bytes.pop(endpoint, 0) + count
        if len(self.owed_bytes) > UNPROVED_ADDRESSES:
            self.owed_bytes.popitem(last=False)

    def may_send(self, endpoint: Endpoint, count: int) -> bool:
        """Say whether bytes may go to an address, and count them."""
        if endpoint == self.endpoint:
            return True
        if self.owed_bytes.get(endpoint, 0) < count:
            return False
        self.owed_bytes[endpoint] -= count
        return True

    def join_fragment(self, fragment_id: int, last: bool, body: bytes, now: float) -> bytes | None:
        """Take one half; give the whole frame once both are here."""
        for stale in [key for key, half in self.halves.items() if now - half.came_at >= FRAGMENT_LIFETIME]:
            del self.halves[stale]
        other = self.halves.get(fragment_id)
        if other is not None and other.last != last:
            del self.halves[fragment_id]
            return other.body + body if last else body + other.body
        self.halves[fragment_id] = Half(last, body, now)
        if len(self.halves) > FRAGMENT_PAIRS:
            self.halves.popitem(last=False)
        return None
