//! The TUN: superpackets in, superpackets out, each behind a virtio header. Source: linux/if_tun.h.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::sys::{check, check_size, duplicate};
use crate::core::virtio::VIRTIO_BYTES;

/// Size that any packet from the TUN fits: 64 KB of payload, all headers, and what precedes them.
pub const PACKET_BYTES: usize = 65_535 + 40 + VIRTIO_BYTES + 15;

const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const CHECKSUM: libc::c_uint = 0x01;
const TSO4: libc::c_uint = 0x02;
const TSO6: libc::c_uint = 0x04;
const TSO_ECN: libc::c_uint = 0x08;
const USO4: libc::c_uint = 0x20;
const USO6: libc::c_uint = 0x40;
const TSO: libc::c_uint = CHECKSUM | TSO4 | TSO6 | TSO_ECN;

/// An open TUN.
pub struct Tun {
    fd: OwnedFd,
    /// Whether the kernel gives and takes UDP superpackets (Linux 6.2).
    pub has_uso: bool,
    /// Whether it does TCP superpackets.
    pub has_tso: bool,
}

impl Tun {
    /// Take a duplicate of a descriptor opened with `IFF_VNET_HDR`, and switch on what the kernel has.
    pub fn new(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let fd = duplicate(fd)?;
        let size = VIRTIO_BYTES as libc::c_int;
        // SAFETY: the request reads one int from a live place.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &size) })?;
        // SAFETY: the argument is a number, no pointer.
        let offload = |flags: libc::c_uint| check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, flags) }).is_ok();
        let has_uso = offload(TSO | USO4 | USO6);
        let has_tso = has_uso || offload(TSO);
        Ok(Self { fd, has_uso, has_tso })
    }

    /// Read one packet with its virtio header; `None` if there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // SAFETY: pointer and length are those of one live slice.
        match check_size(unsafe { libc::read(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) }) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Write one packet: its head, then ranges of `from`.
    pub fn write(&self, head: &[u8], pieces: &[Range<usize>], from: &[u8]) -> io::Result<()> {
        const MOST: usize = 65;
        let mut parts = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; MOST];
        let slices = std::iter::once(head).chain(pieces.iter().map(|piece| &from[piece.clone()]));
        let mut count = 0;
        for (part, slice) in parts.iter_mut().zip(slices) {
            *part = libc::iovec { iov_base: slice.as_ptr().cast_mut().cast(), iov_len: slice.len() };
            count += 1;
        }
        // SAFETY: the first `count` parts point into slices that live through the call; the kernel only reads them.
        check_size(unsafe { libc::writev(self.fd.as_raw_fd(), parts.as_ptr(), count) }).map(|_| ())
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
