//! Which counters were seen: the sliding bitmap of RFC 6479, whose window moves by whole words and never shifts bits.

/// Size of the bitmap, in counters. Source: RFC 6479; the width covers 1 Gbit/s × 60 ms of reordering.
pub const WINDOW_BITS: u64 = 8192;
const WORD_BITS: u64 = u64::BITS as u64;
const WORDS: u64 = WINDOW_BITS / WORD_BITS;
/// Counters at most this far below the highest are still judged one by one; one word is always being reused.
pub const WINDOW: u64 = WINDOW_BITS - WORD_BITS;

/// The counters of one session's receiving direction.
pub struct Replay {
    next: u64,
    bitmap: [u64; WORDS as usize],
}

impl Default for Replay {
    fn default() -> Self {
        Self { next: 0, bitmap: [0; WORDS as usize] }
    }
}

impl Replay {
    /// Say whether a counter is new and inside the window. Changes nothing: the tag is not verified yet.
    pub fn is_fresh(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        if self.next - counter > WINDOW {
            return false;
        }
        self.bitmap[Self::word(counter)] & Self::bit(counter) == 0
    }

    /// Mark an authentic counter as seen; say whether it is the highest so far.
    pub fn mark(&mut self, counter: u64) -> bool {
        let highest = counter >= self.next;
        if highest {
            self.advance(counter);
        }
        self.bitmap[Self::word(counter)] |= Self::bit(counter);
        highest
    }

    fn advance(&mut self, counter: u64) {
        let current = self.next.wrapping_sub(1) / WORD_BITS;
        let words = if self.next == 0 { WORDS } else { (counter / WORD_BITS - current).min(WORDS) };
        for step in 0..words {
            self.bitmap[((counter / WORD_BITS).wrapping_sub(step) % WORDS) as usize] = 0;
        }
        self.next = counter + 1;
    }

    fn word(counter: u64) -> usize {
        (counter / WORD_BITS % WORDS) as usize
    }

    fn bit(counter: u64) -> u64 {
        1 << (counter % WORD_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn offer(replay: &mut Replay, counter: u64) -> bool {
        let fresh = replay.is_fresh(counter);
        if fresh {
            replay.mark(counter);
        }
        fresh
    }

    #[test]
    fn each_counter_passes_once() {
        let mut replay = Replay::default();
        for counter in [0, 1, 5, 4, 9000, 8999, 9000 - WINDOW + 1] {
            assert!(offer(&mut replay, counter), "{counter}");
            assert!(!offer(&mut replay, counter), "{counter} twice");
        }
        assert!(!offer(&mut replay, 9000 - WINDOW), "left of the window");
        assert!(!offer(&mut replay, 0));
    }

    #[test]
    fn a_leap_forgets_nothing_it_should_remember() {
        let mut replay = Replay::default();
        assert!(offer(&mut replay, 1_000_000));
        assert!(offer(&mut replay, 1_000_000 - WINDOW + 1));
        assert!(!offer(&mut replay, 1_000_000));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(steps in proptest::collection::vec(0u64..40_000, 1..2_000)) {
            let (mut replay, mut seen, mut highest) = (Replay::default(), HashSet::new(), 0u64);
            for counter in steps {
                let expected = !seen.contains(&counter) && (seen.is_empty() || highest < WINDOW || counter > highest - WINDOW);
                prop_assert_eq!(offer(&mut replay, counter), expected);
                if expected {
                    seen.insert(counter);
                    highest = highest.max(counter);
                }
            }
        }
    }
}
