//! What a thread is to hold and what is to be done to it: fills its page.
//!
//! Here stands what the kernel promises of each way in: which registers a call gives results in, which it clears, which it keeps. All
//! else must come back as it was.

use abi::compat::BLOCK_FORM;
use abi::{Call, DebugRegisters, Error, Tag, UserContext, Watch, Width};

use crate::Code;
use crate::fpu::Layout;
use crate::page::{
    FLAGS, GENERAL, How, Page, SETS, STATES, STEPS, Step, address, bad, count, looks, reg,
};
use crate::random::Random;
use crate::segments::{Kit, Means, kit};

/// The step that ends a thread by an exit.
pub const END_EXIT: usize = STEPS - 5;
/// The step that ends it by an invalid instruction.
pub const END_INVALID: usize = STEPS - 4;
/// The step that ends it by a port that it may not use.
pub const END_PORT: usize = STEPS - 3;
/// The step that ends it by its breakpoint.
pub const END_WATCHED: usize = STEPS - 2;
/// What its context was set to.
pub const BIRTH: usize = STEPS - 1;
/// Steps that it chooses from.
const USED: usize = 24;

/// A port that only diagnostics cards listen to, which some may use.
pub const PORT: u16 = 0x80;
/// Another one, which nobody may.
pub const OTHER_PORT: u16 = 0xED;

/// Carry, parity, adjust, zero, sign, overflow; direction; alignment check; CPUID.
const USER_FLAGS: u64 = 0x8D5 | 1 << 10 | 1 << 18 | 1 << 21;
/// Nested task: user code may set it, a context may not.
const NESTED: u64 = 1 << 14;
/// IF and the bit that is always one.
const FIXED_FLAGS: u64 = 0x202;

/// How much a thread uses the FPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Not at all.
    Never,
    /// It loads a state, and looks at it after many slices in which others had the FPU.
    Seldom,
    /// In nearly every slice.
    Often,
}

/// What kind of thread it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body {
    /// Its number in its process.
    pub index: usize,
    /// What it writes on the board.
    pub id: u64,
    /// 32-bit code.
    pub bits32: bool,
    /// It sleeps and wakes above the others, whom it so interrupts wherever they are.
    pub waker: bool,
    /// The FPU.
    pub fpu: Use,
    /// It has descriptors of its own.
    pub slots: bool,
    /// The CPU that it is kept on.
    pub pinned: Option<u32>,
    /// Handle of the ports that it may use; 0: none.
    pub ports: u64,
    /// Handle of a server that answers; 0: none.
    pub server: u64,
    /// The breakpoint that it will end by, and what that watches.
    pub watch: Option<(usize, Watch)>,
    /// 32-bit code: `__kernel_vsyscall`.
    pub vsyscall: u64,
    /// Its IPC area.
    pub area: u64,
}

/// What of a thread is not in its page but in the kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Birth {
    /// Registers to begin with; RIP, CS and SS are its process's matter.
    pub context: UserContext,
    /// Debug registers.
    pub debug: DebugRegisters,
    /// Descriptors.
    pub descriptors: [u64; 3],
}

/// What fills pages.
#[derive(Debug)]
pub struct Planner<'a> {
    /// The machine's FPU.
    pub layout: &'a Layout,
    /// Bases can be read and written by instructions.
    pub fsgsbase: bool,
    /// The code of the kind of thread.
    pub code: &'a Code,
    /// The kind.
    pub body: Body,
}

impl Planner<'_> {
    /// Fills the page and says how the thread is to begin.
    pub fn fill(&self, page: &mut Page, random: &mut Random) -> Birth {
        let body = &self.body;
        let anchor = |n: usize| self.at(core::mem::offset_of!(Page, anchors) + 8 * n);
        page.anchors = core::array::from_fn(anchor);
        page.stop = 0;
        page.id = body.id;
        page.pinned = body.pinned.map_or(u64::MAX, u64::from);
        page.fsgsbase = u64::from(self.fsgsbase);
        page.xsave = self.layout.by_xsave();
        page.avx = u64::from(self.layout.has_avx());
        let words = self.layout.words() as u64;
        page.fpu_words = if body.fpu == Use::Never { 0 } else { words };
        page.ports = body.ports;
        page.random = random.word() | 1 << 63 | 1;
        page.vsyscall = body.vsyscall;
        page.deadline = body.area
            + core::mem::offset_of!(abi::ipc_area::IpcHeader, registers) as u64
            + 8 * abi::compat::block::R14 as u64;
        (page.started, page.bad, page.board) = (0, 0, 0);
        (page.held_segments, page.held_fpu) = (0, 0);
        (page.cpu, page.watched) = (u64::MAX, 0);
        page.counters = [0; count::ALL];
        let kit = self.segments(page, random);
        for state in 0..STATES {
            page.fpu_load[state] = self.layout.pattern(random);
        }
        page.fpu_want = page.fpu_load;
        page.fpu_mask = self.layout.mask(body.bits32);
        page.yields = self.image(random);
        page.yields[reg::RAX] = Call::Yield as u64;
        page.steps_used = USED as u64;
        for number in 0..USED {
            let mut step = if body.waker {
                self.waking(number, random)
            } else {
                self.step(number, page, random)
            };
            self.adorn(&mut step, kit.changes, random);
            page.steps[number] = step;
        }
        self.endings(page, random);
        page.step = self.at(core::mem::offset_of!(Page, steps) + BIRTH * size_of::<Step>());
        self.birth(page, &kit, random)
    }

    fn at(&self, offset: usize) -> u64 {
        address(self.body.index, offset)
    }

    /// Address of something in its text.
    pub fn place(&self, offset: u64) -> u64 {
        crate::page::TEXT + self.body.index as u64 * crate::page::STRIDE + offset
    }

    fn segments(&self, page: &mut Page, random: &mut Random) -> Kit {
        let means = Means {
            bits32: self.body.bits32,
            fsgsbase: self.fsgsbase,
            slots: self.body.slots,
            anchors: page.anchors,
        };
        let kit = kit(&means, random);
        page.segments_load = kit.sets;
        page.segments_want = kit.sets;
        if !self.body.bits32 {
            for set in &mut page.segments_want {
                // Of DS and ES 64-bit code has no base.
                (set.words[0], set.words[1]) = (0, 0);
            }
        }
        page.limits = kit.limits;
        kit
    }

    /// Chance in all general registers, as far as the thread can hold it.
    fn image(&self, random: &mut Random) -> [u64; GENERAL] {
        let mut image = core::array::from_fn(|_| random.word());
        // RSP is canonical, of either half: nothing of the kernel's may use it.
        image[reg::RSP] = (image[reg::RSP] as i64 >> 16) as u64;
        if self.body.bits32 {
            for register in &mut image[..=reg::RDI] {
                *register &= 0xFFFF_FFFF;
            }
            image[reg::R8..FLAGS].fill(0);
        }
        image[FLAGS] = FIXED_FLAGS | random.word() & USER_FLAGS;
        image
    }

    fn blank(how: How, load: [u64; GENERAL], counter: usize) -> Step {
        Step {
            how: how as u64,
            delay: 0,
            repeat: 0,
            segments: 0,
            fpu: 0,
            looks: 0,
            counter: counter as u64,
            load,
            want: load,
            mask: [u64::MAX; GENERAL],
        }
    }

    /// One of all kinds of steps. The first few numbers have a kind of their own, so that none is missing.
    fn step(&self, number: usize, page: &Page, random: &mut Random) -> Step {
        let body = &self.body;
        let choice = if number < 8 {
            number as u64
        } else {
            random.below(14)
        };
        match choice {
            0 if body.watch.is_none() => {
                Self::blank(How::Watched, self.image(random), count::WATCHED)
            }
            1 if body.ports != 0 => self.port(PORT, random),
            2 if body.server != 0 => self.message(random),
            3 => self.spin(random),
            4 => self.sleep(random),
            5 => self.long(random),
            6 => self.short(How::Interrupt, random),
            7 | 8 => self.short(How::Call, random),
            _ => self.yields(page, random),
        }
    }

    /// What a waker does: sleeps, and now and then something short.
    fn waking(&self, number: usize, random: &mut Random) -> Step {
        match number % 6 {
            0 => self.short(How::Call, random),
            1 => self.short(How::Interrupt, random),
            _ => {
                let mut step = self.sleep(random);
                step.delay = 40_000 + random.below(400_000);
                step
            }
        }
    }

    /// Adds looks at, and changes of, what a step does not touch.
    fn adorn(&self, step: &mut Step, changes: bool, random: &mut Random) {
        if changes && random.one_in(4) {
            // The first set needs a context.
            step.segments = 2 + random.below(SETS as u64 - 1);
        }
        if random.one_in(4) {
            step.looks |= looks::SLOTS;
        }
        let (look, load) = match self.body.fpu {
            Use::Never => return,
            Use::Seldom => (12, 24),
            Use::Often => (2, 6),
        };
        if random.one_in(look) {
            step.looks |= looks::FPU;
        }
        if random.one_in(load) {
            step.fpu = 1 + random.below(STATES as u64);
        }
    }

    /// What `syscall` itself overwrites.
    fn overwritten(&self, step: &mut Step) {
        if step.how == How::Call as u64 && !self.body.bits32 {
            step.want[reg::RCX] = self.place(self.code.after_call);
            step.want[reg::R11] = step.load[FLAGS];
        }
        if step.how == How::Call as u64 && self.body.bits32 {
            // It is called, so it needs a stack.
            let stack = self.at(core::mem::offset_of!(Page, stack) + size_of_val(&[0_u64; 64]));
            step.load[reg::RSP] = stack;
            step.want[reg::RSP] = stack;
        }
    }

    /// What a short call of 64-bit code clears.
    fn cleared(&self, want: &mut [u64; GENERAL]) {
        if !self.body.bits32 {
            for register in [reg::RDI, reg::RSI, reg::RDX, reg::R8, reg::R9, reg::R10] {
                want[register] = 0;
            }
        }
    }

    fn call(&self, how: How, number: u64, status: u64, random: &mut Random) -> Step {
        let counter = if how == How::Interrupt {
            count::INTERRUPT
        } else {
            count::SHORT
        };
        let mut step = Self::blank(how, self.image(random), counter);
        // 32-bit entries may lose NT, as the manual has it for some of them.
        if !self.body.bits32 && random.one_in(4) {
            step.load[FLAGS] |= NESTED;
            step.want[FLAGS] |= NESTED;
        }
        step.load[reg::RAX] = number;
        step.want[reg::RAX] = status;
        self.overwritten(&mut step);
        step
    }

    fn short(&self, how: How, random: &mut Random) -> Step {
        let call = random.pick(&[Call::Null, Call::Yield, Call::ClockNow, Call::Signal]);
        let status = match call {
            // Chance is no handle.
            Call::Signal => Error::BadHandle as u64,
            _ => 0,
        };
        let mut step = self.call(how, call as u64, status, random);
        self.cleared(&mut step.want);
        if call == Call::ClockNow {
            if self.body.bits32 {
                (step.mask[reg::RBX], step.mask[reg::RCX]) = (0, 0);
            } else {
                step.mask[reg::RDI] = 0;
            }
        }
        step
    }

    /// A long call that fails, or has nothing to do.
    fn long(&self, random: &mut Random) -> Step {
        let how = random.pick(&[How::Call, How::Interrupt]);
        let mut step = match random.below(3) {
            0 => self.call(
                how,
                Call::HandleClose as u64,
                Error::BadHandle as u64,
                random,
            ),
            1 => {
                let number = 0x7000_0000 | random.below(0x1000);
                self.call(how, number, Error::UnknownCall as u64, random)
            }
            // A deadline that is over.
            _ => self.sleep_until_now(how, random),
        };
        step.counter = count::LONG as u64;
        step
    }

    fn sleep_until_now(&self, how: How, random: &mut Random) -> Step {
        let mut step = self.call(how, self.sleep_number(), 0, random);
        if self.body.bits32 {
            step.delay = 1;
        } else {
            (step.load[reg::R14], step.want[reg::R14]) = (1, 1);
        }
        step
    }

    fn sleep_number(&self) -> u64 {
        let number = Call::Sleep as u64;
        if self.body.bits32 {
            number | u64::from(BLOCK_FORM)
        } else {
            number
        }
    }

    fn sleep(&self, random: &mut Random) -> Step {
        let how = random.pick(&[How::Call, How::Call, How::Interrupt]);
        let mut step = self.call(how, self.sleep_number(), 0, random);
        step.delay = 10_000 + random.below(150_000);
        step.counter = count::SLEEP as u64;
        step
    }

    /// A call of a server, which answers with all words inverted.
    fn message(&self, random: &mut Random) -> Step {
        let mut step = self.call(How::Call, Call::Call as u64, 0, random);
        step.counter = count::MESSAGE as u64;
        if self.body.bits32 {
            // The words are in the block, and nobody puts them there: the same call by a bad handle.
            step.want[reg::RAX] = Error::BadHandle as u64;
            return step;
        }
        let label = random.word() as u32;
        step.load[reg::RDI] = self.body.server;
        step.load[reg::RSI] = Tag::new(label).0;
        step.load[reg::R14] = u64::MAX;
        step.load[reg::R15] = 0;
        for register in [reg::RDI, reg::R14, reg::R15] {
            step.want[register] = 0;
        }
        step.want[reg::RSI] = Tag::new(!label).0;
        for register in [reg::RDX, reg::R10, reg::R8, reg::R9, reg::R12, reg::R13] {
            step.want[register] = !step.load[register];
        }
        step
    }

    fn spin(&self, random: &mut Random) -> Step {
        let mut step = Self::blank(How::Spin, self.image(random), count::SPIN);
        step.load[reg::RCX] = 200 + random.below(20_000);
        step.want[reg::RCX] = 0;
        if random.one_in(4) {
            step.load[FLAGS] |= NESTED;
            step.want[FLAGS] |= NESTED;
        }
        step
    }

    fn port(&self, port: u16, random: &mut Random) -> Step {
        let mut step = Self::blank(How::Port, self.image(random), count::PORT);
        let rdx = step.load[reg::RDX] & !0xFFFF | u64::from(port);
        (step.load[reg::RDX], step.want[reg::RDX]) = (rdx, rdx);
        step
    }

    fn yields(&self, page: &Page, random: &mut Random) -> Step {
        let mut step = Self::blank(How::Yields, page.yields, count::SHORT);
        step.repeat = 16 + random.below(112);
        step.want[reg::RAX] = 0;
        self.cleared(&mut step.want);
        if !self.body.bits32 {
            step.want[reg::RCX] = self.place(self.code.after_yield);
            // The flags of the comparisons between.
            step.mask[reg::R11] = 0;
        }
        step.mask[FLAGS] = !USER_FLAGS;
        step.want[FLAGS] = FIXED_FLAGS;
        step.load[FLAGS] = FIXED_FLAGS;
        step
    }

    fn endings(&self, page: &mut Page, random: &mut Random) {
        let mut exit = self.call(How::Interrupt, Call::ProcessExit as u64, 0, random);
        let pair = if self.body.bits32 { reg::RBX } else { reg::RDI };
        exit.load[pair] = crate::DONE;
        if self.body.bits32 {
            exit.load[reg::RCX] = 0;
        }
        page.steps[END_EXIT] = exit;
        page.steps[END_INVALID] = Self::blank(How::Invalid, self.image(random), count::ROUNDS);
        let port = if self.body.ports == 0 && random.one_in(2) {
            PORT
        } else {
            OTHER_PORT
        };
        page.steps[END_PORT] = self.port(port, random);
        page.steps[END_WATCHED] = Self::blank(How::Watched, self.image(random), count::WATCHED);
    }

    fn birth(&self, page: &mut Page, kit: &Kit, random: &mut Random) -> Birth {
        let image = self.image(random);
        let mut step = Self::blank(How::Birth, image, count::ROUNDS);
        step.looks = looks::SLOTS;
        page.steps[BIRTH] = step;
        let mut context = UserContext::default();
        put(&mut context, &image);
        let set = &page.segments_load[0];
        let [ds, es, fs, gs] = set.selectors.map(|selector| selector as u16);
        (context.ds, context.es, context.fs, context.gs) = (ds, es, fs, gs);
        [context.fs_base, context.gs_base] = kit.first_bases;
        let mut debug = DebugRegisters::default();
        if let Some((index, watch)) = self.body.watch {
            // The others are set, and not enabled.
            debug.address = core::array::from_fn(|_| random.word() >> 18 & !7);
            debug.address[index] = match watch {
                Watch::Execute => self.place(self.code.watched),
                _ => self.at(core::mem::offset_of!(Page, watched)),
            };
            debug.control = DebugRegisters::enable(index, watch);
        }
        Birth {
            context,
            debug,
            descriptors: kit.descriptors,
        }
    }
}

/// What a breakpoint may watch here.
pub const WATCHES: [Watch; 5] = [
    Watch::Execute,
    Watch::Write(Width::Eight),
    Watch::Write(Width::Four),
    Watch::Access(Width::Eight),
    Watch::Write(Width::One),
];

/// Puts an image into a context.
fn put(context: &mut UserContext, image: &[u64; GENERAL]) {
    [
        context.rax,
        context.rcx,
        context.rdx,
        context.rbx,
        context.rsp,
        context.rbp,
        context.rsi,
        context.rdi,
        context.r8,
        context.r9,
        context.r10,
        context.r11,
        context.r12,
        context.r13,
        context.r14,
        context.r15,
        context.rflags,
    ] = *image;
}

/// The image in a context.
pub fn image_of(context: &UserContext) -> [u64; GENERAL] {
    [
        context.rax,
        context.rcx,
        context.rdx,
        context.rbx,
        context.rsp,
        context.rbp,
        context.rsi,
        context.rdi,
        context.r8,
        context.r9,
        context.r10,
        context.r11,
        context.r12,
        context.r13,
        context.r14,
        context.r15,
        context.rflags,
    ]
}

/// The kinds of steps, in words.
pub fn how_text(how: u64) -> &'static str {
    match how {
        0 => "its birth",
        1 => "a call by syscall",
        2 => "a call by int 0x80",
        3 => "a loop",
        4 => "a use of a port",
        5 => "yields in a row",
        6 => "the place of the breakpoints",
        7 => "an invalid instruction",
        _ => "nothing known",
    }
}

/// What was found, in words.
pub fn bad_text(bad: u64) -> &'static str {
    match bad {
        bad::GENERAL => "a general register",
        bad::SEGMENTS => "a segment",
        bad::SLOTS => "a descriptor",
        bad::FPU => "the FPU",
        bad::CPU => "the CPU",
        bad::SURVIVED => "an end that was none",
        bad::PREPARE => "a call that prepares",
        _ => "nothing known",
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use alloc::boxed::Box;
    use alloc::vec::Vec;

    use super::*;

    const CODE: Code = Code {
        text: &[],
        after_call: 0x100,
        after_yield: 0x200,
        port: 0x300,
        watched: 0x400,
        after_watched: 0x408,
        invalid: 0x500,
    };

    pub(crate) fn layouts() -> [Layout; 3] {
        let avx = (2, 576, 256);
        [
            Layout::default(),
            Layout {
                enabled: 7,
                components: Vec::from([avx]),
            },
            Layout {
                enabled: 0xE7,
                components: Vec::from([avx, (5, 1088, 64), (6, 1152, 512), (7, 1664, 1024)]),
            },
        ]
    }

    pub(crate) fn filled(layout: &Layout, bits32: bool, seed: u64) -> (Box<Page>, Birth) {
        let mut page = Box::new(Page::ZERO);
        let planner = Planner {
            layout,
            fsgsbase: seed.is_multiple_of(2),
            code: &CODE,
            body: Body {
                index: 0,
                id: 5,
                bits32,
                waker: false,
                fpu: Use::Often,
                slots: true,
                pinned: Some(0),
                ports: 7,
                server: 9,
                watch: None,
                vsyscall: 0xD000_0000,
                area: 0xF000_0000,
            },
        };
        let birth = planner.fill(&mut page, &mut Random::new(seed));
        (page, birth)
    }

    #[test]
    fn threads_hold_only_what_they_can() {
        for seed in 0..50 {
            for bits32 in [false, true] {
                let (page, birth) = filled(&layouts()[1], bits32, seed);
                let upper = |image: &[u64; GENERAL]| image[..FLAGS].iter().any(|v| v >> 32 != 0);
                for step in &page.steps {
                    let rsp = step.load[reg::RSP] as i64 >> 47;
                    assert!(rsp == 0 || rsp == -1, "RSP is not canonical");
                    assert!(!bits32 || !upper(&step.load), "upper halves");
                    assert_eq!(
                        step.load[FLAGS] & !(USER_FLAGS | NESTED | 2),
                        0x200 * u64::from(step.load[FLAGS] != 0)
                    );
                }
                assert_eq!(birth.context.rflags & !USER_FLAGS, FIXED_FLAGS);
            }
        }
    }

    #[test]
    fn every_kind_of_step_is_there_from_the_start() {
        for seed in 0..50 {
            let (page, _) = filled(&layouts()[0], false, seed);
            for how in 1..=6 {
                let used = &page.steps[..page.steps_used as usize];
                assert!(
                    used.iter().any(|step| step.how == how),
                    "no {}",
                    how_text(how)
                );
            }
        }
    }

    #[test]
    fn equal_seeds_make_equal_pages() {
        let image = |seed| {
            let (page, birth) = filled(&layouts()[2], false, seed);
            (
                page.steps.map(|step| (step.load, step.want)),
                page.fpu_load,
                birth,
            )
        };
        assert!(image(4) == image(4));
        assert!(image(4) != image(5));
    }
}
