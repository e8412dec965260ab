//! The thin I/O around the core: the TUN, the socket, and the thread that moves bytes between them. The only files with
//! `unsafe`: system calls that std has no face for.

pub mod engine;
pub mod erase;
pub mod sys;
pub mod tun;
pub mod udp;
