//! What a thread is to hold and what is to be done to it: fills its page.
//!
//! What the kernel promises of each way in (which registers a call gives results in, which it clears, which it keeps) is in
//! `plan/steps.rs`. All else must come back as it was.

use abi::{Call, DebugRegisters, UserContext, Watch, Width};

use crate::Code;
use crate::fpu::Layout;
use crate::page::{
    FLAGS, GENERAL, How, Page, STATES, STEPS, Step, address, bad, count, fresh, looks, reg,
};
use crate::random::Random;
use crate::segments::{Kit, Means, kit};

mod steps;

/// The step that ends a thread by an exit.
pub const END_EXIT: usize = STEPS - 6;
/// The step that ends it by an invalid instruction.
pub const END_INVALID: usize = STEPS - 5;
/// The step that ends it by a selector that SS may not have.
pub const END_STACK: usize = STEPS - 4;
/// The step that ends it by a port that it may not use.
pub const END_PORT: usize = STEPS - 3;
/// The step that ends it by its breakpoint.
pub const END_WATCHED: usize = STEPS - 2;
/// What its context was set to.
pub const BIRTH: usize = STEPS - 1;
/// Steps that it chooses from.
const USED: usize = END_EXIT;

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
    /// What nothing comes of.
    pub silence: Silence,
    /// The breakpoint that it will end by, and what that watches.
    pub watch: Option<(usize, Watch)>,
    /// 32-bit code: `__kernel_vsyscall`.
    pub vsyscall: u64,
    /// Its IPC area.
    pub area: u64,
}

/// Handles of things that a wait for ends only when its time is up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Silence {
    /// A notification that nobody signals.
    pub bell: u64,
    /// An endpoint, to receive from, that nobody sends to.
    pub ear: u64,
    /// An endpoint, to send to, that nobody receives from.
    pub deaf: u64,
}

/// What of a thread is not in its page but in the kernel.
#[derive(Clone, PartialEq, Debug)]
pub struct Birth {
    /// Registers to begin with; RIP and CS are its process's matter.
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
        page.fresh = fresh(body.index);
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
            self.stack(&mut step, &kit, random);
            page.steps[number] = step;
        }
        self.endings(page, random);
        for step in &mut page.steps[END_EXIT..BIRTH] {
            self.stack(step, &kit, random);
        }
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
        page.steps[END_STACK] = self.refused_stack(random);
        page.steps[END_WATCHED] = Self::blank(How::Watched, self.image(random), count::WATCHED);
    }

    fn birth(&self, page: &mut Page, kit: &Kit, random: &mut Random) -> Birth {
        let image = self.image(random);
        let mut step = Self::blank(How::Birth, image, count::ROUNDS);
        step.looks = looks::SLOTS;
        self.stack(&mut step, kit, random);
        page.steps[BIRTH] = step;
        let mut context = UserContext::default();
        put(&mut context, &image);
        context.ss = step.stack.load;
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
    let [general @ .., flags] = image;
    context.set_general(general);
    context.rflags = *flags;
}

/// The image in a context.
pub fn image_of(context: &UserContext) -> [u64; GENERAL] {
    let mut image = [context.rflags; GENERAL];
    image[..FLAGS].copy_from_slice(&context.general());
    image
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
        8 => "a touch of fresh pages",
        9 => "a load of SS",
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
        bad::STACK => "SS",
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
        after_interrupt: 0x180,
        after_yield: 0x200,
        port: 0x300,
        watched: 0x400,
        after_watched: 0x408,
        invalid: 0x500,
        stack: 0x600,
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
                silence: Silence {
                    bell: 10,
                    ear: 11,
                    deaf: 12,
                },
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
            for how in (1..=6).chain([8]) {
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
