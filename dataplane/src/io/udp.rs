//! The one UDP socket: trains of datagrams with one call out (`UDP_SEGMENT`), batches with one call in (`recvmmsg`, `UDP_GRO`).
//! Source: udp(7), ip(7), ipv6(7).
#![allow(unsafe_code)]

use std::io;
use std::mem::{size_of, zeroed, MaybeUninit};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;

use super::sys::{check, check_size};
use crate::core::node::Transmit;
use crate::core::peer::Endpoint;

/// Messages of one batch.
pub const BATCH: usize = 8;
/// Size of one message: the most that the kernel coalesces.
pub const MESSAGE_BYTES: usize = 65_536;
/// Send buffer: more than all classes' queues together, so that a full class cannot block the others.
const SEND_BUFFER_BYTES: libc::c_int = 8 << 20;
/// Receive buffer: 8 ms at 8 Gbit/s. More would only make queues longer.
const RECEIVE_BUFFER_BYTES: libc::c_int = 8 << 20;
const CONTROL_BYTES: usize = 128;
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;
const PROBE: libc::c_int = 3; // IP_PMTUDISC_PROBE: don't fragment, and don't believe ICMP

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_BYTES]);

/// What became of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    /// It left.
    Yes,
    /// The socket is full: try again when it can be written to.
    Blocked,
    /// The kernel's queue for this friend is full; it is gone.
    Full,
    /// Larger than the interface carries; it is gone.
    TooLarge,
    /// No route, or not permitted; it is gone.
    Refused,
}

/// The socket and what it receives into.
pub struct Udp {
    socket: UdpSocket,
    is_ipv6: bool,
    has_gso: bool,
    /// Whether the kernel coalesces what comes in.
    pub has_gro: bool,
    arena: Box<[u8]>,
}

/// One received message: where in the arena, from whom, and the size of the datagrams in it.
pub struct Message {
    /// Offset in the arena.
    pub start: usize,
    /// Bytes in all.
    pub bytes: usize,
    /// Bytes of each datagram; the last may be shorter.
    pub segment_bytes: usize,
    /// From whom, to which of our addresses.
    pub from: Endpoint,
}

impl Udp {
    /// Bind. An IPv6 wildcard serves IPv4 too; a host without IPv6 gets an IPv4 socket instead.
    pub fn bind(listen: SocketAddr) -> io::Result<Self> {
        let (fd, is_ipv6) = match open(listen) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) && listen.ip().is_unspecified() => {
                (open(([0, 0, 0, 0], listen.port()).into())?, false)
            }
            opened => (opened?, listen.is_ipv6()),
        };
        let mut udp = Self { socket: fd, is_ipv6, has_gso: false, has_gro: false, arena: Box::default() };
        udp.set_options()?;
        udp.arena = vec![0; BATCH * MESSAGE_BYTES].into();
        Ok(udp)
    }

    fn set_options(&mut self) -> io::Result<()> {
        self.socket.set_nonblocking(true)?;
        self.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER_BYTES);
        self.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES);
        // On an IPv6 socket the IPv4 options count for mapped addresses.
        self.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, PROBE)?;
        self.set(libc::IPPROTO_IP, libc::IP_RECVERR, 1)?;
        if self.is_ipv6 {
            self.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, PROBE)?;
            self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVERR, 1)?;
            self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1)?;
        } else {
            self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, 1)?;
        }
        self.has_gro = self.set(libc::IPPROTO_UDP, UDP_GRO, 1).is_ok();
        self.has_gso = self.set(libc::IPPROTO_UDP, UDP_SEGMENT, 0).is_ok();
        Ok(())
    }

    fn set_buffer(&self, forced: libc::c_int, asked: libc::c_int, bytes: libc::c_int) {
        // The kernel doubles what is asked; without the privilege its own bound holds, which is slower but not wrong.
        if self.set(libc::SOL_SOCKET, forced, bytes / 2).is_err() {
            let _ = self.set(libc::SOL_SOCKET, asked, bytes / 2);
        }
    }

    fn set(&self, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
        set_option(&self.socket, level, option, value)
    }

    /// The address in use.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether trains leave with one call.
    pub fn has_gso(&self) -> bool {
        self.has_gso
    }

    /// What was received.
    pub fn arena(&mut self) -> &mut [u8] {
        &mut self.arena
    }

    /// Receive a batch; none means that nothing is there.
    pub fn receive(&mut self, into: &mut Vec<Message>) -> io::Result<()> {
        into.clear();
        // SAFETY: all-zero is a valid value of these C structures; every pointer set below stays valid through the call.
        let mut names: [libc::sockaddr_storage; BATCH] = unsafe { zeroed() };
        let mut controls = [Control([0; CONTROL_BYTES]); BATCH];
        // SAFETY: as above.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for at in 0..BATCH {
            let place = &mut self.arena[at * MESSAGE_BYTES..(at + 1) * MESSAGE_BYTES];
            parts[at] = libc::iovec { iov_base: place.as_mut_ptr().cast(), iov_len: place.len() };
            let header = &mut messages[at].msg_hdr;
            header.msg_name = ptr::from_mut(&mut names[at]).cast();
            header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &mut parts[at];
            header.msg_iovlen = 1;
            header.msg_control = controls[at].0.as_mut_ptr().cast();
            header.msg_controllen = CONTROL_BYTES;
        }
        // SAFETY: the headers point to arrays that outlive the call; `BATCH` is how many there are.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
            )
        };
        let count = match check(count) {
            Ok(count) => count as usize,
            Err(error) if is_passing(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        for (at, message) in messages[..count].iter().enumerate() {
            let bytes = message.msg_len as usize;
            let Some(remote) = read_name(&names[at]) else { continue };
            let (local, segment) = read_control(&message.msg_hdr);
            let segment_bytes = segment.unwrap_or(bytes).clamp(1, bytes.max(1));
            into.push(Message { start: at * MESSAGE_BYTES, bytes, segment_bytes, from: Endpoint { remote, local } });
        }
        Ok(())
    }

    /// Send one train.
    pub fn send(&mut self, bytes: &[u8], train: &Transmit) -> Sent {
        if bytes.len() > train.segment_bytes && !self.has_gso {
            return self.send_each(bytes, train);
        }
        match self.send_message(bytes, train) {
            Err(error) if train.to.local.is_some() && is_about_source(&error) => {
                let to = Endpoint { local: None, ..train.to };
                self.outcome(self.send_message(bytes, &Transmit { to, ..*train }), bytes, train)
            }
            result => self.outcome(result, bytes, train),
        }
    }

    fn outcome(&mut self, result: io::Result<()>, bytes: &[u8], train: &Transmit) -> Sent {
        let Err(error) = result else { return Sent::Yes };
        match error.raw_os_error() {
            Some(libc::EAGAIN) => Sent::Blocked,
            Some(libc::ENOBUFS) => Sent::Full,
            Some(libc::EMSGSIZE) => Sent::TooLarge,
            Some(libc::EIO | libc::EINVAL) if bytes.len() > train.segment_bytes => {
                // Either each datagram is too large for the interface, or the device cannot segment: then one by one from now on.
                let sent = self.send_each(bytes, train);
                self.has_gso = sent != Sent::Yes;
                sent
            }
            _ => Sent::Refused,
        }
    }

    fn send_each(&mut self, bytes: &[u8], train: &Transmit) -> Sent {
        for datagram in bytes.chunks(train.segment_bytes) {
            let single = Transmit { bytes: datagram.len(), segment_bytes: datagram.len(), ..*train };
            match self.outcome(self.send_message(datagram, &single), datagram, &single) {
                Sent::Yes => {}
                // What left cannot be called back; the rest is lost as on any full queue.
                Sent::Blocked => return Sent::Full,
                other => return other,
            }
        }
        Sent::Yes
    }

    fn send_message(&self, bytes: &[u8], train: &Transmit) -> io::Result<()> {
        match self.try_send(bytes, train) {
            // An ICMP error about another friend's address comes back here; this datagram was not sent.
            Err(error) if is_others(&error) => {
                self.drain_errors();
                self.try_send(bytes, train)
            }
            result => result,
        }
    }

    fn try_send(&self, bytes: &[u8], train: &Transmit) -> io::Result<()> {
        let (name, name_bytes) = write_name(&train.to.remote, self.is_ipv6)?;
        let mut control = Control([0; CONTROL_BYTES]);
        let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        // SAFETY: all-zero is a valid msghdr; every pointer set here is to a local that outlives the call, and the kernel only
        // reads through them.
        let mut header: libc::msghdr = unsafe { zeroed() };
        header.msg_name = ptr::from_ref(&name).cast_mut().cast();
        header.msg_namelen = name_bytes;
        header.msg_iov = &mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.0.as_mut_ptr().cast();
        header.msg_controllen = self.write_control(&mut control, bytes, train);
        if header.msg_controllen == 0 {
            header.msg_control = ptr::null_mut();
        }
        // SAFETY: as above.
        check_size(unsafe { libc::sendmsg(self.socket.as_raw_fd(), &header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
            .map(|_| ())
    }

    fn write_control(&self, control: &mut Control, bytes: &[u8], train: &Transmit) -> usize {
        let mut used = 0;
        if bytes.len() > train.segment_bytes {
            used += put_control(control, used, libc::IPPROTO_UDP, UDP_SEGMENT, train.segment_bytes as u16);
        }
        match train.to.local {
            Some(local) if self.is_ipv6 => {
                let address = libc::in6_addr { s6_addr: mapped(local).octets() };
                let source = libc::in6_pktinfo { ipi6_addr: address, ipi6_ifindex: 0 };
                used += put_control(control, used, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, source);
            }
            Some(IpAddr::V4(local)) => {
                let address = libc::in_addr { s_addr: u32::from_ne_bytes(local.octets()) };
                let source =
                    libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: address, ipi_addr: libc::in_addr { s_addr: 0 } };
                used += put_control(control, used, libc::IPPROTO_IP, libc::IP_PKTINFO, source);
            }
            _ => {}
        }
        used
    }

    /// Read away ICMP errors: they are not believed, and the descriptor stays ready while they wait.
    pub fn drain_errors(&self) {
        for _ in 0..64 {
            let mut byte = MaybeUninit::<[u8; 1]>::uninit();
            // SAFETY: one byte of a live place. What does not fit is cut off, which is what we want.
            let read = unsafe {
                libc::recv(
                    self.socket.as_raw_fd(),
                    byte.as_mut_ptr().cast(),
                    1,
                    libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
                )
            };
            if read < 0 {
                break;
            }
        }
    }
}

impl AsRawFd for Udp {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn open(listen: SocketAddr) -> io::Result<UdpSocket> {
    let family = if listen.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })?;
    // SAFETY: the descriptor is new and owned by nobody else.
    let socket = unsafe { UdpSocket::from_raw_fd(fd) };
    if listen.is_ipv6() {
        let only = libc::c_int::from(!listen.ip().is_unspecified());
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, only)?;
    }
    let (name, bytes) = write_name(&listen, listen.is_ipv6())?;
    // SAFETY: the name is a live sockaddr_storage of which `bytes` are set.
    check(unsafe { libc::bind(fd, ptr::from_ref(&name).cast(), bytes) })?;
    Ok(socket)
}

fn set_option(socket: &UdpSocket, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let size = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the value is one live int of the size said.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, ptr::from_ref(&value).cast(), size) })
        .map(|_| ())
}

/// Whether a failed receipt says nothing of the socket itself: nothing there, or what ICMP said of an earlier datagram, which anybody may
/// have forged. Only a socket that is none ends the thread.
fn is_passing(error: &io::Error) -> bool {
    !matches!(error.raw_os_error(), Some(libc::EBADF | libc::ENOTSOCK | libc::EFAULT))
}

/// Errors that a datagram may get for what ICMP said of an earlier one. Source: Linux `icmp_err_convert`.
fn is_others(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENOPROTOOPT
                | libc::EMSGSIZE
                | libc::EOPNOTSUPP
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EPROTO
                | libc::EACCES
        )
    )
}

/// Errors that may come of a source address we no longer have.
fn is_about_source(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EADDRNOTAVAIL | libc::ENETUNREACH | libc::EHOSTUNREACH))
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

fn write_name(to: &SocketAddr, as_ipv6: bool) -> io::Result<(libc::sockaddr_storage, libc::socklen_t)> {
    // SAFETY: all-zero is a valid sockaddr_storage, and large and aligned enough for the other two.
    let mut name: libc::sockaddr_storage = unsafe { zeroed() };
    if as_ipv6 {
        let scope = if let SocketAddr::V6(to) = to { to.scope_id() } else { 0 };
        // SAFETY: a sockaddr_storage holds any address, and all-zero is a valid one of this kind.
        let place = unsafe { &mut *ptr::from_mut(&mut name).cast::<libc::sockaddr_in6>() };
        place.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        place.sin6_port = to.port().to_be();
        place.sin6_addr.s6_addr = mapped(to.ip()).octets();
        place.sin6_scope_id = scope;
        return Ok((name, size_of::<libc::sockaddr_in6>() as libc::socklen_t));
    }
    let IpAddr::V4(ip) = to.ip() else { return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)) };
    // SAFETY: as above.
    let place = unsafe { &mut *ptr::from_mut(&mut name).cast::<libc::sockaddr_in>() };
    place.sin_family = libc::AF_INET as libc::sa_family_t;
    place.sin_port = to.port().to_be();
    place.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
    Ok((name, size_of::<libc::sockaddr_in>() as libc::socklen_t))
}

fn read_name(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET6 => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in6 here.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => (ip, port).into(),
                None => SocketAddrV6::new(ip, port, 0, name.sin6_scope_id).into(),
            })
        }
        libc::AF_INET => {
            // SAFETY: likewise a sockaddr_in.
            let name = unsafe { &*ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            Some((name.sin_addr.s_addr.to_ne_bytes(), u16::from_be(name.sin_port)).into())
        }
        _ => None,
    }
}

/// Append a control message at `used`; gives the bytes it takes.
fn put_control<T: Copy>(control: &mut Control, used: usize, level: libc::c_int, kind: libc::c_int, value: T) -> usize {
    // SAFETY: CMSG_SPACE and CMSG_LEN compute sizes only.
    let (space, length) =
        unsafe { (libc::CMSG_SPACE(size_of::<T>() as u32) as usize, libc::CMSG_LEN(size_of::<T>() as u32) as usize) };
    let place = &mut control.0[used..used + space];
    let header = libc::cmsghdr { cmsg_len: length, cmsg_level: level, cmsg_type: kind };
    // SAFETY: the slice is `space` bytes long, which holds the header and after it the value; unaligned writes ask for nothing
    // more.
    unsafe {
        ptr::write_unaligned(place.as_mut_ptr().cast(), header);
        ptr::write_unaligned(place.as_mut_ptr().add(length - size_of::<T>()).cast(), value);
    }
    space
}

fn read_control(header: &libc::msghdr) -> (Option<IpAddr>, Option<usize>) {
    let (mut local, mut segment) = (None, None);
    // SAFETY: the kernel filled the control buffer that the header points to, and the CMSG macros stay within it.
    let mut message = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !message.is_null() {
        // SAFETY: not null, so it is one whole control message whose data has the type its level and kind say.
        let (kind, place) = unsafe { (((*message).cmsg_level, (*message).cmsg_type), libc::CMSG_DATA(message)) };
        match kind {
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                // SAFETY: the level and kind say that the data are of this type.
                let source: libc::in6_pktinfo = unsafe { ptr::read_unaligned(place.cast()) };
                let ip = Ipv6Addr::from(source.ipi6_addr.s6_addr);
                local = Some(ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4));
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // SAFETY: the level and kind say that the data are of this type.
                let source: libc::in_pktinfo = unsafe { ptr::read_unaligned(place.cast()) };
                local = Some(IpAddr::V4(source.ipi_spec_dst.s_addr.to_ne_bytes().into()));
            }
            (libc::IPPROTO_UDP, UDP_GRO) => {
                // SAFETY: the level and kind say that the data are of this type.
                let size: libc::c_int = unsafe { ptr::read_unaligned(place.cast()) };
                segment = usize::try_from(size).ok().filter(|&size| size > 0);
            }
            _ => {}
        }
        // SAFETY: as above.
        message = unsafe { libc::CMSG_NXTHDR(header, message) };
    }
    (local, segment)
}
