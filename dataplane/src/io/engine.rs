//! The thread that moves packets: read what is there, let the core decide, send and write what came of it, else sleep.
//!
//! Each round reads the TUN dry into the friends' queues (so that a ping is seen behind a download, and CoDel sees the whole queue),
//! takes one batch from the socket, and sends a few trains; when a round found nothing to do, it sleeps until a descriptor is
//! ready or a timer is due.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::erase::erase_stack;
use super::sys;
use super::tun::{Tun, PACKET_BYTES};
use super::udp::{Message, Sent, Udp, BATCH, MESSAGE_BYTES};
use crate::core::drops::Drop;
use crate::core::node::{Event, Node, Transmit, EVENTS};
use crate::core::train::TRAIN_BYTES;
use crate::core::virtio::Virtio;

/// Packets read from the TUN in one round.
const READS: usize = 64;
/// Batches taken from the socket in one round, if they are small.
const BATCHES: usize = 8;
/// What is sent in one round: a few full trains, or many short datagrams.
const SEND_BYTES: usize = 4 * TRAIN_BYTES;
const SENDS: usize = 256;
/// Packets up to this size are kept in buffers of this size.
const SMALL_BYTES: usize = 2048;
/// Free buffers kept, small and large.
const SPARE_SMALL: usize = 2048;
const SPARE_LARGE: usize = 64;
/// How often the time of day is read, for timestamps of initiations.
const CLOCK_INTERVAL: Duration = Duration::from_millis(100);

/// What the control plane asks to be done with the node.
pub type Command = Box<dyn FnOnce(&mut Node, Duration) + Send>;

/// What the thread has to say, for the control plane to fetch.
pub struct Outlet {
    /// Readable while events wait.
    pub fd: OwnedFd,
    events: Mutex<VecDeque<Notice>>,
}

/// An event of the node, or the thread's last word.
pub enum Notice {
    /// The node's.
    Event(Event),
    /// The thread has ended, for this reason; empty when asked to.
    Stopped(String),
}

impl Outlet {
    /// An outlet with nothing in it.
    pub fn new() -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self { fd: sys::eventfd()?, events: Mutex::new(VecDeque::new()) }))
    }

    /// Take the oldest.
    pub fn take(&self) -> Option<Notice> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// Add one; say whether there was room. The last word always has some.
    pub fn put(&self, notice: Notice) -> bool {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = events.len() < EVENTS || matches!(notice, Notice::Stopped(_));
        if has_room {
            events.push_back(notice);
            sys::ring(&self.fd);
        }
        has_room
    }
}

/// The node with its devices.
pub struct Engine {
    /// The core.
    pub node: Node,
    tun: Tun,
    udp: Udp,
    outlet: Arc<Outlet>,
    keylog: Option<File>,
    messages: Vec<Message>,
    train: Box<[u8]>,
    unsent: Option<Transmit>,
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    clock_at: Duration,
}

impl Engine {
    /// Put the parts together.
    pub fn new(node: Node, tun: Tun, udp: Udp, outlet: Arc<Outlet>, keylog: Option<File>) -> Self {
        Self {
            node,
            tun,
            udp,
            outlet,
            keylog,
            messages: Vec::new(),
            train: vec![0; TRAIN_BYTES].into(),
            unsent: None,
            small: Vec::new(),
            large: Vec::new(),
            clock_at: Duration::ZERO,
        }
    }

    /// Move packets until the commands' sender is gone.
    pub fn run(&mut self, commands: &Receiver<Command>, wake: &OwnedFd) -> io::Result<()> {
        loop {
            let now = sys::now();
            self.tell_time(now);
            if !self.obey(commands, now) {
                // What was given to us before, goodbyes above all, still goes.
                self.send(now);
                return Ok(());
            }
            self.node.handle_timeout(now);
            let mut busy = self.read_tun(now)?;
            busy |= self.read_udp(now)?;
            busy |= self.send(now);
            self.report()?;
            if self.node.poll_erased() {
                erase_stack();
            }
            if !busy {
                self.sleep(wake)?;
            }
        }
    }

    fn tell_time(&mut self, now: Duration) {
        if now.saturating_sub(self.clock_at) >= CLOCK_INTERVAL {
            self.clock_at = now;
            self.node.handle_clock(sys::unix_time(), now);
        }
    }

    fn obey(&mut self, commands: &Receiver<Command>, now: Duration) -> bool {
        loop {
            match commands.try_recv() {
                Ok(command) => command(&mut self.node, now),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn read_tun(&mut self, now: Duration) -> io::Result<bool> {
        let mut buffer = self.large.pop().unwrap_or_else(|| vec![0; PACKET_BYTES].into());
        for count in 0..READS {
            let Some(end) = self.tun.read(&mut buffer)? else {
                self.large.push(buffer);
                return Ok(count > 0);
            };
            if end <= SMALL_BYTES {
                let mut small = self.small.pop().unwrap_or_else(|| vec![0; SMALL_BYTES].into());
                small[..end].copy_from_slice(&buffer[..end]);
                self.node.handle_packet(small, end, now);
            } else {
                let next = self.large.pop().unwrap_or_else(|| vec![0; PACKET_BYTES].into());
                self.node.handle_packet(std::mem::replace(&mut buffer, next), end, now);
            }
            self.recycle();
        }
        self.large.push(buffer);
        Ok(true)
    }

    fn recycle(&mut self) {
        while let Some(buffer) = self.node.poll_buffer() {
            let (spare, most) = if buffer.len() == SMALL_BYTES {
                (&mut self.small, SPARE_SMALL)
            } else {
                (&mut self.large, SPARE_LARGE)
            };
            if spare.len() < most {
                spare.push(buffer);
            }
        }
    }

    /// Take batches while they come full of short datagrams: a flood must not outrun the socket's buffer.
    fn read_udp(&mut self, now: Duration) -> io::Result<bool> {
        for count in 0..BATCHES {
            let bytes = self.read_batch(now)?;
            if self.messages.len() < BATCH || bytes > BATCH * MESSAGE_BYTES / BATCHES {
                return Ok(count > 0 || !self.messages.is_empty());
            }
        }
        Ok(true)
    }

    fn read_batch(&mut self, now: Duration) -> io::Result<usize> {
        self.udp.receive(&mut self.messages)?;
        self.node.packets().clear();
        for message in &self.messages {
            let end = message.start + message.bytes;
            for start in (message.start..end).step_by(message.segment_bytes) {
                let place = start..(start + message.segment_bytes).min(end);
                self.node.handle_datagram(message.from, self.udp.arena(), place, now);
            }
        }
        self.write_tun();
        Ok(self.messages.iter().map(|message| message.bytes).sum())
    }

    fn write_tun(&mut self) {
        let packets = self.node.packets();
        packets.finish();
        let mut refused = 0;
        for (head, pieces, owned) in packets.runs() {
            let from = owned.unwrap_or_else(|| self.udp.arena());
            refused += u64::from(self.tun.write(head, pieces, from).is_err());
        }
        while let Some(error) = self.node.poll_error() {
            let mut head = Virtio::default().write().to_vec();
            head.extend_from_slice(&error);
            refused += u64::from(self.tun.write(&head, &[], &[]).is_err());
        }
        self.node.count(Drop::RxTunRefused, refused);
    }

    fn send(&mut self, now: Duration) -> bool {
        let mut bytes = 0;
        for count in 0..SENDS {
            if bytes >= SEND_BYTES {
                break;
            }
            let train = self.unsent.take().or_else(|| self.node.poll_transmit(&mut self.train, now));
            let Some(train) = train else { return count > 0 };
            let sent = self.udp.send(&self.train[..train.bytes], &train);
            if sent == Sent::Blocked {
                self.unsent = Some(train);
                return count > 0;
            }
            bytes += train.bytes;
            self.account(&sent, &train, now);
        }
        self.recycle();
        true
    }

    fn account(&mut self, sent: &Sent, train: &Transmit, now: Duration) {
        match (sent, train.peer) {
            (Sent::Full, Some(peer)) => self.node.handle_full(peer, now),
            (Sent::TooLarge, Some(peer)) => self.node.handle_too_large(peer, train.segment_bytes, now),
            (Sent::Yes, _) => {}
            _ => self.node.count(Drop::TxRefused, 1),
        }
    }

    fn report(&mut self) -> io::Result<()> {
        while let Some(event) = self.node.poll_event() {
            if !self.outlet.put(Notice::Event(event)) {
                self.node.count(Drop::RxEventsFull, 1);
            }
        }
        let Some(keylog) = &mut self.keylog else { return Ok(()) };
        for line in self.node.poll_keylog() {
            writeln!(keylog, "{line}")?;
        }
        Ok(())
    }

    fn sleep(&mut self, wake: &OwnedFd) -> io::Result<()> {
        let writable = if self.unsent.is_some() { libc::POLLOUT } else { 0 };
        let mut fds = [
            sys::pollfd(&self.tun, libc::POLLIN),
            sys::pollfd(&self.udp, libc::POLLIN | writable),
            sys::pollfd(wake, libc::POLLIN),
        ];
        let timeout = self.node.poll_timeout().map(|due_at| due_at.saturating_sub(sys::now()));
        sys::poll(&mut fds, timeout)?;
        if fds[1].revents & libc::POLLERR != 0 {
            self.udp.drain_errors();
        }
        if fds[2].revents != 0 {
            sys::hush(wake);
        }
        Ok(())
    }
}
