"""How many control messages a friend may have handled: enough for everything honest, too few to keep others waiting.

A token bucket for each peer. What is above it is dropped and counted; a friend who sends it hurts only himself,
because whatever is worth saying is repeated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MESSAGES_PER_S: Final = 20.0
"""A friend who comes up sends three or four within a second, then one in minutes."""

BURST: Final = 60.0
"""Messages at once: three seconds' worth, so that a stopped loop that goes on does not drop what waited."""


@dataclass(slots=True)
class _Bucket:
    """What is left of a peer's allowance, and when that was true."""

    left: float
    at: float


class Allowance:
    """The buckets of all peers."""

    def __init__(self) -> None:
        self._buckets: dict[bytes, _Bucket] = {}

    def take(self, key: bytes, now: float) -> bool:
        """Take one message's worth from a peer's allowance; say whether there was any. `now` is monotonic seconds."""
        bucket = self._buckets.setdefault(key, _Bucket(BURST, now))
        bucket.left = min(BURST, bucket.left + (now - bucket.at) * MESSAGES_PER_S)
        bucket.at = now
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True

    def forget(self, key: bytes) -> None:
        """Forget a peer."""
        self._buckets.pop(key, None)
