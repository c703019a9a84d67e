//! The kinds of steps: what is loaded before each, and what the kernel promises of the registers after it.

use abi::compat::BLOCK_FORM;
use abi::{Call, Error, Tag};

use super::{FIXED_FLAGS, NESTED, PORT, Planner, USER_FLAGS, Use};
use crate::page::{FLAGS, GENERAL, How, Page, SETS, STATES, Stack, Step, count, looks, reg};
use crate::random::Random;
use crate::segments::{DATA, Kit};

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
            stack: Stack::ZERO,
            waits: 0,
            handle: 0,
            load,
            want: load,
            cancelled: load,
            mask: [u64::MAX; GENERAL],
        }
    }

    /// One of all kinds of steps. The first few numbers have a kind of their own, so that none is missing.
    pub(super) fn step(&self, number: usize, page: &Page, random: &mut Random) -> Step {
        let body = &self.body;
        let choice = if number < 11 {
            number as u64
        } else {
            random.below(18)
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
            7 | 13 => self.short(How::Call, random),
            8 | 11 => self.touch(random),
            9 => self.wait(Call::Wait, random),
            12 => {
                let call = random.pick(&[Call::Wait, Call::Recv, Call::Call, Call::Send]);
                self.wait(call, random)
            }
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

    /// Chooses SS.
    pub(super) fn stack(&self, step: &mut Step, kit: &Kit, random: &mut Random) {
        let called = step.how == How::Call as u64;
        // 32-bit code is called there, and elsewhere writes what others watch: both at an address that is known.
        let flat = self.body.bits32 && (called || step.how == How::Watched as u64);
        step.stack = kit.stacks.flat;
        if !flat && random.one_in(2) {
            step.stack = random.pick(&kit.stacks.own);
        }
        // `syscall` and the ways back from it load SS.
        if !self.body.bits32 && (called || step.how == How::Yields as u64) {
            step.stack.want = DATA;
        }
    }

    /// What the registers are after a wait that somebody ended.
    fn cancellable(step: &mut Step) {
        step.waits = 1;
        step.cancelled = step.load;
        step.cancelled[reg::RAX] = Error::Cancelled as u64;
        for register in [reg::RCX, reg::R11] {
            step.cancelled[register] = step.want[register];
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
                Call::HandleQuery as u64,
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
        let mut step = self.call(how, self.blocking(Call::Sleep), 0, random);
        if self.body.bits32 {
            step.delay = 1;
        } else {
            (step.load[reg::R14], step.want[reg::R14]) = (1, 1);
        }
        step
    }

    /// The number of a call with a deadline.
    fn blocking(&self, call: Call) -> u64 {
        let number = call as u64;
        if self.body.bits32 {
            number | u64::from(BLOCK_FORM)
        } else {
            number
        }
    }

    fn sleep(&self, random: &mut Random) -> Step {
        let how = random.pick(&[How::Call, How::Call, How::Interrupt]);
        let mut step = self.call(how, self.blocking(Call::Sleep), 0, random);
        step.delay = 10_000 + random.below(150_000);
        step.counter = count::SLEEP as u64;
        Self::cancellable(&mut step);
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
        Self::cancellable(&mut step);
        step
    }

    /// A wait for what does not come: for a notification, a message, a receiver, a receiver that would answer.
    fn wait(&self, call: Call, random: &mut Random) -> Step {
        let silence = &self.body.silence;
        let handle = match call {
            Call::Wait => silence.bell,
            Call::Recv => silence.ear,
            _ => silence.deaf,
        };
        let how = random.pick(&[How::Call, How::Interrupt]);
        let number = self.blocking(call);
        let mut step = self.call(how, number, Error::TimedOut as u64, random);
        if self.body.bits32 {
            step.handle = handle;
        } else {
            let label = Tag::new(random.word() as u32).0;
            for (register, value) in [(reg::RDI, handle), (reg::RSI, label), (reg::R15, 0)] {
                (step.load[register], step.want[register]) = (value, value);
            }
        }
        step.delay = 10_000 + random.below(150_000);
        step.counter = count::WAIT as u64;
        Self::cancellable(&mut step);
        step
    }

    /// Two fresh pages: zeros are read from one, and what is written to each is read again.
    fn touch(&self, random: &mut Random) -> Step {
        let mut step = Self::blank(How::Touch, self.image(random), count::TOUCH);
        step.want[reg::RCX] = 0;
        step.want[reg::RDX] = step.load[reg::RAX];
        step
    }

    /// A load of SS with a selector that it may not have: null ones, code, what is read-only, the kernel's, a privilege level that
    /// is not this code's (Intel SDM vol. 2B, MOV).
    pub(super) fn refused_stack(&self, random: &mut Random) -> Step {
        let bad = random.pick(&[0, 3, 0x2B, 0x1B, 0x5B, 0x10, 0x13, DATA & !3]);
        let mut step = Self::blank(How::Stack, self.image(random), count::ROUNDS);
        let rax = step.load[reg::RAX] & !0xFFFF | bad;
        (step.load[reg::RAX], step.want[reg::RAX]) = (rax, rax);
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
        step.repeat = 64 + random.below(256);
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
