//! The handle table of a process.
//!
//! A handle is a slot index and that slot's generation. Closing a handle raises its slot's generation, and a slot whose
//! generation is used up is retired, so a stale handle never reaches a later object.
//!
//! The table grows by frames and never shrinks before its end. Receivers reserve the slots that a message may
//! need before they wait, so that a transfer can't fail half-way and a sender can't fill somebody's table.
//!
//! A slot may be *lent* to a thread of the process, for the replies that it is given one after the other: then the thread has the
//! slot's generation, and raises it without this table's lock (see [`Held`](crate::thread::Held)).
//!
//! What may go wrong: dropping a capability may run an object's last-reference code, which takes other locks. So nothing is
//! dropped under the table's lock: what comes out is handed to the caller.

use abi::{Error, Handle};
use core::ptr::NonNull;

use arch::memory::{direct_virt_to_phys, phys_to_virt};

use super::capability::{Capability, Object};
use super::generation::Generation;
use super::reference::Ref;
use crate::memory::account::{self, Account, Resource};
use crate::memory::frames;
use crate::thread::ThreadPtr;

/// One slot: a line of the cache, and found by shifts.
#[repr(align(64))]
struct Slot {
    /// The generation of the handle that is or will next be valid; 0: the slot is retired, or lent to a thread. Written under the lock,
    /// read without it by whoever has looked the slot up before ([`Spot`]).
    generation: Generation,
    /// Next free slot, while this one is free.
    next_free: u32,
    capability: Option<Capability>,
}

const NO_SLOT: u32 = u32::MAX;
const FRAME_BYTES: usize = 4096;
const SLOTS_PER_FRAME: usize = FRAME_BYTES / size_of::<Slot>();
const FRAMES: usize = FRAME_BYTES / size_of::<u64>();

/// Slots that a table can have.
pub const MAX_SLOTS: usize = SLOTS_PER_FRAME * FRAMES;

/// A frame of the table's own, in the direct map.
fn allocate() -> Result<NonNull<u8>, Error> {
    let frame = frames::allocate_frame().ok_or(Error::NoMemory)?;
    NonNull::new(phys_to_virt(frame)).ok_or(Error::NoMemory)
}

// SAFETY: the pointers are to the table's own frames, which go with it wherever it is.
unsafe impl Send for HandleTable {}

/// A table of capabilities.
pub struct HandleTable {
    /// A frame of pointers to the frames of slots; `None` before the first handle.
    directory: Option<NonNull<*mut Slot>>,
    /// Slots in all frames; at most `limit`. Every frame but the last is full.
    slots: u32,
    first_free: u32,
    /// Free slots, those reserved included.
    free: u32,
    /// Slots promised to receivers.
    reserved: u32,
    /// The most slots that the table may have.
    limit: u32,
    /// Who pays for frames and slots.
    account: Option<Ref<Account>>,
}

impl HandleTable {
    /// An empty table that may hold `limit` handles, and that `account` pays for as it grows.
    pub const fn new(limit: u32, account: Option<Ref<Account>>) -> HandleTable {
        HandleTable {
            directory: None,
            slots: 0,
            first_free: NO_SLOT,
            free: 0,
            reserved: 0,
            limit: if (limit as usize) < MAX_SLOTS {
                limit
            } else {
                MAX_SLOTS as u32
            },
            account,
        }
    }

    /// How many handles there are.
    pub const fn len(&self) -> u32 {
        self.slots - self.free
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots that it has; handles have indices below.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// What is in a slot, whatever handle names it.
    pub fn peek(&self, index: u32) -> Option<&Capability> {
        // SAFETY: as in `get`.
        unsafe { &*self.slot(index)? }.capability.as_ref()
    }

    /// What a handle names.
    ///
    /// # Errors
    /// [`Error::BadHandle`] if it names nothing, any more or at all.
    #[inline]
    pub fn get(&self, handle: Handle) -> Result<&Capability, Error> {
        let slot = self.slot(handle.index()).ok_or(Error::BadHandle)?;
        // SAFETY: slots below `self.slots` are initialised; `&self` gives shared access.
        let slot = unsafe { &*slot };
        let capability = slot.capability.as_ref().ok_or(Error::BadHandle)?;
        let is_named = match slot.generation.get() {
            0 => {
                matches!(capability.object(), Object::Held(thread) if thread.get().held.names(handle))
            }
            generation => generation == handle.generation(),
        };
        if is_named {
            Ok(capability)
        } else {
            Err(Error::BadHandle)
        }
    }

    /// Where the slot of a good handle is, so that a later look need not come here.
    #[cfg(target_os = "none")]
    pub fn spot(&self, handle: Handle) -> Option<Spot> {
        let slot = self.slot(handle.index())?;
        // SAFETY: as in `get`.
        Some(Spot(unsafe { &raw const (*slot).generation }))
    }

    /// Puts a capability in.
    ///
    /// # Errors
    /// Gives the capability back with [`Error::QuotaExceeded`] or [`Error::NoMemory`].
    pub fn insert(&mut self, capability: Capability) -> Result<Handle, (Error, Capability)> {
        match self.ensure_free(self.reserved + 1) {
            Ok(()) => Ok(self.put(capability)),
            Err(error) => Err((error, capability)),
        }
    }

    /// Promises `count` slots to a receiver.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] or [`Error::NoMemory`]; nothing is reserved then.
    #[inline]
    pub fn reserve(&mut self, count: u32) -> Result<(), Error> {
        let wanted = self.reserved + count;
        if self.free < wanted {
            self.ensure_free(wanted)?;
        }
        self.reserved = wanted;
        Ok(())
    }

    /// Takes a promise back.
    #[inline]
    pub fn release(&mut self, count: u32) {
        debug_assert!(self.reserved >= count);
        self.reserved -= count;
    }

    /// Puts a capability into one of the reserved slots.
    ///
    /// # Panics
    /// If none is reserved: a kernel bug.
    #[inline]
    pub fn insert_reserved(&mut self, capability: Capability) -> Handle {
        assert!(
            self.reserved > 0 && self.free >= self.reserved,
            "a slot was reserved"
        );
        self.reserved -= 1;
        self.put(capability)
    }

    /// Takes a capability out; the handle is stale from now on.
    ///
    /// # Errors
    /// [`Error::BadHandle`].
    #[inline]
    pub fn remove(&mut self, handle: Handle) -> Result<Capability, Error> {
        let index = handle.index();
        let slot = self.slot(index).ok_or(Error::BadHandle)?;
        // SAFETY: slots below `self.slots` are initialised; `&mut self` gives exclusive access.
        let slot = unsafe { &mut *slot };
        let generation = slot.generation.get();
        if generation != handle.generation() || generation == 0 {
            return Err(Error::BadHandle);
        }
        let capability = slot.capability.take().ok_or(Error::BadHandle)?;
        slot.generation.set(generation.wrapping_add(1));
        if generation == u32::MAX {
            // Used up: the slot stays out of the free list for ever, and counts as a handle in use.
        } else {
            slot.next_free = self.first_free;
            self.first_free = index;
            self.free += 1;
        }
        Ok(capability)
    }

    /// [`remove`](Self::remove) of one that `is_wanted`. `None` if it is not, or there is no such handle, or the slot is lent or has no generation left.
    #[cfg(target_os = "none")]
    #[inline(always)]
    pub fn remove_if(
        &mut self,
        handle: Handle,
        is_wanted: impl FnOnce(&Capability) -> bool,
    ) -> Option<Capability> {
        let index = handle.index();
        let slot = self.slot(index)?;
        // SAFETY: as in `remove`.
        let slot = unsafe { &mut *slot };
        let generation = slot.generation.get();
        if generation != handle.generation() || generation == 0 || generation == u32::MAX {
            return None;
        }
        if !is_wanted(slot.capability.as_ref()?) {
            return None;
        }
        slot.generation.set(generation + 1);
        slot.next_free = self.first_free;
        self.first_free = index;
        self.free += 1;
        slot.capability.take()
    }

    /// Lends a slot to `thread`, of this table's process. Gives the slot's index and the generation that it is in.
    ///
    /// It counts as reserved.
    ///
    /// # Errors
    /// [`Error::QuotaExceeded`] or [`Error::NoMemory`].
    pub fn lend(&mut self, thread: ThreadPtr) -> Result<(u32, u32), Error> {
        self.reserve(1)?;
        let index = self.first_free;
        let Some(slot) = self.slot(index) else {
            unreachable!("the free list holds slots of the table")
        };
        // SAFETY: as in `remove`.
        let slot = unsafe { &mut *slot };
        self.first_free = slot.next_free;
        slot.capability = Some(Capability::of_reply(Object::Held(thread)));
        let generation = slot.generation.get();
        slot.generation.set(0);
        Ok((index, generation))
    }

    /// Takes a lent slot back. `generation` is the last that its thread has used.
    pub fn take_back(&mut self, index: u32, generation: u32) {
        let next_free = self.first_free;
        let slot = self.lent(index);
        slot.generation.set(generation.wrapping_add(1));
        slot.capability = None;
        slot.next_free = next_free;
        if generation == u32::MAX {
            // Used up, as in `remove`.
            self.free -= 1;
        } else {
            self.first_free = index;
        }
        self.reserved -= 1;
    }

    /// Makes an ordinary handle of a lent slot: that of `generation`.
    pub fn keep(&mut self, index: u32, generation: u32, capability: Capability) {
        let slot = self.lent(index);
        slot.generation.set(generation);
        slot.capability = Some(capability);
        self.reserved -= 1;
        self.free -= 1;
    }

    /// # Panics
    /// If the slot is not lent: a kernel bug.
    fn lent(&mut self, index: u32) -> &mut Slot {
        let slot = self.slot(index);
        // SAFETY: as in `remove`.
        let slot = slot.map(|slot| unsafe { &mut *slot });
        slot.filter(|slot| {
            let held = slot.capability.as_ref().map(Capability::object);
            slot.generation.get() == 0 && matches!(held, Some(Object::Held(_)))
        })
        .expect("the slot was lent")
    }

    /// Takes out any capability at or after slot `from`, for the end of a process; `None` when there is none, or when `looks` slots were
    /// looked at, which is counted down: a table may be large and nearly empty, and nobody may look through all of it in one go.
    pub fn remove_any(&mut self, from: &mut u32, looks: &mut u32) -> Option<Capability> {
        while *from < self.slots && *looks > 0 {
            *looks -= 1;
            let index = *from;
            let slot = self.slot(index)?;
            // SAFETY: as in `remove`.
            let slot = unsafe { &*slot };
            let generation = slot.generation.get();
            // What is lent goes with its thread.
            if generation != 0 && slot.capability.is_some() {
                return self.remove(Handle::new(index, generation)).ok();
            }
            *from += 1;
        }
        None
    }

    #[inline]
    fn put(&mut self, capability: Capability) -> Handle {
        let index = self.first_free;
        let Some(slot) = self.slot(index) else {
            unreachable!("the free list holds slots of the table")
        };
        // SAFETY: as in `remove`.
        let slot = unsafe { &mut *slot };
        self.first_free = slot.next_free;
        self.free -= 1;
        slot.capability = Some(capability);
        Handle::new(index, slot.generation.get())
    }

    fn ensure_free(&mut self, wanted: u32) -> Result<(), Error> {
        while self.free < wanted {
            self.grow()?;
        }
        Ok(())
    }

    /// Adds slots up to the end of a frame, but no more than limit and account allow: so a free slot is always one that may be used.
    fn grow(&mut self) -> Result<(), Error> {
        let first = self.slots as usize % SLOTS_PER_FRAME;
        let wanted = (self.limit - self.slots).min((SLOTS_PER_FRAME - first) as u32);
        let more = match &self.account {
            Some(account) => account.charge_some(Resource::Handles, u64::from(wanted)) as u32,
            None => wanted,
        };
        if more == 0 {
            return Err(Error::QuotaExceeded);
        }
        let slots = match self.frame_of_slots() {
            Ok(slots) => slots,
            Err(error) => {
                self.uncharge_slots(more);
                return Err(error);
            }
        };
        for offset in (0..more).rev() {
            let slot = Slot {
                generation: Generation::new(1),
                next_free: self.first_free,
                capability: None,
            };
            // SAFETY: the frame is the table's own and holds SLOTS_PER_FRAME slots, of which `first + more` are at most all.
            unsafe { slots.add(first + offset as usize).write(slot) };
            self.first_free = self.slots + offset;
        }
        self.slots += more;
        self.free += more;
        Ok(())
    }

    /// The frame in which the next slot is, made if there is none yet. Nothing is left of it after an error.
    fn frame_of_slots(&mut self) -> Result<*mut Slot, Error> {
        let position = self.slots as usize / SLOTS_PER_FRAME;
        if !(self.slots as usize).is_multiple_of(SLOTS_PER_FRAME)
            && let Some(directory) = self.directory
        {
            // SAFETY: the directory holds one pointer for each frame of slots, of which the last is not full.
            return Ok(unsafe { *directory.as_ptr().add(position) });
        }
        let frame = self.paid_frame()?;
        let directory = match self.directory {
            Some(directory) => directory,
            None => match self.paid_frame() {
                Ok(directory) => *self.directory.insert(directory.cast()),
                Err(error) => {
                    self.free_paid(frame.as_ptr());
                    return Err(error);
                }
            },
        };
        let slots: *mut Slot = frame.as_ptr().cast();
        // SAFETY: the directory is a frame of the table's own and `position` is below FRAMES, as `slots` is below the limit.
        unsafe { directory.add(position).write(slots) };
        Ok(slots)
    }

    fn paid_frame(&self) -> Result<NonNull<u8>, Error> {
        account::charge(self.account.as_ref(), 1)?;
        allocate().inspect_err(|_| account::uncharge(self.account.as_ref(), 1))
    }

    fn free_paid(&self, frame: *const u8) {
        frames::free_frame(direct_virt_to_phys(frame));
        account::uncharge(self.account.as_ref(), 1);
    }

    fn uncharge_slots(&self, slots: u32) {
        if let Some(account) = &self.account {
            account.uncharge_of(Resource::Handles, u64::from(slots));
        }
    }

    #[inline]
    fn slot(&self, index: u32) -> Option<*mut Slot> {
        if index >= self.slots {
            return None;
        }
        // SAFETY: `index` is below `slots`, so its frame is in the directory and the slot in the frame.
        unsafe {
            let frame = *self
                .directory?
                .as_ptr()
                .add(index as usize / SLOTS_PER_FRAME);
            Some(frame.add(index as usize % SLOTS_PER_FRAME))
        }
    }
}

/// The place of a slot's generation. It is valid as long as the table, so for all threads of the table's process.
#[cfg(target_os = "none")]
#[derive(Clone, Copy)]
pub struct Spot(*const Generation);

#[cfg(target_os = "none")]
impl Spot {
    /// No place: in no generation that a handle may have.
    pub const NOWHERE: Spot = {
        static NOWHERE: Generation = Generation::new(u32::MAX);
        Spot(&raw const NOWHERE)
    };

    /// Whether the slot is still in this generation: the handle that was looked up here names what it named then.
    ///
    /// # Safety
    /// The table lives.
    #[inline(always)]
    pub unsafe fn is_in(self, generation: u32) -> bool {
        // SAFETY: slots stay where they are until the table's end.
        unsafe { (*self.0).is(generation) }
    }
}

impl Drop for HandleTable {
    fn drop(&mut self) {
        let (mut from, mut all) = (0, u32::MAX);
        // Who emptied it a piece at a time does not pay for another look at every slot.
        while !self.is_empty()
            && let Some(capability) = self.remove_any(&mut from, &mut all)
        {
            drop(capability);
        }
        if let Some(directory) = self.directory {
            for position in 0..(self.slots as usize).div_ceil(SLOTS_PER_FRAME) {
                // SAFETY: the directory holds one pointer for each frame of slots.
                let frame = unsafe { *directory.as_ptr().add(position) };
                self.free_paid(frame.cast());
            }
            self.free_paid(directory.as_ptr().cast());
        }
        self.uncharge_slots(self.slots);
    }
}

#[cfg(test)]
mod models;
#[cfg(test)]
mod tests;
