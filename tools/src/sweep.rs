//! Events injected before each instruction of the kernel's entries and exits, by a debugger.
//!
//! The machine stops before every instruction of the entry section. There each event is injected in turn, and the machine goes on;
//! when it comes back to the same instruction (for #DB: to the next one) every register, both GS bases and CR3 must be what
//! they were. On the way there lie the instructions of the event's own entry, at which the same is done: so events come
//! inside events, as deep as hardware allows.
//!
//! | event | injected by | must |
//! |---|---|---|
//! | NMI | QMP | come back to the instruction; inside an NMI's code it is held back until its `iretq` |
//! | #MC | QEMU's `mce`, with a contained error | come back to the instruction |
//! | #DF | a wild RIP and no stack, undone afterwards | reach its handler with the kernel's GS base |
//! | #DB | TF | come back behind the instruction, with TF clear |
//!
//! An instruction that leaves the kernel is stepped over, and NMI, #MC and #DF (for want of a stack for a page fault) are injected into the
//! user code behind it too.
//!
//! One event can't come inside another of its kind, by hardware's rules: a #MC inside a #MC shuts the machine down, #DB is delivered
//! with TF clear, and a #DF inside #DF is a triple fault. An NMI inside an NMI is the one that is held back.

mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use iced_x86::Register;
use serde_json::json;

use self::places::{applies, counter, ends, inside_nmi, leaves};
use crate::entry_text::{EntryText, Place, STUBS};
use crate::gdb::{Gdb, Registers};
use crate::qmp::Qmp;

/// What is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A non-maskable interrupt.
    Nmi,
    /// A machine check about a contained error.
    MachineCheck,
    /// A double fault.
    DoubleFault,
    /// A debug exception by TF.
    Debug,
}

const ALL: [Event; 4] = [
    Event::Nmi,
    Event::MachineCheck,
    Event::DoubleFault,
    Event::Debug,
];

/// RFLAGS.TF and RFLAGS.RF. The second is the CPU's own affair when an exception returns.
const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;

/// A bank's status that says: valid, uncorrected, enabled, with address and more, signalled, and nothing corrupt (Intel SDM vol. 3B
/// §16.3.2.2); and the global status: RIP is valid, a machine check is in progress.
pub const CONTAINED: &str = "mce 0 1 0xbd00000000000000 0x5 0x1000 0x8c";

/// Where nothing is mapped, for RIP, and for RSP.
const WILD_RIP: u64 = 0x10;
const NO_STACK: u64 = 0;

/// Offset of RSP0 in a TSS (Intel SDM vol. 3A §8.7).
const RSP0: u64 = 4;

/// Offset of the vector and of RIP in the frame that handlers get (`abi::UserContext`).
const VECTOR: u64 = 168;
const DOUBLE_FAULT: u64 = 8;

/// How long the machine may run without coming to an instruction that is waited for.
const QUIET: Duration = Duration::from_secs(20);

/// An event that was injected and has not come back yet.
struct Pending {
    event: Event,
    /// Where it was injected.
    place: String,
    /// Where it comes back, and what the registers are then.
    want: Registers,
    /// The registers to go on with, for a double fault.
    before: Registers,
    /// Whether the breakpoint there is for this alone.
    own_breakpoint: bool,
}

/// What became of a sweep.
#[derive(Debug, Default)]
pub struct Report {
    /// Instructions at which something was to be done.
    pub wanted: usize,
    /// Instructions before which the machine was stopped.
    pub stopped: usize,
    /// Events injected, by kind in the order of [`Event`].
    pub injected: [usize; 4],
    /// NMIs that were held back.
    pub held_back: usize,
    /// What went wrong.
    pub problems: Vec<String>,
    /// Where not everything was done, by address.
    pub left: BTreeMap<u64, Left>,
    /// All instructions, by address.
    pub places: BTreeMap<u64, Place>,
}

/// What was not done at an instruction.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// Whether the machine never came to it.
    pub never: bool,
    /// Events that were not injected there.
    pub events: BTreeSet<Event>,
}

/// One sweep.
pub struct Sweep<'a> {
    gdb: &'a mut Gdb,
    qmp: &'a mut Qmp,
    places: BTreeMap<u64, Place>,
    todo: BTreeMap<u64, BTreeSet<Event>>,
    armed: BTreeSet<u64>,
    stopped: BTreeSet<u64>,
    /// Exits behind which user code was not yet interrupted.
    exits: BTreeMap<u64, Vec<Event>>,
    pending: Vec<Pending>,
    double_fault_handler: u64,
    /// Instructions that are executed inside an NMI's code only.
    inside_nmi: BTreeSet<u64>,
    /// Instructions at which something waits for the end of the event with this index among those under way.
    asleep: Vec<(usize, u64)>,
    /// Where RSP0 was overwritten, and what was there.
    taken_stack: Option<(u64, u64)>,
    report: Report,
}

impl<'a> Sweep<'a> {
    /// A sweep over what is `wanted` of `text` in a stopped machine.
    ///
    /// # Errors
    /// If the machine's memory can't be read, or holds no instructions there.
    pub fn new(
        gdb: &'a mut Gdb,
        qmp: &'a mut Qmp,
        text: &EntryText,
        wanted: impl Fn(&Place) -> bool,
    ) -> Result<Self> {
        let range = text.range();
        let bytes = gdb.read(range.start, (range.end - range.start) as usize)?;
        let places: BTreeMap<u64, Place> = text
            .places(&bytes)?
            .into_iter()
            .map(|place| (place.address, place))
            .collect();
        let todo: BTreeMap<u64, BTreeSet<Event>> = places
            .values()
            .filter(|place| wanted(place))
            .map(|place| {
                let events = ALL.into_iter().filter(|e| applies(*e, place)).collect();
                (place.address, events)
            })
            .collect();
        let exits = places
            .values()
            .filter(|place| leaves(place) && todo.contains_key(&place.address))
            .map(|place| {
                let events = vec![Event::DoubleFault, Event::MachineCheck, Event::Nmi];
                (place.address, events)
            })
            .collect();
        let mut sweep = Self {
            gdb,
            qmp,
            armed: BTreeSet::new(),
            stopped: BTreeSet::new(),
            exits,
            pending: Vec::new(),
            asleep: Vec::new(),
            taken_stack: None,
            double_fault_handler: text.symbol("switchyard_double_fault")?,
            inside_nmi: inside_nmi(places.values()),
            report: Report {
                wanted: todo.len(),
                ..Report::default()
            },
            todo,
            places,
        };
        // Each breakpoint slows the machine down, so of the vectors' stubs the first instructions must do until one is used.
        let mut before_stub = true;
        let mut addresses = Vec::new();
        for place in sweep.places.values() {
            if !sweep.todo.contains_key(&place.address) {
                continue;
            }
            let stub = place.routine == STUBS;
            if !stub || before_stub {
                addresses.push(place.address);
            }
            before_stub = !stub || ends(place);
        }
        for address in addresses {
            sweep.arm(address)?;
        }
        Ok(sweep)
    }

    /// Goes on until everything was done, or the machine has not come to anything new for a while, or time is up. The machine is
    /// left stopped, without breakpoints.
    ///
    /// # Errors
    /// If the machine ends.
    pub fn run(mut self, limit: Duration) -> Result<Report> {
        let deadline = Instant::now() + limit;
        // A failure in the middle must still tell what was seen before it.
        if let Err(error) = self.go(deadline) {
            self.report.problems.push(format!("{error:#}"));
            for pending in self.pending.iter().rev() {
                self.report.problems.push(format!(
                    "on the way back from {:?} at {}",
                    pending.event, pending.place
                ));
            }
        } else {
            let armed: Vec<u64> = self.armed.iter().copied().collect();
            for address in armed {
                self.disarm(address)?;
            }
        }
        for (address, events) in &self.todo {
            let never = !self.stopped.contains(address);
            if never || !events.is_empty() {
                let events = events.clone();
                self.report.left.insert(*address, Left { never, events });
            }
        }
        self.report.places = self.places;
        Ok(self.report)
    }

    fn go(&mut self, deadline: Instant) -> Result<()> {
        loop {
            let open = self.todo.values().any(|events| !events.is_empty());
            if self.pending.is_empty() && (!open || Instant::now() >= deadline) {
                return Ok(());
            }
            self.gdb.resume()?;
            match self.gdb.wait(QUIET) {
                Ok(true) => self.stop()?,
                // The test inside has come to its end: it knows what it thought of that.
                Err(_) if self.pending.is_empty() => {
                    self.armed.clear();
                    return Ok(());
                }
                Err(error) => return Err(error),
                Ok(false) => {
                    self.gdb.interrupt()?;
                    ensure!(
                        self.pending.is_empty(),
                        "the machine did not come back to where it was"
                    );
                    return Ok(());
                }
            }
        }
    }

    /// The machine has stopped before some instruction: does what is to be done there.
    fn stop(&mut self) -> Result<()> {
        let mut registers = self.gdb.registers()?;
        // A trap behind the last instruction of an event's own code comes back to where that event does.
        while let Some(now) = self.come_back(&registers)? {
            registers = now;
        }
        let address = registers.get("rip");
        let Some(place) = self.places.get(&address).cloned() else {
            // A place of an event's own, which has come back.
            return Ok(());
        };
        if self.stopped.insert(address) {
            self.report.stopped += 1;
            let next = place.instruction.next_ip();
            if place.routine == STUBS && !ends(&place) && !self.stopped.contains(&next) {
                self.arm(next)?;
            }
        }
        match self.possible(address) {
            Some(event) => self.inject(event, &place, &registers),
            None => self.pass(address),
        }
    }

    /// If this is where the last event comes back, sees whether all is as it was, and returns the registers to go on with.
    fn come_back(&mut self, registers: &Registers) -> Result<Option<Registers>> {
        let Some(last) = self.pending.last() else {
            return Ok(None);
        };
        let same_place = registers.get("rip") == last.want.get("rip");
        if last.event == Event::DoubleFault {
            if !same_place {
                return Ok(None);
            }
            let problems = self.double_fault_problems(registers)?;
            let Some(last) = self.pop()? else {
                return Ok(None);
            };
            for problem in problems {
                self.problem(&last, &problem);
            }
            self.disarm(self.double_fault_handler)?;
            if let Some((field, stack)) = self.taken_stack.take() {
                self.gdb.set_word(field, stack)?;
            }
            self.gdb.set_registers(&last.before)?;
            let now = self.gdb.registers()?;
            ensure!(
                now == last.before,
                "the debugger did not put all registers back: {:?}",
                last.before.differences(&now, &[])
            );
            return Ok(Some(now));
        }
        if !same_place || registers.get("rsp") != last.want.get("rsp") {
            return Ok(None);
        }
        let Some(last) = self.pop()? else {
            return Ok(None);
        };
        let mut apart = vec!["rflags", "cr2"];
        if last.want.get("cs") & 3 == 3 {
            // An interrupt that waited may have had another thread run: the FPU's registers are not there then.
            apart.push("cr0");
        }
        let mut differences = last.want.differences(registers, &apart);
        let flags = registers.get("rflags") & !RF;
        if flags != last.want.get("rflags") & !RF {
            differences.push(format!(
                "rflags {:#x} became {flags:#x}",
                last.want.get("rflags")
            ));
        }
        if !differences.is_empty() {
            self.problem(&last, &differences.join(", "));
        }
        if last.own_breakpoint {
            self.disarm(registers.get("rip"))?;
        }
        // Behind a #DB the instruction that it was injected at has no breakpoint any more.
        let origin = last.before.get("rip");
        if self.todo.get(&origin).is_some_and(|t| !t.is_empty()) {
            self.arm(origin)?;
        }
        Ok(Some(registers.clone()))
    }

    fn problem(&mut self, event: &Pending, what: &str) {
        self.report
            .problems
            .push(format!("{:?} at {}: {what}", event.event, event.place));
    }

    /// What is wrong when a double fault has reached its handler.
    fn double_fault_problems(&mut self, registers: &Registers) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        let base = registers.get("gs_base");
        match self.gdb.word(base) {
            Ok(itself) if itself == base => {}
            _ => problems.push(format!(
                "the handler's GS base is {base:#x}, not the kernel's"
            )),
        }
        let vector = self.gdb.word(registers.get("rdi") + VECTOR)?;
        if vector != DOUBLE_FAULT {
            problems.push(format!("the handler's frame says vector {vector}"));
        }
        Ok(problems)
    }

    /// The next event that can be injected at an instruction as things stand. An NMI inside an NMI's code is held back, which is to be
    /// seen only where nothing else can be.
    fn possible(&self, address: u64) -> Option<Event> {
        let under_way = |event| self.pending.iter().any(|p| p.event == event);
        let held_back = self.inside_nmi.contains(&address);
        let todo = self.todo.get(&address)?;
        let free = todo.iter().copied().find(|event| !under_way(*event));
        free.or_else(|| (held_back && todo.contains(&Event::Nmi)).then_some(Event::Nmi))
    }

    fn inject(&mut self, event: Event, place: &Place, registers: &Registers) -> Result<()> {
        if let Some(events) = self.todo.get_mut(&place.address) {
            events.remove(&event);
        }
        self.report.injected[event as usize] += 1;
        // It may have been disarmed as the place of another event that came back here.
        self.arm(place.address)?;
        match event {
            Event::Nmi => {
                self.qmp.command("inject-nmi", &json!({}))?;
                if self.pending.iter().any(|p| p.event == Event::Nmi) {
                    self.report.held_back += 1;
                    return Ok(());
                }
                self.expect(event, place.text(), registers.clone(), registers, false);
                Ok(())
            }
            Event::MachineCheck => {
                self.machine_check()?;
                self.expect(event, place.text(), registers.clone(), registers, false);
                Ok(())
            }
            Event::DoubleFault => self.double_fault(place, registers),
            Event::Debug => self.debug(place, registers),
        }
    }

    fn machine_check(&mut self) -> Result<()> {
        let said = self.qmp.monitor(CONTAINED)?;
        ensure!(said.trim().is_empty(), "QEMU's mce says: {said}");
        Ok(())
    }

    fn double_fault(&mut self, place: &Place, registers: &Registers) -> Result<()> {
        let mut wild = registers.clone();
        wild.set("rip", WILD_RIP);
        wild.set("rsp", NO_STACK);
        self.gdb.set_registers(&wild)?;
        let mut want = registers.clone();
        want.set("rip", self.double_fault_handler);
        self.arm(self.double_fault_handler)?;
        self.expect(Event::DoubleFault, place.text(), want, registers, true);
        Ok(())
    }

    /// No stack for the kernel when user code faults.
    fn double_fault_of_user_code(&mut self, place: String, registers: &Registers) -> Result<()> {
        self.report.injected[Event::DoubleFault as usize] += 1;
        let said = self.qmp.monitor("info registers")?;
        let segment = said.lines().find_map(|line| line.strip_prefix("TR ="));
        let base = segment.and_then(|rest| rest.split_whitespace().nth(1));
        let base = base.and_then(|base| u64::from_str_radix(base, 16).ok());
        let field = base.context("QEMU does not tell TR")? + RSP0;
        let stack = self.gdb.word(field)?;
        self.gdb.set_word(field, NO_STACK)?;
        let mut wild = registers.clone();
        wild.set("rip", WILD_RIP);
        self.gdb.set_registers(&wild)?;
        let mut want = registers.clone();
        want.set("rip", self.double_fault_handler);
        self.arm(self.double_fault_handler)?;
        self.expect(Event::DoubleFault, place, want, registers, true);
        self.taken_stack = Some((field, stack));
        Ok(())
    }

    /// Sees first where the instruction leads by itself, then carries it out again under TF.
    fn debug(&mut self, place: &Place, registers: &Registers) -> Result<()> {
        self.disarm(place.address)?;
        // What it counts in memory it would count twice.
        let counter = counter(place, registers);
        let count = counter.map(|at| self.gdb.word(at)).transpose()?;
        self.gdb.step()?;
        if place.instruction.op0_register() == Register::SS {
            // The trap comes behind the next instruction (Intel SDM vol. 3A §6.8.3).
            self.gdb.step()?;
        }
        let behind = self.gdb.registers()?;
        if let (Some(at), Some(count)) = (counter, count) {
            self.gdb.set_word(at, count)?;
        }
        let mut stepping = registers.clone();
        stepping.set("rflags", registers.get("rflags") | TF);
        self.gdb.set_registers(&stepping)?;
        let next = behind.get("rip");
        let own = !self.armed.contains(&next);
        if own {
            self.arm(next)?;
        }
        self.expect(Event::Debug, place.text(), behind, registers, own);
        Ok(())
    }

    fn expect(
        &mut self,
        event: Event,
        place: String,
        want: Registers,
        before: &Registers,
        own_breakpoint: bool,
    ) {
        self.pending.push(Pending {
            event,
            place,
            want,
            before: before.clone(),
            own_breakpoint,
        });
    }

    /// Nothing (more) can be injected here now: the machine shall go on. What is left waits for the end of the event under way that it
    /// can't be injected in; till then the machine does not stop here any more.
    fn pass(&mut self, address: u64) -> Result<()> {
        self.disarm(address)?;
        let behind = if self.pending.is_empty() && self.exits.contains_key(&address) {
            self.gdb.step()?;
            Some(self.gdb.registers()?)
        } else {
            None
        };
        if let Some(behind) = behind.filter(|b| b.get("cs") & 3 == 3) {
            self.interrupt_user_code(address, &behind)?;
        }
        let events = self.todo.get(&address).into_iter().flatten();
        let last_of = |event: Event| self.pending.iter().rposition(|p| p.event == event);
        let blocker = events.filter_map(|e| last_of(*e)).max();
        let waiting_exit = self.exits.contains_key(&address);
        match blocker.or((waiting_exit && !self.pending.is_empty()).then_some(0)) {
            Some(index) => self.asleep.push((index, address)),
            None if waiting_exit => self.arm(address)?,
            None => {}
        }
        Ok(())
    }

    /// Takes the last event off, and has the machine stop again where something waited for its end.
    fn pop(&mut self) -> Result<Option<Pending>> {
        let last = self.pending.pop();
        let index = self.pending.len();
        let (awake, asleep) = self.asleep.drain(..).partition(|(i, _)| *i >= index);
        self.asleep = asleep;
        let awake: Vec<(usize, u64)> = awake;
        for (_, address) in awake {
            self.arm(address)?;
        }
        Ok(last)
    }

    /// In user code, right behind an exit: injects one of the events that are left for it.
    fn interrupt_user_code(&mut self, exit: u64, registers: &Registers) -> Result<()> {
        if !self.pending.is_empty() {
            return Ok(());
        }
        let Some(events) = self.exits.get_mut(&exit) else {
            return Ok(());
        };
        let event = events.pop();
        if events.is_empty() {
            self.exits.remove(&exit);
        }
        let text = format!("user code behind {}", self.places[&exit].text());
        match event {
            Some(Event::Nmi) => {
                self.qmp.command("inject-nmi", &json!({}))?;
            }
            Some(Event::MachineCheck) => self.machine_check()?,
            Some(Event::DoubleFault) => return self.double_fault_of_user_code(text, registers),
            _ => return Ok(()),
        }
        let event = event.context("an event was taken")?;
        self.report.injected[event as usize] += 1;
        let address = registers.get("rip");
        self.arm(address)?;
        self.expect(event, text, registers.clone(), registers, true);
        Ok(())
    }

    fn arm(&mut self, address: u64) -> Result<()> {
        if self.armed.insert(address) {
            self.gdb.set_breakpoint(address)?;
        }
        Ok(())
    }

    fn disarm(&mut self, address: u64) -> Result<()> {
        if self.armed.remove(&address) {
            self.gdb.clear_breakpoint(address)?;
        }
        Ok(())
    }
}
