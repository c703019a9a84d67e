//! What a CPU can save, by which instruction, and how much room that takes.
//!
//! All of it comes from CPUID and none of it from tables of models (Intel SDM vol. 1 §13.2, AMD64 APM vol. 2 §11.5). There are
//! two formats. In the *standard* one each component has a fixed place, so an area is as long as the last one's end, gaps included. In
//! the *compacted* one (XSAVEC, XSAVES) the enabled components lie one behind the other. The sizes differ, and an area that
//! is sized for one and written in the other is overrun: so the size is worked out together with the instruction.
//!
//! Only components that the kernel knows are enabled in XCR0:
//!
//! | component | bits | here |
//! |---|---|---|
//! | x87, SSE, AVX | 0, 1, 2 | on |
//! | AVX-512: opmask, upper halves, upper registers | 5, 6, 7 | on, all three or none, and only with AVX |
//! | MPX | 3, 4 | off: gone from new CPUs |
//! | PKRU | 9 | off, and CR4.PKE too: user code can neither read nor write it, so there is nothing to keep. It must not be lazy state, as it guards memory from the first instruction of a slice on |
//! | AMX | 17, 18 | off: its registers are 8 KiB, and it wants a permission and a fault of its own (XFD) |
//! | APX | 19 | off: its registers are general ones, which a lazy restore can't serve |

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// XCR0: x87, SSE, AVX (Intel SDM vol. 1 §13.3).
const BASE: u64 = 0b111;
/// XCR0: AVX.
const AVX: u64 = 0b100;
/// XCR0: opmask, upper ZMM halves, upper ZMM registers.
const AVX512: u64 = 0b1110_0000;
/// All components that may be enabled: the mask of the instructions that save and load. On bare metal XCR0 holds no others; a host's
/// may.
pub(super) const KNOWN: u64 = BASE | AVX512;
/// Bytes of the FXSAVE image, and of the legacy region of the others (Intel SDM vol. 1 §10.5.1).
pub(super) const LEGACY_BYTES: usize = 512;
/// Bytes of legacy region and XSAVE header (Intel SDM vol. 1 §13.4).
pub(super) const HEADER_END: usize = 576;
/// Alignment of an area in bytes (Intel SDM vol. 1 §13.4).
pub const AREA_ALIGNMENT: usize = 64;
/// Components behind the header that can be enabled: AVX and the three of AVX-512.
const EXTENDED: usize = 4;
/// Bytes that no area and no image is larger than: components that would end behind it are not enabled. What is enabled takes 2688 bytes
/// on the CPUs of today.
pub const IMAGE_ROOM: usize = 4096;

/// The instruction that saves, and with it the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Method {
    /// `fxsave64`: x87 and SSE only.
    Fxsave,
    /// `xsave64`: all components, standard format.
    Xsave,
    /// `xsaveopt64`: as `xsave64`, without those that are in their initial state or unchanged since they were loaded.
    Xsaveopt,
    /// `xsavec64`: compacted format, without those that are in their initial state.
    Xsavec,
    /// `xsaves64`: compacted, without those that are in their initial state or unchanged.
    Xsaves,
}

impl Method {
    /// Whether areas are in the compacted format.
    pub const fn is_compacted(self) -> bool {
        matches!(self, Method::Xsavec | Method::Xsaves)
    }

    /// The instruction's name.
    pub const fn text(self) -> &'static str {
        match self {
            Method::Fxsave => "fxsave",
            Method::Xsave => "xsave",
            Method::Xsaveopt => "xsaveopt",
            Method::Xsavec => "xsavec",
            Method::Xsaves => "xsaves",
        }
    }
}

/// A component that lies behind the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Component {
    /// Its bit in XCR0.
    pub(super) bit: u8,
    pub(super) bytes: u32,
    /// Its place in the standard format.
    pub(super) standard: u32,
    /// Its place in this layout's format.
    pub(super) offset: u32,
}

/// How floating-point state lies in memory on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The instruction that saves.
    pub method: Method,
    /// What XCR0 is set to; 0 without XSAVE.
    pub xcr0: u64,
    /// Bytes of an area.
    pub bytes: u32,
    /// Bytes of the same state in the standard format.
    pub standard_bytes: u32,
    /// Whether loading a state may leave the last x87 instruction's addresses as they were: AMD's CPUs before Zen 2 (CVE-2006-1056).
    pub keeps_x87_pointers: bool,
    extended: [Component; EXTENDED],
    count: u8,
}

/// Whether the compacted format is left alone.
static STANDARD_ONLY: AtomicBool = AtomicBool::new(false);
/// In CPUID leaf 0Dh, subleaf 1, EAX: XSAVEC and XSAVES.
const COMPACTING: u32 = 1 << 1 | 1 << 3;

/// Leaves the instructions alone that save in the compacted format, as if this machine had none: for CPUs and emulators in which they are
/// faulty. To be called before [`Layout::detect`].
pub fn use_standard_format_only() {
    STANDARD_ONLY.store(true, Ordering::Relaxed);
}

/// What of XCR0 may be set.
static ALLOWED: AtomicU64 = AtomicU64::new(u64::MAX);
/// x87 and SSE, which all 64-bit code may use: they can't be left out.
const ALWAYS: u64 = 0b11;

/// Leaves components out that this machine has: only those whose bits in XCR0 are in `components` are enabled, and x87 and SSE in any
/// case (Intel SDM vol. 1 §13.3). To be called before [`Layout::detect`].
pub fn allow_components(components: u64) {
    ALLOWED.store(components | ALWAYS, Ordering::Relaxed);
}

/// EAX, EBX, ECX and EDX of a leaf.
pub(super) type Leaf = [u32; 4];

/// One leaf of CPUID, from the CPU that this runs on.
pub(super) fn cpuid(leaf: u32, subleaf: u32) -> Leaf {
    let result = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    [result.eax, result.ebx, result.ecx, result.edx]
}

impl Layout {
    /// The layout for the CPU that this runs on.
    pub fn detect() -> Layout {
        Layout::from_cpuid(|leaf, subleaf| {
            restricted(
                (leaf, subleaf),
                cpuid(leaf, subleaf),
                STANDARD_ONLY.load(Ordering::Relaxed),
                ALLOWED.load(Ordering::Relaxed),
            )
        })
    }

    /// The layout for a process on this machine: what its operating system has enabled, and no privileged instruction.
    #[cfg(not(target_os = "none"))]
    pub fn hosted() -> Layout {
        const OSXSAVE: u32 = 1 << 27;
        const XSAVE: u32 = 1 << 26;
        const XSAVES: u32 = 1 << 3;
        let in_use = cpuid(1, 0)[2] & OSXSAVE != 0;
        Layout::from_cpuid(|leaf, subleaf| {
            let mut found = cpuid(leaf, subleaf);
            match (leaf, subleaf) {
                (1, _) if !in_use => found[2] &= !XSAVE,
                (0xD, 0) => {
                    let (low, high): (u32, u32);
                    // SAFETY: OSXSAVE says that the instruction is there (Intel SDM vol. 2D, XGETBV).
                    unsafe {
                        core::arch::asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") high,
                            options(nomem, nostack, preserves_flags));
                    }
                    found[0] &= low;
                    found[3] &= high;
                }
                (0xD, 1) => found[0] &= !XSAVES,
                _ => {}
            }
            found
        })
    }

    /// The same with another instruction, if a process can have it here.
    #[cfg(not(target_os = "none"))]
    pub(super) fn hosted_by(method: Method) -> Option<Layout> {
        let best = Layout::hosted();
        let [kinds, ..] = if best.has_header() {
            cpuid(0xD, 1)
        } else {
            [0; 4]
        };
        match method {
            Method::Fxsave => Some(Layout::without_xsave(best.keeps_x87_pointers)),
            Method::Xsaves => None,
            Method::Xsaveopt if kinds & 1 == 0 => None,
            Method::Xsavec if kinds & 2 == 0 => None,
            Method::Xsave if !best.has_header() => None,
            _ => Some(Layout::of(
                method,
                best.xcr0,
                best.keeps_x87_pointers,
                cpuid,
            )),
        }
    }

    /// The layout where there is nothing but FXSAVE.
    const fn without_xsave(keeps_x87_pointers: bool) -> Layout {
        Layout {
            method: Method::Fxsave,
            xcr0: 0,
            bytes: LEGACY_BYTES as u32,
            standard_bytes: LEGACY_BYTES as u32,
            keeps_x87_pointers,
            extended: [Component {
                bit: 0,
                bytes: 0,
                standard: 0,
                offset: 0,
            }; EXTENDED],
            count: 0,
        }
    }

    /// The layout for a CPU by what its CPUID says.
    pub(super) fn from_cpuid(cpuid: impl Fn(u32, u32) -> Leaf) -> Layout {
        const XSAVE: u32 = 1 << 26;
        const XSAVEOPT: u32 = 1;
        const XSAVEC: u32 = 1 << 1;
        const XSAVES: u32 = 1 << 3;
        let [highest, ..] = cpuid(0, 0);
        let [_, _, features, _] = cpuid(1, 0);
        let keeps_x87_pointers = keeps_x87_pointers(&cpuid);
        if features & XSAVE == 0 || highest < 0xD {
            return Layout::without_xsave(keeps_x87_pointers);
        }
        let [low, _, _, high] = cpuid(0xD, 0);
        let xcr0 = enabled(u64::from(high) << 32 | u64::from(low), &cpuid);
        let [kinds, ..] = cpuid(0xD, 1);
        // Unchanged components cost no store with XSAVEOPT, so it goes before XSAVEC, which has no such memory.
        let method = if kinds & XSAVES != 0 {
            Method::Xsaves
        } else if kinds & XSAVEOPT != 0 {
            Method::Xsaveopt
        } else if kinds & XSAVEC != 0 {
            Method::Xsavec
        } else {
            Method::Xsave
        };
        Layout::of(method, xcr0, keeps_x87_pointers, cpuid)
    }

    /// Places the components of `xcr0`.
    pub(super) fn of(
        method: Method,
        xcr0: u64,
        keeps_x87_pointers: bool,
        cpuid: impl Fn(u32, u32) -> Leaf,
    ) -> Layout {
        let mut extended = [Component::default(); EXTENDED];
        let (mut count, mut standard_end, mut compacted_end) =
            (0, HEADER_END as u32, HEADER_END as u32);
        for bit in (2..63).filter(|bit| xcr0 >> bit & 1 != 0) {
            let [bytes, standard, flags, _] = cpuid(0xD, u32::from(bit));
            // ECX bit 1: in the compacted format it begins at a multiple of 64 (Intel SDM vol. 1 §13.4.3).
            if flags & 2 != 0 {
                compacted_end = compacted_end.next_multiple_of(64);
            }
            extended[count] = Component {
                bit,
                bytes,
                standard,
                offset: if method.is_compacted() {
                    compacted_end
                } else {
                    standard
                },
            };
            count += 1;
            compacted_end += bytes;
            standard_end = standard_end.max(standard + bytes);
        }
        let end = if method.is_compacted() {
            compacted_end
        } else {
            standard_end
        };
        Layout {
            method,
            xcr0,
            bytes: end.next_multiple_of(AREA_ALIGNMENT as u32),
            standard_bytes: standard_end,
            keeps_x87_pointers,
            extended,
            count: count as u8,
        }
    }

    /// Bytes of an area as the CPU itself counts them, with XCR0 as it is now: where that is more, it is right.
    pub fn bytes_reported(&self) -> u32 {
        let [_, bytes, ..] = match self.method {
            Method::Fxsave => return LEGACY_BYTES as u32,
            Method::Xsave | Method::Xsaveopt => cpuid(0xD, 0),
            Method::Xsavec | Method::Xsaves => cpuid(0xD, 1),
        };
        bytes.next_multiple_of(AREA_ALIGNMENT as u32)
    }

    /// The components behind the header.
    pub(super) fn extended(&self) -> &[Component] {
        &self.extended[..usize::from(self.count)]
    }

    /// Whether areas have an XSAVE header.
    pub(super) const fn has_header(&self) -> bool {
        !matches!(self.method, Method::Fxsave)
    }
}

/// The components in words, the instruction and the size: `x87, SSE, AVX by xsaveopt, 832 bytes`.
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("x87, SSE")?;
        if self.xcr0 & AVX != 0 {
            f.write_str(", AVX")?;
        }
        if self.xcr0 & AVX512 != 0 {
            f.write_str(", AVX-512")?;
        }
        write!(f, " by {}, {} bytes", self.method.text(), self.bytes)
    }
}

/// A leaf without what shall be left alone: instructions that compact, and components that are not allowed.
fn restricted(which: (u32, u32), found: Leaf, standard_only: bool, allowed: u64) -> Leaf {
    let [a, b, c, d] = found;
    match which {
        (0xD, 0) => [a & allowed as u32, b, c, d & (allowed >> 32) as u32],
        (0xD, 1) if standard_only => [a & !COMPACTING, b, c, d],
        _ => found,
    }
}

/// What XCR0 shall be, of what the CPU offers.
fn enabled(offered: u64, cpuid: &impl Fn(u32, u32) -> Leaf) -> u64 {
    let fits = |bits: u64| {
        (2..63).filter(|bit| bits >> bit & 1 != 0).all(|bit| {
            let [bytes, offset, flags, _] = cpuid(0xD, bit);
            // ECX bit 0: supervisor state, which XCR0 does not hold.
            let end = offset.saturating_add(bytes);
            bytes != 0 && offset >= HEADER_END as u32 && end <= IMAGE_ROOM as u32 && flags & 1 == 0
        })
    };
    let mut xcr0 = offered & BASE;
    if !fits(xcr0) {
        xcr0 &= !AVX;
    }
    if offered & AVX512 == AVX512 && xcr0 & AVX != 0 && fits(AVX512) {
        xcr0 |= AVX512;
    }
    xcr0
}

/// Whether `fxrstor` and `xrstor` may leave the x87's last instruction and data addresses alone: on AMD's and Hygon's CPUs, unless they
/// say that they always load them (RstrFpErrPtrs, AMD64 APM vol. 3, CPUID Fn8000_0008 EBX bit 2).
fn keeps_x87_pointers(cpuid: &impl Fn(u32, u32) -> Leaf) -> bool {
    const ALWAYS_LOADS: u32 = 1 << 2;
    let vendor = vendor(cpuid);
    let [highest, ..] = cpuid(0x8000_0000, 0);
    let loads = highest >= 0x8000_0008 && cpuid(0x8000_0008, 0)[1] & ALWAYS_LOADS != 0;
    matches!(&vendor, b"AuthenticAMD" | b"HygonGenuine") && !loads
}

fn vendor(cpuid: &impl Fn(u32, u32) -> Leaf) -> [u8; 12] {
    let [_, first, third, second] = cpuid(0, 0);
    let mut name = [0; 12];
    for (bytes, word) in name.chunks_exact_mut(4).zip([first, second, third]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    name
}

/// Whether a CPU is of a kind that is known to let user code read, by speculation past a set CR0.TS, registers that are kept lazily
/// (CVE-2018-3665, Intel-SA-00145): Intel's, but for the Atoms that execute in order. AMD's are not affected.
#[cfg_attr(
    not(any(target_os = "none", test)),
    allow(dead_code, reason = "a process has one layout and nothing to decide")
)]
pub(super) fn leaks_when_lazy(cpuid: impl Fn(u32, u32) -> Leaf) -> bool {
    /// Bonnell and Saltwell: family 6 in order, without speculative execution.
    const IN_ORDER: [u32; 5] = [0x1C, 0x26, 0x27, 0x35, 0x36];
    if &vendor(&cpuid) != b"GenuineIntel" {
        return false;
    }
    let [signature, ..] = cpuid(1, 0);
    let family = signature >> 8 & 0xF;
    let model = signature >> 4 & 0xF | signature >> 12 & 0xF0;
    !(family == 6 && IN_ORDER.contains(&model))
}

#[cfg(test)]
mod tests;
