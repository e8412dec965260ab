//! The pure core: bytes and `now` in, datagrams, packets and events out. No clock, socket or thread; the one entropy that is
//! not an argument is the ephemeral key, which snow draws itself.

pub mod answering;
pub mod cookie;
pub mod dialling;
pub mod drops;
pub mod frame;
pub mod handshake;
pub mod ip6;
pub mod key;
pub mod living;
pub mod message;
pub mod node;
pub mod packet;
pub mod peer;
pub mod queue;
pub mod receiving;
pub mod rejoin;
pub mod replay;
pub mod sending;
pub mod session;
pub mod size;
pub mod tables;
pub mod train;
pub mod virtio;
