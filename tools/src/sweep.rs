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

mod inject;
mod judge;
mod places;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

pub use self::inject::CONTAINED;
use self::places::{applies, ends, inside_nmi, leaves};
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

/// How long the machine may run without coming to an instruction that is waited for: so much of the host's CPU time, as a busy host gives it little in a
/// minute; and so long by the clock in any case, for a machine that sleeps, and for hosts that don't tell.
const QUIET: Duration = Duration::from_secs(15);
const QUIET_AT_MOST: Duration = Duration::from_mins(2);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

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
    processor_time: &'a dyn Fn() -> Option<Duration>,
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
    /// A sweep over what is `wanted` of `text` in a stopped machine, which tells how much of the host's time it has used.
    ///
    /// # Errors
    /// If the machine's memory can't be read, or holds no instructions there.
    pub fn new(
        gdb: &'a mut Gdb,
        qmp: &'a mut Qmp,
        processor_time: &'a dyn Fn() -> Option<Duration>,
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
            processor_time,
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
            match self.wait() {
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

    /// Waits until the machine stops; `false` if it was quiet for too long.
    fn wait(&mut self) -> Result<bool> {
        let (begun, used) = (Instant::now(), (self.processor_time)());
        loop {
            if self.gdb.wait(LOOK)? {
                return Ok(true);
            }
            let spent = (self.processor_time)()
                .zip(used)
                .map(|(now, before)| now.saturating_sub(before));
            if spent.is_some_and(|spent| spent >= QUIET) || begun.elapsed() >= QUIET_AT_MOST {
                return Ok(false);
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

    /// The next event that can be injected at an instruction as things stand. An NMI inside an NMI's code is held back, which is to be
    /// seen only where nothing else can be.
    fn possible(&self, address: u64) -> Option<Event> {
        let under_way = |event| self.pending.iter().any(|p| p.event == event);
        let held_back = self.inside_nmi.contains(&address);
        let todo = self.todo.get(&address)?;
        let free = todo.iter().copied().find(|event| !under_way(*event));
        free.or_else(|| (held_back && todo.contains(&Event::Nmi)).then_some(Event::Nmi))
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
