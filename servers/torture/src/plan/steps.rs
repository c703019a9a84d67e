//! The kinds of steps: what is loaded before each, and what the kernel promises of the registers after it.

use abi::compat::BLOCK_FORM;
use abi::{Call, Error, Tag};

use super::{FIXED_FLAGS, NESTED, PORT, Planner, USER_FLAGS, Use};
use crate::page::{FLAGS, GENERAL, How, Page, SETS, STATES, Step, count, looks, reg};
use crate::random::Random;

impl Planner<'_> {
    pub(super) fn blank(how: How, load: [u64; GENERAL], counter: usize) -> Step {
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
    pub(super) fn step(&self, number: usize, page: &Page, random: &mut Random) -> Step {
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
    pub(super) fn waking(&self, number: usize, random: &mut Random) -> Step {
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
    pub(super) fn adorn(&self, step: &mut Step, changes: bool, random: &mut Random) {
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

    pub(super) fn call(&self, how: How, number: u64, status: u64, random: &mut Random) -> Step {
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

    pub(super) fn port(&self, port: u16, random: &mut Random) -> Step {
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
}
