//! The page that a tortured thread and its tormentor share: what the thread is to hold, what it found, what it counts.
//!
//! A *step* is one disturbance: the general registers before it, what they must be after it and which of their bits count, and
//! the instruction between. So all that is known about calls (which registers a short one clears, what `syscall` overwrites)
//! is in tables that Rust makes; the thread's machine code (`worker64.rs`, `worker32.rs`) only loads, disturbs, stores and compares.
//! It finds the page behind its own text, by offsets that are taken from here.

pub use abi::general as reg;

/// General registers by their numbers, then the flags.
pub const GENERAL: usize = reg::COUNT + 1;
/// Place of the flags among them.
pub const FLAGS: usize = reg::COUNT;

/// Bytes of a thread's text; its page follows.
pub const TEXT_BYTES: u64 = 0x2000;
/// Where the first thread of a process has its text.
pub const TEXT: u64 = 0x40_0000;
/// Distance from one thread's text to the next one's.
pub const STRIDE: u64 = 0x10_0000;
/// Where every process has the board: for each CPU a word that says who was there last.
pub const BOARD: u64 = 0x80_0000;
/// Bytes of the board.
pub const BOARD_BYTES: u64 = 4096;
/// Distance between the words of two CPUs.
pub const BOARD_STRIDE: u64 = 64;
/// CPUs that have a word.
pub const BOARD_CPUS: u32 = 64;

/// Where the first thread of a process has its fresh pages; the next one's are a [`STRIDE`] behind.
pub const FRESH: u64 = 0x2000_0000;
/// Bytes of them, a power of two. Addresses of them have that bit clear, so that a walk through them ends where it began.
pub const FRESH_BYTES: u64 = 64 * 4096;
/// How far a step walks: two pages, one that is read first and one that is written first.
pub const FRESH_STRIDE: u64 = 2 * 4096;
/// How far below itself the page of a 32-bit thread is mapped a second time, for stack segments whose base is so far below 0.
pub const BELOW: u64 = 0x12_3000;

/// Steps that a thread has at most.
pub const STEPS: usize = 24;
/// Sets of segments, and FPU states, that it changes between.
pub const SETS: usize = 4;
/// FPU states that it changes between.
pub const STATES: usize = 2;
/// Words of an FPU area: enough for x87, SSE, AVX and AVX-512 in the standard format, which take 2688 bytes.
pub const AREA_WORDS: usize = 512;

/// What is done between loading and storing the registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum How {
    /// Nothing: the thread begins like this, with what its context says.
    Birth = 0,
    /// `syscall`; in 32-bit code a call of `__kernel_vsyscall`.
    Call = 1,
    /// `int 0x80`.
    Interrupt = 2,
    /// A loop of so many turns as rcx says.
    Spin = 3,
    /// `out dx, al`.
    Port = 4,
    /// Many yields by `syscall` (in 32-bit code by `int 0x80`), with a look at the kept registers after each.
    Yields = 5,
    /// The place of the breakpoints: an instruction and a word that others watch.
    Watched = 6,
    /// `ud2`.
    Invalid = 7,
    /// Reads a fresh page and writes it, then writes another fresh page and reads it.
    Touch = 8,
    /// Loads SS with what it may not have.
    Stack = 9,
}

/// One disturbance.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Step {
    /// A [`How`].
    pub how: u64,
    /// Nanoseconds from now until the deadline, which is put into r14 (32-bit code: into the call's block); 0: no deadline.
    pub delay: u64,
    /// How many yields.
    pub repeat: u64,
    /// The set of segments to be loaded first, plus one; 0: the one that is held stays.
    pub segments: u64,
    /// The FPU state to be loaded first, plus one; 0: the one that is held stays.
    pub fpu: u64,
    /// What is looked at besides registers and segments: bits of [`looks`].
    pub looks: u64,
    /// Which of [`Page::counters`] counts it.
    pub counter: u64,
    /// SS before and after.
    pub stack: Stack,
    /// Not 0: it waits, and may be [`cancelled`](Self::cancelled).
    pub waits: u64,
    /// 32-bit code: what it waits for, which is put into the call's block; 0: nothing.
    pub handle: u64,
    /// General registers before.
    pub load: [u64; GENERAL],
    /// General registers after.
    pub want: [u64; GENERAL],
    /// General registers after a wait that somebody ended: then RAX says so.
    pub cancelled: [u64; GENERAL],
    /// Their bits that count.
    pub mask: [u64; GENERAL],
}

impl Step {
    /// A step of zeros.
    pub const ZERO: Step = Step {
        how: 0,
        delay: 0,
        repeat: 0,
        segments: 0,
        fpu: 0,
        looks: 0,
        counter: 0,
        stack: Stack::ZERO,
        waits: 0,
        handle: 0,
        load: [0; GENERAL],
        want: [0; GENERAL],
        cancelled: [0; GENERAL],
        mask: [0; GENERAL],
    };
}

/// SS before and after a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Stack {
    /// The selector before.
    pub load: u64,
    /// The selector after.
    pub want: u64,
    /// 32-bit code: what the word at [`probe`](Self::probe) holds, which shows the base; 64-bit code: 0.
    pub word: u64,
    /// Offset of that word in the segment.
    pub probe: u64,
    /// What is to be taken off an address for an offset in the segment that is loaded.
    pub base: u64,
}

impl Stack {
    /// Zeros.
    pub const ZERO: Stack = Stack {
        load: 0,
        want: 0,
        word: 0,
        probe: 0,
        base: 0,
    };
}

/// Bits of [`Step::looks`].
pub mod looks {
    /// The FPU's registers.
    pub const FPU: u64 = 1;
    /// The three descriptors.
    pub const SLOTS: u64 = 2;
}

/// Selectors and bases, all set together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Segments {
    /// DS, ES, FS, GS.
    pub selectors: [u64; 4],
    /// What is found of their bases: of FS and GS the base itself where it can be read, else the word at [`probe`](Self::probe).
    pub words: [u64; 4],
    /// Offset of that word in the segment; all ones: none.
    pub probe: [u64; 4],
    /// How they are set: one of [`bases`].
    pub how: u64,
}

impl Segments {
    /// A set of zeros.
    pub const ZERO: Segments = Segments {
        selectors: [0; 4],
        words: [0; 4],
        probe: [0; 4],
        how: 0,
    };
}

/// Values of [`Segments::how`].
pub mod bases {
    /// By selectors alone, whose descriptors have bases.
    pub const SELECTORS: u64 = 0;
    /// Selectors, then `wrfsbase` and `wrgsbase`.
    pub const INSTRUCTIONS: u64 = 1;
    /// Selectors (of which GS's brings a base), then FS's base by a system call.
    pub const CALL: u64 = 2;
}

/// An FPU area in the standard format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(64))]
pub struct Area(pub [u64; AREA_WORDS]);

impl Area {
    /// An area of zeros.
    pub const ZERO: Area = Area([0; AREA_WORDS]);
}

/// Values of [`Page::bad`]: what was found wrong.
pub mod bad {
    /// A general register or a flag.
    pub const GENERAL: u64 = 1;
    /// A selector or base.
    pub const SEGMENTS: u64 = 2;
    /// A descriptor.
    pub const SLOTS: u64 = 3;
    /// A register of the FPU.
    pub const FPU: u64 = 4;
    /// The CPU that it is kept on.
    pub const CPU: u64 = 5;
    /// It outlived what was to end it.
    pub const SURVIVED: u64 = 6;
    /// A call that prepares it failed.
    pub const PREPARE: u64 = 7;
    /// SS or its base.
    pub const STACK: u64 = 8;
}

/// Places of counters.
pub mod count {
    /// Steps.
    pub const ROUNDS: usize = 0;
    /// Yields of [`How::Yields`](super::How::Yields).
    pub const YIELDS: usize = 1;
    /// Times that another thread ran meanwhile although this one gave nothing up.
    pub const PREEMPTED: usize = 2;
    /// Times that it found itself on another CPU.
    pub const MIGRATED: usize = 3;
    /// Looks at the FPU's registers.
    pub const FPU_LOOKS: usize = 4;
    /// Loads of another FPU state.
    pub const FPU_LOADS: usize = 5;
    /// Loads of other segments.
    pub const SEGMENT_LOADS: usize = 6;
    /// Looks at the descriptors.
    pub const SLOT_LOOKS: usize = 7;
    /// Steps of each kind from here on.
    pub const SHORT: usize = 8;
    /// Calls by `int 0x80`.
    pub const INTERRUPT: usize = 9;
    /// Long calls.
    pub const LONG: usize = 10;
    /// Calls that sleep.
    pub const SLEEP: usize = 11;
    /// Messages to a server.
    pub const MESSAGE: usize = 12;
    /// Uses of a port.
    pub const PORT: usize = 13;
    /// Loops.
    pub const SPIN: usize = 14;
    /// Ways over the place of the breakpoints.
    pub const WATCHED: usize = 15;
    /// Calls that wait for what does not come.
    pub const WAIT: usize = 16;
    /// Waits that somebody ended.
    pub const CANCELLED: usize = 17;
    /// Touches of fresh pages.
    pub const TOUCH: usize = 18;
    /// Steps with a stack segment of its own.
    pub const STACKS: usize = 19;
    /// How many there are.
    pub const ALL: usize = 20;
}

/// The page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Page {
    /// 0, or the number of the step that is to end the thread.
    pub stop: u64,
    /// What it writes on the board; no other thread's, not 0.
    pub id: u64,
    /// The CPU that it is kept on; all ones: none.
    pub pinned: u64,
    /// Not 0: FS and GS base can be read and written by instructions.
    pub fsgsbase: u64,
    /// Parts of the FPU's state, as XCR0 has them, to be loaded by `xrstor`; 0: the thread uses `fxrstor` instead.
    pub xsave: u64,
    /// Not 0: behind `fxrstor` it loads the upper halves of the `ymm` registers.
    pub avx: u64,
    /// Words of an FPU area that are compared; 0: the thread uses no FPU.
    pub fpu_words: u64,
    /// Handle of ports to be enabled first; 0: none.
    pub ports: u64,
    /// How many steps it chooses from, those that end it excepted.
    pub steps_used: u64,
    /// State of its generator; not 0.
    pub random: u64,
    /// 32-bit code: address of `__kernel_vsyscall`.
    pub vsyscall: u64,
    /// 32-bit code: address of the deadline's word in its IPC area.
    pub deadline: u64,
    /// Not 0 once it was prepared.
    pub started: u64,
    /// One of [`bad`], 0 while all is well.
    pub bad: u64,
    /// Address of the step at hand.
    pub step: u64,
    /// Which set of segments is held.
    pub held_segments: u64,
    /// Which FPU state is held.
    pub held_fpu: u64,
    /// The CPU on which it found itself; all ones before.
    pub cpu: u64,
    /// Yields left.
    pub left: u64,
    /// Address of the instruction to disturb it.
    pub path: u64,
    /// Its CPU's word on the board.
    pub board: u64,
    /// The word that breakpoints watch.
    pub watched: u64,
    /// Address of the next fresh pages.
    pub fresh: u64,
    /// Its counts.
    pub counters: [u64; count::ALL],
    /// General registers as found.
    pub found: [u64; GENERAL],
    /// Selectors as found.
    pub found_selectors: [u64; 4],
    /// Bases as found; right behind the selectors, as they are in [`Segments`].
    pub found_words: [u64; 4],
    /// SS as found, and the word that shows its base; in the order of [`Stack::want`] and [`Stack::word`].
    pub found_stack: [u64; 2],
    /// Limits of the descriptors as found; all ones: empty.
    pub found_limits: [u64; 3],
    /// What they must be.
    pub limits: [u64; 3],
    /// Segments as loaded, and what they must be then: the same, unless damage is to be shown.
    pub segments_load: [Segments; SETS],
    /// See there.
    pub segments_want: [Segments; SETS],
    /// Words that hold their own addresses, for bases to point to.
    pub anchors: [u64; 8],
    /// General registers over [`How::Yields`].
    pub yields: [u64; GENERAL],
    /// Its stack.
    pub stack: [u64; 64],
    /// Its steps.
    pub steps: [Step; STEPS],
    /// FPU states as loaded, and what they must be then.
    pub fpu_load: [Area; STATES],
    /// See there.
    pub fpu_want: [Area; STATES],
    /// Their bits that count.
    pub fpu_mask: Area,
    /// The FPU's state as found.
    pub fpu_found: Area,
}

impl Page {
    /// A page of zeros.
    pub const ZERO: Page = Page {
        stop: 0,
        id: 0,
        pinned: 0,
        fsgsbase: 0,
        xsave: 0,
        avx: 0,
        fpu_words: 0,
        ports: 0,
        steps_used: 0,
        random: 0,
        vsyscall: 0,
        deadline: 0,
        started: 0,
        bad: 0,
        step: 0,
        held_segments: 0,
        held_fpu: 0,
        cpu: 0,
        left: 0,
        path: 0,
        board: 0,
        watched: 0,
        fresh: 0,
        counters: [0; count::ALL],
        found: [0; GENERAL],
        found_selectors: [0; 4],
        found_words: [0; 4],
        found_stack: [0; 2],
        found_limits: [0; 3],
        limits: [0; 3],
        segments_load: [Segments::ZERO; SETS],
        segments_want: [Segments::ZERO; SETS],
        anchors: [0; 8],
        yields: [0; GENERAL],
        stack: [0; 64],
        steps: [Step::ZERO; STEPS],
        fpu_load: [Area::ZERO; STATES],
        fpu_want: [Area::ZERO; STATES],
        fpu_mask: Area::ZERO,
        fpu_found: Area::ZERO,
    };
}

/// Bytes of the page, whole pages.
pub const PAGE_BYTES: u64 = size_of::<Page>() as u64;

const _: () = {
    assert!(PAGE_BYTES.is_multiple_of(4096));
    assert!(TEXT_BYTES + PAGE_BYTES <= STRIDE);
    assert!(TEXT + 4 * STRIDE <= BOARD);
    assert!(FRESH_BYTES.is_power_of_two() && FRESH_BYTES.is_multiple_of(FRESH_STRIDE));
    assert!(FRESH & FRESH_BYTES == 0 && STRIDE & FRESH_BYTES == 0 && FRESH_BYTES < STRIDE);
    // The words that bases point to lie in one page of 4096 bytes.
    assert!(core::mem::offset_of!(Page, anchors) % 4096 <= 4096 - 64);
    // The page, mapped a second time, lies below the text.
    assert!(TEXT + TEXT_BYTES - BELOW + PAGE_BYTES <= TEXT);
    assert!(core::mem::offset_of!(Stack, word) == core::mem::offset_of!(Stack, want) + 8);
    assert!(BOARD_STRIDE * BOARD_CPUS as u64 <= BOARD_BYTES);
    // The compared part of `Segments` is what the thread stores.
    assert!(core::mem::offset_of!(Segments, words) == 32);
    assert!(
        core::mem::offset_of!(Page, found_words)
            == core::mem::offset_of!(Page, found_selectors) + 32
    );
};

/// The 4096 bytes that hold the words which bases point to, in the page of the process's thread number `index`.
pub const fn anchors(index: usize) -> u64 {
    address(index, core::mem::offset_of!(Page, anchors)) & !4095
}

/// Where the process's thread number `index` has its fresh pages.
pub const fn fresh(index: usize) -> u64 {
    FRESH + index as u64 * STRIDE
}

/// The address of something in the page of the process's thread number `index`.
pub const fn address(index: usize, offset: usize) -> u64 {
    TEXT + index as u64 * STRIDE + TEXT_BYTES + offset as u64
}
