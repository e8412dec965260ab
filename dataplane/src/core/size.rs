//! How large a datagram the path carries: searched with padded probes, never by ICMP. Source: RFC 8899; docs/protocol.md §6.3.

use std::net::SocketAddr;
use std::time::Duration;

/// Bytes of IP that every path carries. Source: RFC 8200 §5.
pub const LEAST_IP_BYTES: usize = 1280;
/// Headers of IPv4 and UDP, in bytes.
pub const IP4_OVERHEAD_BYTES: usize = 20 + 8;
/// Headers of IPv6 and UDP, in bytes.
pub const IP6_OVERHEAD_BYTES: usize = 40 + 8;
/// How long a probe may take.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often the size in use is confirmed while full datagrams flow.
pub const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);
/// How long until a search that ended below the interface's size is tried again. Source: RFC 8899 §5.1.1.
pub const RAISE_INTERVAL: Duration = Duration::from_secs(600);
const MAX_UDP_BYTES: usize = 65_507;
const TRIES: u8 = 2;
const GRAIN: usize = 16;

/// What IP and UDP add to a datagram to this address, in bytes.
pub fn ip_overhead(to: &SocketAddr) -> usize {
    if to.is_ipv4() {
        IP4_OVERHEAD_BYTES
    } else {
        IP6_OVERHEAD_BYTES
    }
}

/// The search for one path.
pub struct Size {
    /// The largest UDP payload known to pass, in bytes.
    pub current: usize,
    base: usize,
    ceiling: usize,
    refused: usize,
    asked: Option<(usize, Duration)>,
    tries: u8,
    next_at: Duration,
    raise_at: Duration,
}

impl Size {
    /// Start at the size every path carries, and look upward at once.
    pub fn new(to: &SocketAddr, underlay_mtu: usize, now: Duration) -> Self {
        let base = LEAST_IP_BYTES - ip_overhead(to);
        let ceiling = underlay_mtu.saturating_sub(ip_overhead(to)).clamp(base, MAX_UDP_BYTES);
        Self::from_base(base, ceiling, now)
    }

    fn from_base(base: usize, ceiling: usize, now: Duration) -> Self {
        let refused = ceiling + 1;
        Self { current: base, base, ceiling, refused, asked: None, tries: 0, next_at: now, raise_at: Duration::MAX }
    }

    /// The kernel does not let a datagram of so many bytes out: look below it, or from the base if that size was in use.
    pub fn refuse(&mut self, bytes: usize, now: Duration) {
        if bytes <= self.current {
            return self.reset(now);
        }
        self.asked = None;
        self.tries = 0;
        self.refused = self.refused.min(bytes);
        self.settle(now);
    }

    /// Search again from the base: two confirmations did not come.
    fn reset(&mut self, now: Duration) {
        *self = Self::from_base(self.base, self.ceiling, now);
    }

    /// The size that every path carries.
    pub fn base(&self) -> usize {
        self.base
    }

    fn is_searching(&self) -> bool {
        self.current < self.ceiling && self.refused > self.current + GRAIN
    }

    /// When `poll` wants to be asked next, if ever. `is_in_use`: datagrams above the base are being sent.
    pub fn due_at(&self, is_in_use: bool) -> Option<Duration> {
        if let Some((_, sent_at)) = self.asked {
            return Some(sent_at + PROBE_TIMEOUT);
        }
        let confirms = is_in_use && self.current > self.base;
        (confirms || self.is_searching()).then_some(self.next_at).or(is_in_use.then_some(self.raise_at))
    }

    /// The size of the probe to send now, if one is due.
    pub fn poll(&mut self, is_in_use: bool, now: Duration) -> Option<usize> {
        if self.due_at(is_in_use).is_none_or(|due_at| now < due_at) {
            return None;
        }
        self.take_unanswered(now);
        if now >= self.raise_at {
            (self.refused, self.raise_at) = (self.ceiling + 1, Duration::MAX);
        }
        let size = if self.is_searching() { self.next_guess() } else { self.current };
        self.asked = (self.is_searching() || is_in_use && size > self.base).then_some((size, now));
        self.asked.map(|(size, _)| size)
    }

    fn next_guess(&self) -> usize {
        if self.refused > self.ceiling {
            self.ceiling
        } else {
            (self.current + self.refused) / 2
        }
    }

    fn take_unanswered(&mut self, now: Duration) {
        let Some((size, _)) = self.asked.take() else {
            return;
        };
        self.tries += 1;
        if self.tries < TRIES {
            return;
        }
        self.tries = 0;
        if size <= self.current {
            return self.reset(now);
        }
        self.refused = size;
        self.settle(now);
    }

    fn settle(&mut self, now: Duration) {
        self.next_at = if self.is_searching() { now } else { now + CONFIRM_INTERVAL };
        if !self.is_searching() && self.current + GRAIN < self.ceiling {
            self.raise_at = now + RAISE_INTERVAL;
        }
    }

    /// A probe of this size came through.
    pub fn confirm(&mut self, size: usize, now: Duration) {
        if self.asked.is_none_or(|(asked, _)| asked < size) {
            return;
        }
        self.asked = None;
        self.tries = 0;
        self.current = self.current.max(size);
        self.settle(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(size: &mut Size, path: usize, from: Duration, seconds: u64) {
        for step in 0..seconds * 20 {
            let now = from + Duration::from_millis(step * 50);
            if let Some(probe) = size.poll(true, now) {
                if probe <= path {
                    size.confirm(probe, now);
                }
            }
        }
    }

    fn to() -> SocketAddr {
        ([192, 0, 2, 1], 4242).into()
    }

    #[test]
    fn finds_the_interface_in_one_round_trip() {
        let mut size = Size::new(&to(), 1500, Duration::ZERO);
        assert_eq!(size.current, 1252);
        let probe = size.poll(false, Duration::ZERO);
        assert_eq!(probe, Some(1472));
        size.confirm(1472, Duration::ZERO);
        assert_eq!(size.current, 1472);
    }

    #[test]
    fn finds_a_narrower_path_within_a_grain() {
        let mut size = Size::new(&to(), 1500, Duration::ZERO);
        search(&mut size, 1372, Duration::ZERO, 10);
        assert!(size.current <= 1372 && size.current + 2 * GRAIN > 1372, "{}", size.current);
    }

    #[test]
    fn falls_when_the_path_narrows_and_finds_its_way_up() {
        let mut size = Size::new(&to(), 1500, Duration::ZERO);
        search(&mut size, 1472, Duration::ZERO, 1);
        search(&mut size, 1252, Duration::from_secs(1), 4);
        assert_eq!(size.current, 1252);
        search(&mut size, 1372, RAISE_INTERVAL + Duration::from_secs(60), 10);
        assert!(size.current > 1372 - 2 * GRAIN && size.current <= 1372, "{}", size.current);
    }

    #[test]
    fn what_the_interface_refuses_is_found_without_waiting() {
        let (mut size, mut asked) = (Size::new(&to(), 1500, Duration::ZERO), 0);
        while let Some(probe) = size.poll(true, Duration::ZERO) {
            asked += 1;
            if probe > 1372 {
                size.refuse(probe, Duration::ZERO);
            } else {
                size.confirm(probe, Duration::ZERO);
            }
        }
        assert!(asked < 10 && size.current <= 1372 && size.current > 1372 - 2 * GRAIN, "{asked} {}", size.current);
    }

    #[test]
    fn a_late_or_foreign_reply_raises_nothing() {
        let mut size = Size::new(&to(), 1500, Duration::ZERO);
        size.confirm(9000, Duration::ZERO);
        assert_eq!(size.current, 1252);
    }
}
