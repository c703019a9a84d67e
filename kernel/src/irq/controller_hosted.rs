//! On the host there is a controller that notes what is asked of it. It has more lines than there are vectors, and four CPUs.

use core::sync::atomic::{AtomicU32, Ordering};

use abi::Error;
use abi::irq::Message;
use arch::addr::VirtAddr;
use arch::platform::msi::{self, MaskBit};

use super::Line;

/// Lines that there are.
pub(super) const LINES: u32 = 256;
/// A line that can't be routed.
pub(super) const BROKEN: u32 = 255;
/// CPUs that there are. The last is none that can be reached.
pub(super) const CPUS: u32 = 4;

const MASKED: u32 = 1 << 8;
const CPU_SHIFT: u32 = 16;

/// The vector, the mask and the CPU of each line.
static STATES: [AtomicU32; LINES as usize] = [const { AtomicU32::new(MASKED) }; LINES as usize];
/// A register with mask bits.
static REGISTER: AtomicU32 = AtomicU32::new(0);

pub(super) fn has(gsi: u32) -> bool {
    gsi < LINES
}

fn reach(cpu: u32) -> Result<(), Error> {
    match cpu {
        CPUS.. => Err(Error::OutOfRange),
        cpu if cpu == CPUS - 1 => Err(Error::NotSupported),
        _ => Ok(()),
    }
}

pub(super) fn route(line: Line, vector: u8, cpu: u32) -> Result<(), Error> {
    reach(cpu)?;
    if line.gsi == BROKEN {
        return Err(Error::NotSupported);
    }
    let state = MASKED | u32::from(vector) | cpu << CPU_SHIFT;
    STATES[line.gsi as usize].store(state, Ordering::Relaxed);
    Ok(())
}

pub(super) fn message(vector: u8, cpu: u32) -> Result<Message, Error> {
    reach(cpu)?;
    let (address, data) =
        msi::message(arch::addr::ApicId(cpu), vector).ok_or(Error::NotSupported)?;
    Ok(Message {
        address,
        data: u64::from(data),
    })
}

pub(super) fn mask(gsi: u32, masked: bool) {
    let state = &STATES[gsi as usize];
    if masked {
        state.fetch_or(MASKED, Ordering::Relaxed);
    } else {
        state.fetch_and(!MASKED, Ordering::Relaxed);
    }
}

/// Whatever the address is, there is only one register.
pub(super) fn mask_bit(_address: u64, bit: u32) -> Result<MaskBit, Error> {
    if bit >= u32::BITS {
        return Err(Error::OutOfRange);
    }
    // SAFETY: the variable stands for a register, and lives for ever.
    Ok(unsafe { MaskBit::new(VirtAddr::from_ptr(&raw const REGISTER), bit) })
}

/// The vector that a line was routed to last, and whether it is masked.
#[cfg(test)]
pub(super) fn state(gsi: u32) -> (u8, bool) {
    let state = STATES[gsi as usize].load(Ordering::Relaxed);
    (state as u8, state & MASKED != 0)
}

/// The CPU that a line goes to.
#[cfg(test)]
pub(super) fn cpu(gsi: u32) -> u32 {
    STATES[gsi as usize].load(Ordering::Relaxed) >> CPU_SHIFT
}

/// What the register with the mask bits holds.
#[cfg(test)]
pub(super) fn register() -> u32 {
    REGISTER.load(Ordering::Relaxed)
}
