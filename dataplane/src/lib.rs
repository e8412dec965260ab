//! f2ftun's data plane. `core` decides and is pure; `io` moves bytes between it, the TUN and the socket; `python` is the thin
//! binding that `f2ftun/dataplane.py` wraps.

pub mod core;
pub mod io;
#[cfg(feature = "python")]
mod python;

#[global_allocator]
static ALLOCATOR: io::erase::Erasing = io::erase::Erasing;
