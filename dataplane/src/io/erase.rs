//! Erasing: an allocator that erases what it frees, and a sweep of the stack below the caller. They are needed because session keys live in libraries that
//! do not erase theirs, and plaintext in queues.
//! The allocator serves this module only, not the interpreter.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{compiler_fence, Ordering};

/// The system's allocator, with erasure.
pub struct Erasing;

// SAFETY: every call is passed on to the system's allocator with the same layout; the bytes written are those of a block that
// its owner gives up in this very call.
unsafe impl GlobalAlloc for Erasing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        System.alloc(layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        System.alloc_zeroed(layout)
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ptr::write_bytes(block, 0, layout.size());
        // The fence keeps the compiler from calling the write dead.
        compiler_fence(Ordering::SeqCst);
        std::hint::black_box(block);
        System.dealloc(block, layout);
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Ok(wanted) = Layout::from_size_align(size, layout.align()) else { return ptr::null_mut() };
        let moved = System.alloc(wanted);
        if !moved.is_null() {
            ptr::copy_nonoverlapping(block, moved, layout.size().min(size));
            self.dealloc(block, layout);
        }
        moved
    }
}

/// How deep the calls go that touch keys: Noise and the AEADs together use less than 20 KB.
const STACK_BYTES: usize = 64 << 10;

/// Overwrite what earlier calls left on the stack below this one: copies of keys that the compiler made and nobody owns.
#[inline(never)]
pub fn erase_stack() {
    let mut waste = [0u8; STACK_BYTES];
    // The write is not dead for a compiler that cannot see who reads it.
    std::hint::black_box(&mut waste);
}
