"""The replay window: a bitmap of the last counters in blocks of 64. Source: RFC 6479."""

from __future__ import annotations

WINDOW_BITS = 8192
BLOCK_BITS = 64
BLOCKS = WINDOW_BITS // BLOCK_BITS


class ReplayWindow:
    """Counters seen; one block more than the window is never usable, as the block at its end is partly cleared."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self._blocks = [0] * BLOCKS
        self.next = 0

    def may_accept(self, counter: int) -> bool:
        """Say whether a counter is new enough and not yet seen."""
        if counter >= self.next:
            return True
        if counter + WINDOW_BITS - BLOCK_BITS < self.next:
            return False
        return not self._blocks[counter // BLOCK_BITS % BLOCKS] >> counter % BLOCK_BITS & 1

    def mark(self, counter: int) -> None:
        """Mark a counter seen; call only after its tag was verified."""
        if counter >= self.next:
            newest = (self.next - 1) // BLOCK_BITS
            for block in range(max(newest + 1, counter // BLOCK_BITS - BLOCKS + 1), counter // BLOCK_BITS + 1):
                self._blocks[block % BLOCKS] = 0
            self.next = counter + 1
        self._blocks[counter // BLOCK_BITS % BLOCKS] |= 1 << counter % BLOCK_BITS
