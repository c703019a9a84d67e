//! Damage on purpose: a thread that holds something else than it should, which the checks must notice and name.

use abi::segment::DataSegment;
use abi::{DebugRegisters, UserContext};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::fpu::Layout;
use crate::judge::{GENERAL32, general_name};
use crate::page::{FLAGS, Page, reg};
use crate::plan::{BIRTH, Birth, END_EXIT, END_PORT, END_STACK, END_WATCHED};
use crate::segments::{DATA, NO_PROBE};

/// What is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Damage {
    /// A bit of a general register or of the flags.
    General(usize, u32),
    /// DS, ES, FS or GS, by number.
    Selector(usize),
    /// The base of FS (2) or GS (3).
    Base(usize),
    /// The limit of a descriptor.
    Slot(usize),
    /// SS.
    Stack,
    /// The base of SS.
    StackBase,
    /// A bit of the first word of every fresh page.
    Fresh(u32),
    /// A notification that nobody signals is signalled.
    Bell,
    /// A wait ends although nobody is known to have ended it.
    Wait,
    /// SS is loaded with what it may have, where it should not be.
    StackTaken,
    /// A bit of a byte of the FPU area.
    Fpu(usize, u32),
    /// The breakpoint is not set.
    Breakpoint,
    /// A port is open that should not be.
    Port,
    /// It is kept on another CPU than it knows.
    Cpu,
}

/// What a life is called wrong by in which waits ended that nobody is known to have ended.
pub const CANCELLED: &str = "waits that nobody ended";

/// The slot that a thread has in any case if it has one.
const LAST_SLOT: u64 = abi::segment::TLS_FIRST_SELECTOR as u64 + 16;

impl Damage {
    /// All kinds that a machine can show.
    pub fn all(layout: &Layout, bits32: bool, cpus: u32) -> Vec<Damage> {
        let mut all = Vec::new();
        for register in 0..FLAGS {
            if !bits32 || GENERAL32.contains(&register) {
                all.push(Damage::General(register, 3 + register as u32));
            }
        }
        // Those that user code can set.
        all.extend([0, 2, 4, 6, 7, 10, 11, 14, 18, 21].map(|bit| Damage::General(FLAGS, bit)));
        all.extend([Damage::Stack, Damage::Fresh(5), Damage::Bell]);
        all.extend([Damage::Wait, Damage::StackTaken]);
        if bits32 {
            all.push(Damage::StackBase);
        }
        all.extend((0..4).map(Damage::Selector));
        all.extend([2, 3].map(Damage::Base));
        all.extend((0..3).map(Damage::Slot));
        let samples = layout.samples(bits32);
        all.extend(
            samples
                .into_iter()
                .map(|(byte, bit)| Damage::Fpu(byte, bit)),
        );
        all.extend([Damage::Breakpoint, Damage::Port]);
        if cpus > 1 {
            all.push(Damage::Cpu);
        }
        all
    }

    /// Whether the thread must be told to end before it can notice.
    pub fn ending(&self) -> Option<usize> {
        match self {
            Damage::Breakpoint => Some(END_WATCHED),
            Damage::Port => Some(END_PORT),
            Damage::StackTaken => Some(END_STACK),
            Damage::Wait => Some(END_EXIT),
            _ => None,
        }
    }

    /// What must be named, and which of its bits if that is certain.
    pub fn name(&self, layout: &Layout) -> (String, Option<u32>) {
        const SEGMENTS: [&str; 4] = ["ds", "es", "fs", "gs"];
        match self {
            Damage::General(register, bit) => (general_name(*register).to_string(), Some(*bit)),
            Damage::Selector(index) => (SEGMENTS[*index].to_string(), None),
            Damage::Base(index) => (SEGMENTS[*index].to_string() + " base", None),
            Damage::Slot(slot) => (alloc::format!("limit of slot {slot}"), None),
            Damage::Stack => ("ss".to_string(), None),
            Damage::StackBase => ("ss base".to_string(), Some(5)),
            Damage::Fresh(bit) => (general_name(reg::RCX).to_string(), Some(*bit)),
            Damage::Bell => (general_name(reg::RAX).to_string(), None),
            Damage::Wait => (CANCELLED.to_string(), None),
            Damage::StackTaken => (crate::plan::how_text(9).to_string(), None),
            Damage::Fpu(byte, bit) => {
                let (name, begin) = layout.register(*byte);
                (name, Some(8 * (byte - begin) as u32 + bit))
            }
            Damage::Breakpoint => (crate::plan::how_text(6).to_string(), None),
            Damage::Port => (crate::plan::how_text(4).to_string(), None),
            Damage::Cpu => ("CPU".to_string(), None),
        }
    }

    /// Does it, to a page that was filled and to the beginning that goes with it.
    pub fn apply(&self, page: &mut Page, birth: &mut Birth, bits32: bool) {
        match *self {
            Damage::General(register, bit) => {
                let used = page.steps_used as usize;
                for step in &mut page.steps[..used] {
                    let whole = 1 << bit & step.mask[register] != 0;
                    if whole
                        && step.load[register] == step.want[register]
                        && harmless(step.how, register)
                    {
                        step.load[register] ^= 1 << bit;
                    }
                }
            }
            Damage::Selector(index) => {
                keep_segments(page);
                // One is the user's data, the other code that can be read.
                page.segments_want[0].selectors[index] = 0x23;
                if bits32 {
                    let want = &mut page.segments_want[0];
                    (want.probe[index], want.words[index]) = (NO_PROBE, 0);
                }
                *selector(&mut birth.context, index) = 0x2B;
            }
            Damage::Base(index) => {
                keep_segments(page);
                let anchor = page.anchors[3];
                if bits32 {
                    let want = &mut page.segments_want[0];
                    want.selectors[index] = 0x23;
                    (want.probe[index], want.words[index]) = (anchor, anchor);
                    *selector(&mut birth.context, index) = 0x23;
                }
                // Near enough to be in the page still, where a look finds another word.
                let base = if bits32 {
                    0
                } else {
                    page.segments_want[0].words[index]
                };
                let place = if index == 2 {
                    &mut birth.context.fs_base
                } else {
                    &mut birth.context.gs_base
                };
                *place = base ^ 0x20;
            }
            Damage::Slot(slot) => {
                let descriptor = &mut birth.descriptors[slot];
                if *descriptor == 0 {
                    // Not a flat one, whose limit looks in 32 bits as if there were none.
                    let segment = DataSegment {
                        limit: 0x1000,
                        ..DataSegment::flat(0)
                    };
                    *descriptor = segment.descriptor();
                } else {
                    *descriptor ^= 4;
                }
            }
            Damage::Stack => {
                let own = birth.context.ss != DATA;
                birth.context.ss = if own { DATA } else { LAST_SLOT };
            }
            Damage::StackBase => page.steps[BIRTH].stack.word ^= 0x20,
            Damage::StackTaken => {
                let step = &mut page.steps[END_STACK];
                step.load[reg::RAX] = step.load[reg::RAX] & !0xFFFF | step.stack.load;
                step.want[reg::RAX] = step.load[reg::RAX];
            }
            // Done where the thread gets what it waits for, and its fresh pages, and is stopped.
            Damage::Fresh(_) | Damage::Bell | Damage::Wait => {}
            Damage::Fpu(byte, bit) => {
                for state in &mut page.fpu_load {
                    state.0[byte / 8] ^= 1 << (8 * (byte % 8) as u32 + bit);
                }
            }
            Damage::Breakpoint => birth.debug = DebugRegisters::default(),
            // The end uses the port that it was given.
            Damage::Port => {
                let rdx = &mut page.steps[END_PORT].load[reg::RDX];
                *rdx = *rdx & !0xFFFF | u64::from(crate::plan::PORT);
                page.steps[END_PORT].want[reg::RDX] = *rdx;
            }
            Damage::Cpu => page.pinned ^= 1,
        }
    }
}

/// The thread keeps the set that it begins with.
fn keep_segments(page: &mut Page) {
    for step in &mut page.steps {
        step.segments = 0;
    }
}

fn selector(context: &mut UserContext, index: usize) -> &mut u16 {
    match index {
        0 => &mut context.ds,
        1 => &mut context.es,
        2 => &mut context.fs,
        _ => &mut context.gs,
    }
}

/// Whether a register may be another one in such a step: what says what the step does must stay.
fn harmless(how: u64, register: usize) -> bool {
    use crate::page::How;
    let kept = how == How::Watched as u64 || how == How::Port as u64 || how == How::Spin as u64;
    match register {
        reg::RSP | reg::RBX | reg::RBP | FLAGS => how == How::Watched as u64,
        _ => kept && !(how == How::Port as u64 && register == reg::RDX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::{filled, layouts};

    #[test]
    fn damage_makes_what_is_loaded_differ_from_what_is_wanted() {
        for layout in layouts() {
            for bits32 in [false, true] {
                for damage in Damage::all(&layout, bits32, 2) {
                    for seed in 0..20 {
                        let (mut page, mut birth) = filled(&layout, bits32, seed);
                        let before = (page.fpu_want, birth.clone());
                        damage.apply(&mut page, &mut birth, bits32);
                        let used = page.steps_used as usize;
                        let made = match damage {
                            Damage::General(at, bit) => page.steps[..used].iter().any(|step| {
                                let differs = step.load[at] ^ step.want[at];
                                differs & step.mask[at] == 1 << bit
                            }),
                            Damage::Selector(index) => {
                                let loaded = u64::from(*selector(&mut birth.context, index));
                                loaded != page.segments_want[0].selectors[index]
                            }
                            Damage::Fpu(..) => page.fpu_load != page.fpu_want,
                            Damage::Base(_) | Damage::Slot(_) => birth != before.1,
                            // Seen by what happens only.
                            Damage::Breakpoint
                            | Damage::Port
                            | Damage::Cpu
                            | Damage::Fresh(_)
                            | Damage::Bell
                            | Damage::Wait => true,
                            Damage::Stack => birth.context.ss != page.steps[BIRTH].stack.want,
                            Damage::StackBase => {
                                let stack = page.steps[BIRTH].stack;
                                stack.word != stack.probe.wrapping_add(stack.base) & 0xFFFF_FFFF
                            }
                            Damage::StackTaken => {
                                page.steps[END_STACK].load[reg::RAX] & 0xFFFF
                                    == page.steps[END_STACK].stack.load
                            }
                        };
                        assert!(made, "{damage:?}, seed {seed}");
                        assert!(page.fpu_want == before.0);
                    }
                }
            }
        }
    }
}
