//! Model-specific registers by name.

use core::arch::asm;

/// A model-specific register (Intel SDM vol. 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Msr(pub u32);

impl Msr {
    /// IA32_EFER.
    pub const EFER: Msr = Msr(0xC000_0080);
    /// IA32_STAR: the selectors of `syscall` and `sysret`.
    pub const STAR: Msr = Msr(0xC000_0081);
    /// IA32_LSTAR: where `syscall` from 64-bit code goes.
    pub const LSTAR: Msr = Msr(0xC000_0082);
    /// IA32_CSTAR: where AMD's `syscall` from 32-bit code goes.
    pub const CSTAR: Msr = Msr(0xC000_0083);
    /// IA32_FMASK: the flags that `syscall` clears.
    pub const FMASK: Msr = Msr(0xC000_0084);
    /// IA32_FS_BASE.
    pub const FS_BASE: Msr = Msr(0xC000_0100);
    /// IA32_GS_BASE.
    pub const GS_BASE: Msr = Msr(0xC000_0101);
    /// IA32_KERNEL_GS_BASE: what `swapgs` exchanges with.
    pub const KERNEL_GS_BASE: Msr = Msr(0xC000_0102);
    /// IA32_TSC_AUX: what `rdtscp` and `rdpid` return.
    pub const TSC_AUX: Msr = Msr(0xC000_0103);
    /// IA32_SYSENTER_CS; 0 makes `sysenter` a #GP.
    pub const SYSENTER_CS: Msr = Msr(0x174);
    /// IA32_SYSENTER_ESP: the stack pointer after `sysenter`.
    pub const SYSENTER_ESP: Msr = Msr(0x175);
    /// IA32_SYSENTER_EIP: where `sysenter` goes.
    pub const SYSENTER_EIP: Msr = Msr(0x176);
    /// IA32_SPEC_CTRL: what branch speculation may do.
    pub const SPEC_CTRL: Msr = Msr(0x48);
    /// IA32_PRED_CMD: forgets branch predictions.
    pub const PRED_CMD: Msr = Msr(0x49);
    /// IA32_PAT.
    pub const PAT: Msr = Msr(0x277);

    /// Reads it.
    ///
    /// # Safety
    /// The CPU must have this register, else it is a #GP in the kernel.
    #[inline]
    pub unsafe fn read(self) -> u64 {
        let (low, high): (u32, u32);
        // SAFETY: the caller says that the register exists; reading has no effect on memory.
        unsafe {
            asm!("rdmsr", in("ecx") self.0, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags));
        }
        u64::from(high) << 32 | u64::from(low)
    }

    /// Writes it.
    ///
    /// # Safety
    /// The CPU must have this register, accept the value, and run on with it as the caller's code expects.
    #[inline]
    pub unsafe fn write(self, value: u64) {
        // SAFETY: the caller's promise. No `nomem`: what an MSR does may change how memory is seen.
        unsafe {
            asm!("wrmsr", in("ecx") self.0, in("eax") value as u32, in("edx") (value >> 32) as u32,
                options(nostack, preserves_flags));
        }
    }
}
