//! The landing page: code and data of the kernel's that every process can call without entering the kernel, or to enter it.
//!
//! `arch` has the images; here they get memory of their own, one object for 64-bit and one for 32-bit processes, which all
//! processes map ([`Space`](crate::memory::space::Space) does, when it is made). The mapping can be neither written nor
//! unmapped nor protected otherwise, by nobody: a thread may be in it, or be about to return to it from
//! `sysenter`, at any time. Where it lies is chosen at random for each process.

use abi::Error;
use abi::landing::{BYTES, IMAGE_OFFSET, LandingData};
use arch::landing::{IMAGE_BYTES, Vsyscall, image32, image64};
use spin::Once;

use crate::memory::object::MemoryObject;
use crate::memory::space::Mode;
use crate::object::Ref;

/// What was made at boot.
struct Landing {
    long: Ref<MemoryObject>,
    compat: Ref<MemoryObject>,
    way: Vsyscall,
}

static LANDING: Once<Landing> = Once::new();

/// Makes both objects. To be called once, when all CPUs run: the data page says whether their counters are in step.
///
/// # Errors
/// [`Error::NoMemory`].
pub fn init(data: LandingData, way: Vsyscall) -> Result<(), Error> {
    let long = object(&data, image64())?;
    let mut compat = Err(Error::NoMemory);
    image32(way, |image| compat = object(&data, image));
    let compat = compat?;
    LANDING.call_once(|| Landing { long, compat, way });
    Ok(())
}

fn object(data: &LandingData, image: &[u8; IMAGE_BYTES]) -> Result<Ref<MemoryObject>, Error> {
    let object = MemoryObject::create(BYTES, None)?;
    for (index, word) in [data.flags, data.epoch, data.scale].iter().enumerate() {
        object.write(8 * index as u64, &word.to_le_bytes())?;
    }
    object.write(IMAGE_OFFSET, image)?;
    Ok(object)
}

/// What a process of this mode maps; `None` before [`init`], and in the kernel's own tests.
pub fn object_for(mode: Mode) -> Option<&'static Ref<MemoryObject>> {
    LANDING.get().map(|landing| match mode {
        Mode::Long => &landing.long,
        Mode::Compat => &landing.compat,
    })
}

/// Address of `__kernel_vsyscall` in a process whose landing page's image is at `image`; 0 if it has none.
pub fn vsyscall(mode: Mode, image: u64) -> u64 {
    match LANDING.get() {
        Some(landing) if mode == Mode::Compat && image != 0 => image + landing.way.offset(),
        _ => 0,
    }
}

/// Where `sysenter` returns to in such a process; `None` if there is no such place.
pub fn sysenter_return(mode: Mode, image: u64) -> Option<u64> {
    let landing = LANDING
        .get()
        .filter(|_| mode == Mode::Compat && image != 0)?;
    Some(image + landing.way.sysenter_return()?)
}
