//! What waits for one friend: flows that take turns (deficit round robin) and are kept short (CoDel), as in FQ-CoDel.
//!
//! A flow that sends little finds its turn at once, so a friend's ping and ssh do not wait behind that friend's download, and no
//! flow is reordered. Source: RFC 8290, RFC 8289; the constants are theirs.

use std::collections::VecDeque;
use std::time::Duration;

use super::packet::Packet;

/// Sojourn time that a standing queue may have.
pub const TARGET: Duration = Duration::from_millis(5);
/// How long it must stand above the target before something is dropped: a worst-case round trip.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// Most that waits for one friend, in bytes: 10 ms at 6 Gbit/s. CoDel is what keeps it short; this bounds memory.
pub const QUEUE_BYTES: usize = 8 << 20;
/// Most that waits for one friend, in packets: bounds the memory of small ones.
pub const QUEUE_PACKETS: usize = 2048;
/// What one flow sends before the next has its turn, in bytes: one packet of the TUN's MTU.
const QUANTUM: i64 = 1500;
const FLOWS: usize = 64;

#[derive(Default)]
struct Codel {
    above_since: Option<Duration>,
    is_dropping: bool,
    drop_at: Duration,
    drops: u32,
}

impl Codel {
    /// Say whether the packet at the head, which waited for `sojourn`, is to be dropped. Source: RFC 8289 §5.
    fn drops(&mut self, sojourn: Duration, backlog: usize, now: Duration) -> bool {
        if sojourn < TARGET || backlog <= QUANTUM as usize {
            self.above_since = None;
            self.is_dropping = false;
            return false;
        }
        let above_since = *self.above_since.get_or_insert(now);
        if self.is_dropping {
            return self.drops_again(now);
        }
        let stands = now.saturating_sub(above_since) >= INTERVAL;
        if stands {
            self.start(now);
        }
        stands
    }

    fn start(&mut self, now: Duration) {
        let recent = now.saturating_sub(self.drop_at) < 16 * INTERVAL;
        self.drops = if recent && self.drops > 2 { self.drops - 2 } else { 1 };
        self.is_dropping = true;
        self.drop_at = now + self.spacing();
    }

    fn drops_again(&mut self, now: Duration) -> bool {
        let due = now >= self.drop_at;
        if due {
            self.drops += 1;
            self.drop_at += self.spacing();
        }
        due
    }

    fn spacing(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.drops.max(1)).sqrt())
    }
}

#[derive(Default)]
struct Flow {
    packets: VecDeque<Packet>,
    bytes: usize,
    deficit: i64,
    is_listed: bool,
    codel: Codel,
}

/// The packets that wait for one friend.
#[derive(Default)]
pub struct Queue {
    flows: Vec<Flow>,
    fresh: VecDeque<usize>,
    turns: VecDeque<usize>,
    bytes: usize,
    packets: usize,
}

impl Queue {
    /// Say whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Bytes that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest packet was queued.
    pub fn oldest(&self) -> Option<Duration> {
        self.flows.iter().filter_map(|flow| flow.packets.front()).map(|head| head.queued_at).min()
    }

    /// Queue a packet. What had to go for it, the head of the longest flow, is handed to `spill`.
    pub fn push(&mut self, packet: Packet, bound_bytes: usize, mut spill: impl FnMut(Packet)) {
        if self.flows.is_empty() {
            self.flows.resize_with(FLOWS, Flow::default);
        }
        let at = (packet.flow % FLOWS as u64) as usize;
        let flow = &mut self.flows[at];
        self.bytes += packet.bytes();
        self.packets += 1;
        flow.bytes += packet.bytes();
        flow.packets.push_back(packet);
        if !flow.is_listed {
            flow.is_listed = true;
            flow.deficit = QUANTUM;
            self.fresh.push_back(at);
        }
        while self.bytes > bound_bytes || self.packets > QUEUE_PACKETS {
            let Some(dropped) = self.drop_from_longest() else {
                break;
            };
            spill(dropped);
        }
    }

    fn drop_from_longest(&mut self) -> Option<Packet> {
        let longest = (0..self.flows.len()).max_by_key(|&at| self.flows[at].bytes)?;
        self.pop(longest)
    }

    fn pop(&mut self, at: usize) -> Option<Packet> {
        let flow = &mut self.flows[at];
        let packet = flow.packets.pop_front()?;
        flow.bytes -= packet.bytes();
        self.bytes -= packet.bytes();
        self.packets -= 1;
        Some(packet)
    }

    /// The packet whose turn it is; the same one until it is finished. What CoDel drops on the way is handed to `spill`.
    pub fn front(&mut self, now: Duration, mut spill: impl FnMut(Packet)) -> Option<&mut Packet> {
        loop {
            let at = self.turn()?;
            let flow = &mut self.flows[at];
            let Some(head) = flow.packets.front() else {
                self.leave(at);
                continue;
            };
            let waited = now.saturating_sub(head.queued_at);
            if !head.is_begun() && flow.codel.drops(waited, flow.bytes, now) {
                self.pop(at).into_iter().for_each(&mut spill);
                continue;
            }
            return self.flows[at].packets.front_mut();
        }
    }

    fn turn(&mut self) -> Option<usize> {
        loop {
            let from_fresh = !self.fresh.is_empty();
            let at = *self.fresh.front().or(self.turns.front())?;
            if self.flows[at].deficit > 0 {
                return Some(at);
            }
            self.flows[at].deficit += QUANTUM;
            self.unlist_front(from_fresh);
            self.turns.push_back(at);
        }
    }

    fn unlist_front(&mut self, from_fresh: bool) {
        if from_fresh {
            self.fresh.pop_front();
        } else {
            self.turns.pop_front();
        }
    }

    /// An emptied flow gives up its turn; one that was fresh waits a round, lest it be fresh again at once (RFC 8290 §4.2).
    fn leave(&mut self, at: usize) {
        let from_fresh = !self.fresh.is_empty();
        self.unlist_front(from_fresh);
        if from_fresh && !self.turns.is_empty() {
            self.turns.push_back(at);
        } else {
            self.flows[at].is_listed = false;
        }
    }

    /// Account for bytes sent of the packet whose turn it is; gives it back once it is done.
    pub fn sent(&mut self, bytes: usize) -> Option<Packet> {
        let at = *self.fresh.front().or(self.turns.front())?;
        self.flows[at].deficit -= bytes as i64;
        if self.flows[at].packets.front()?.is_done() {
            return self.pop(at);
        }
        // A superpacket is not left half cut: its segments have following counters and rejoin.
        self.flows[at].deficit = self.flows[at].deficit.max(1);
        None
    }

    /// Take everything out.
    pub fn drain(&mut self) -> impl Iterator<Item = Packet> + '_ {
        self.fresh.clear();
        self.turns.clear();
        (self.bytes, self.packets) = (0, 0);
        self.flows.drain(..).flat_map(|flow| flow.packets)
    }

    /// Take out what has waited since `since` or longer, for a friend who does not answer.
    pub fn expire(&mut self, since: Duration) -> Vec<Packet> {
        let old = |flow: &Flow| flow.packets.front().is_some_and(|head| head.queued_at <= since);
        let mut expired = Vec::new();
        while let Some(at) = self.flows.iter().position(old) {
            expired.extend(self.pop(at));
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::super::virtio::VIRTIO_BYTES;
    use super::*;

    const OWN: [u8; 16] = [0xfc; 16];

    fn packet(port: u8, bytes: usize, now: Duration) -> Packet {
        let mut buffer = vec![0; VIRTIO_BYTES + bytes];
        buffer[10] = 0x60;
        buffer[14..16].copy_from_slice(&((bytes - 40) as u16).to_be_bytes());
        buffer[16] = 17;
        buffer[18..34].copy_from_slice(&OWN);
        buffer[34] = 0xfc;
        buffer[51] = port;
        let end = buffer.len();
        Packet::new(buffer.into(), end, &OWN, now).unwrap_or_else(|((drop, _), _)| panic!("{drop:?}"))
    }

    fn send(queue: &mut Queue, now: Duration) -> Option<(u8, usize)> {
        let mut dropped = 0;
        let packet = queue.front(now, |_| dropped += 1)?;
        let size = packet.next_frame_bytes(9000);
        packet.write_next_frame(&mut vec![0; size], 9000, false);
        let port = packet.ip6()[41];
        assert!(queue.sent(size).is_some());
        Some((port, dropped))
    }

    #[test]
    fn a_sparse_flow_overtakes_a_bulk_flow() {
        let mut queue = Queue::default();
        for _ in 0..50 {
            queue.push(packet(1, 1400, Duration::ZERO), QUEUE_BYTES, |_| panic!("full"));
        }
        assert_eq!(send(&mut queue, Duration::ZERO), Some((1, 0)));
        assert_eq!(send(&mut queue, Duration::ZERO), Some((1, 0)));
        queue.push(packet(2, 100, Duration::ZERO), QUEUE_BYTES, |_| panic!("full"));
        assert_eq!(send(&mut queue, Duration::ZERO), Some((2, 0)));
    }

    #[test]
    fn bulk_flows_share_by_bytes() {
        let mut queue = Queue::default();
        for _ in 0..200 {
            queue.push(packet(1, 1400, Duration::ZERO), QUEUE_BYTES, |_| panic!("full"));
            queue.push(packet(2, 700, Duration::ZERO), QUEUE_BYTES, |_| panic!("full"));
        }
        let sent: Vec<u8> = (0..150).filter_map(|_| send(&mut queue, Duration::ZERO)).map(|(port, _)| port).collect();
        let ones = sent.iter().filter(|&&port| port == 1).count();
        assert!((45..=55).contains(&ones), "{ones}");
    }

    #[test]
    fn a_full_queue_drops_from_the_longest_flow() {
        let mut queue = Queue::default();
        let mut dropped = Vec::new();
        for port in [1, 1, 1, 1, 2] {
            queue.push(packet(port, 1000, Duration::ZERO), 4000, |packet| dropped.push(packet.ip6()[41]));
        }
        assert_eq!(dropped, [1]);
        assert_eq!(queue.bytes(), 4000);
    }

    #[test]
    fn a_standing_queue_is_dropped_from_and_a_short_one_is_not() {
        let mut queue = Queue::default();
        let step = Duration::from_millis(1);
        let (mut now, mut dropped) = (Duration::ZERO, 0);
        for _ in 0..20 {
            queue.push(packet(1, 1400, now), QUEUE_BYTES, |_| panic!("full"));
        }
        for _ in 0..400 {
            now += step;
            queue.push(packet(1, 1400, now), QUEUE_BYTES, |_| panic!("full"));
            dropped += send(&mut queue, now).map_or(0, |(_, dropped)| dropped);
        }
        assert!(dropped > 2, "{dropped}");
        assert!(queue.bytes() < 20 * 1400);
    }

    #[test]
    fn what_waits_too_long_comes_out_oldest_first() {
        let mut queue = Queue::default();
        for at in 0..5 {
            queue.push(packet(at, 100, Duration::from_secs(at.into())), QUEUE_BYTES, |_| panic!("full"));
        }
        assert_eq!(queue.expire(Duration::from_secs(2)).len(), 3);
        assert_eq!(queue.drain().count(), 2);
        assert!(queue.is_empty() && queue.front(Duration::ZERO, |_| ()).is_none());
    }
}
