//! A thread's IPC area as the kernel sees it: through the direct map, pinned, never faulting.

use core::mem::offset_of;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU64, Ordering};

use abi::compat::BLOCK_WORDS;
use abi::ipc_area::{IpcHeader, MAX_HANDLES};

/// The two pages of an area. A copy is another pointer to them; they stay where they are as long as any copy is used.
///
/// The header is writable by the program at any time, so each read of it is one read of one word, and what it says
/// is an allegation.
#[derive(Clone, Copy)]
pub struct IpcArea {
    header: NonNull<IpcHeader>,
    buffer: NonNull<u8>,
    /// Where the program sees it.
    user_address: u64,
}

// SAFETY: the pages are plain memory; words of the header are accessed atomically, the buffer by whole copies.
unsafe impl Send for IpcArea {}
// SAFETY: as above.
unsafe impl Sync for IpcArea {}

impl IpcArea {
    /// The area with these two pages.
    ///
    /// # Safety
    /// Both must be whole, zeroed, pinned pages that live as long as any copy of the area is used; the header is mapped at `user_address`.
    pub unsafe fn new(header: NonNull<u8>, buffer: NonNull<u8>, user_address: u64) -> IpcArea {
        let area = IpcArea {
            header: header.cast(),
            buffer,
            user_address,
        };
        area.write_address();
        area
    }

    /// Makes it as a new one is: zeros, but for its own address. For whoever gives it on, when nobody else in the kernel uses it.
    pub(super) fn wipe(&self) {
        const PAGE: usize = arch::paging::PAGE_BYTES as usize;
        // SAFETY: both are whole pages, which live as long as the area. The program may write to them meanwhile, as at any time.
        unsafe {
            self.header.cast::<u8>().write_bytes(0, PAGE);
            self.buffer.write_bytes(0, PAGE);
        }
        self.write_address();
    }

    /// Has the header say where the program sees it.
    #[inline]
    pub fn write_address(&self) {
        self.word(<*mut IpcHeader>::cast)
            .store(self.user_address, Ordering::Relaxed);
    }

    /// Where the program sees it.
    pub fn user_address(&self) -> u64 {
        self.user_address
    }

    /// The buffer's first byte.
    pub fn buffer(&self) -> *mut u8 {
        self.buffer.as_ptr()
    }

    /// Handles that the program takes with its next receive, at most four.
    #[inline]
    pub fn accept(&self) -> u32 {
        let alleged = self
            .word(|header| Self::at(header, offset_of!(IpcHeader, accept)))
            .load(Ordering::Relaxed);
        alleged.min(MAX_HANDLES as u64) as u32
    }

    /// A handle that the program sends, by position.
    pub fn handle_out(&self, index: usize) -> u64 {
        debug_assert!(index < MAX_HANDLES);
        self.word(|header| Self::at(header, offset_of!(IpcHeader, handles_out) + 8 * index))
            .load(Ordering::Relaxed)
    }

    /// Gives the program a handle that came.
    pub fn set_handle_in(&self, index: usize, handle: u64) {
        debug_assert!(index < MAX_HANDLES);
        self.word(|header| Self::at(header, offset_of!(IpcHeader, handles_in) + 8 * index))
            .store(handle, Ordering::Relaxed);
    }

    /// A word of the block in which 32-bit code passes registers.
    pub fn register(&self, index: usize) -> u64 {
        debug_assert!(index < BLOCK_WORDS);
        self.word(|header| Self::at(header, offset_of!(IpcHeader, registers) + 8 * index))
            .load(Ordering::Relaxed)
    }

    /// Writes such a word.
    pub fn set_register(&self, index: usize, value: u64) {
        debug_assert!(index < BLOCK_WORDS);
        self.word(|header| Self::at(header, offset_of!(IpcHeader, registers) + 8 * index))
            .store(value, Ordering::Relaxed);
    }

    fn at(header: *mut IpcHeader, offset: usize) -> *mut u64 {
        header.wrapping_byte_add(offset).cast()
    }

    fn word(&self, place: impl FnOnce(*mut IpcHeader) -> *mut u64) -> &AtomicU64 {
        // SAFETY: `place` gives an aligned word inside the header page, which lives as long as the area.
        unsafe { AtomicU64::from_ptr(place(self.header.as_ptr())) }
    }
}
