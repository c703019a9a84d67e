//! The torture itself: fills the machine, ends threads at random, makes others in their places, until enough was done.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use abi::info::CpuInfo;
use rt::{Priority, System, time};
use torture::options::Options;
use torture::page::count;
use torture::plan::Use;
use torture::random::Random;

use crate::life::{End, Held, Place};
use crate::shop::{Shape, Shop};

/// Places that the ended notification has bits for.
const MOST_PLACES: usize = 64;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(2);
/// How long all may take to end.
const LAST: Duration = Duration::from_secs(30);

/// Priorities: the tortured, those who wake above them, and the servers.
pub const LOW: u64 = 4;
const WAKERS: u64 = 6;

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Switches, as the kernel counts them.
    pub switches: u64,
    /// Changes of affinity.
    pub moves: u64,
    /// Single threads of a pair killed, and made anew in the same process.
    pub replaced: u64,
    /// What was done to threads while they were suspended.
    pub held: Held,
    /// Threads that came to another CPU, as the kernel counts them.
    pub migrations: u64,
    /// FPU states saved, restored and left where they were.
    pub saves: u64,
    /// See there.
    pub restores: u64,
    /// See there.
    pub skipped: u64,
    /// First uses of the FPU in a slice that trapped.
    pub traps: u64,
    /// Times that registers were cleared for a thread without a state.
    pub scrubs: u64,
    /// Lives begun.
    pub lives: u64,
    /// Lives that ended by each way: killed, exit, invalid instruction, port, breakpoint, load of SS.
    pub ends: [u64; 6],
    /// Sum of the threads' own counts.
    pub counts: [u64; count::ALL],
    /// Steps of 32-bit threads.
    pub rounds32: u64,
    /// The machine's time.
    pub took: Duration,
}

impl Tally {
    /// What was not done at all, of what must have been on such a machine.
    pub fn missing(&self, cpus: u32, eager: bool) -> Vec<&'static str> {
        let moves = cpus == 1 || self.counts[count::MIGRATED] > 0;
        [
            ("kills", self.ends[0] > 0),
            ("exits", self.ends[1] > 0),
            ("invalid instructions", self.ends[2] > 0),
            ("ports refused", self.ends[3] > 0),
            ("breakpoints hit", self.ends[4] > 0),
            ("loads of SS refused", self.ends[5] > 0),
            ("own stack segments", self.counts[count::STACKS] > 0),
            ("waits for nothing", self.counts[count::WAIT] > 0),
            ("waits ended", self.counts[count::CANCELLED] > 0),
            ("registers changed behind a wait", self.held.rewritten > 0),
            ("fresh pages touched", self.counts[count::TOUCH] > 0),
            ("fresh pages taken away", self.held.renewed > 0),
            ("lives made anew", self.lives > 2 * MOST_PLACES as u64),
            ("preemptions", self.counts[count::PREEMPTED] > 0),
            ("migrations", moves),
            ("threads moved", self.moves > 0),
            ("single threads killed", self.replaced > 0),
            ("threads suspended", self.held.suspended > 0),
            ("states taken out and put back", self.held.turned > 0),
            ("yields", self.counts[count::YIELDS] > 0),
            ("FPU states looked at", self.counts[count::FPU_LOOKS] > 0),
            ("FPU states changed", self.counts[count::FPU_LOADS] > 0),
            ("segments changed", self.counts[count::SEGMENT_LOADS] > 0),
            ("descriptors looked at", self.counts[count::SLOT_LOOKS] > 0),
            ("calls by int 0x80", self.counts[count::INTERRUPT] > 0),
            ("long calls", self.counts[count::LONG] > 0),
            ("sleeps", self.counts[count::SLEEP] > 0),
            ("messages", self.counts[count::MESSAGE] > 0),
            ("ports used", self.counts[count::PORT] > 0),
            ("loops", self.counts[count::SPIN] > 0),
            ("words watched by others", self.counts[count::WATCHED] > 0),
            ("32-bit steps", self.rounds32 > 0),
            ("FPU saves", self.saves > 0),
            ("FPU restores", self.restores > 0),
            // What the one way of loading is, and the other never does.
            ("FPU first uses trapped", eager || self.traps > 0),
            ("FPU loads skipped", eager || self.skipped > 0),
            ("FPU registers cleared", !eager || self.scrubs > 0),
            ("FPU registers left alone", eager || self.scrubs == 0),
        ]
        .into_iter()
        .filter_map(|(name, done)| (!done).then_some(name))
        .collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = &self.counts;
        let [killed, exits, invalid, ports, breakpoints, stacks] = self.ends;
        write!(
            f,
            "{} switches in {} ms; {} steps ({} of 32-bit code), {} yields, {} preemptions in loops; \
             {} moves, {} migrations ({} seen), {} suspended, {} states turned over; {} single threads killed; {} lives: {killed} killed, {exits} exits, {invalid} invalid instructions, {ports} ports refused, \
             {breakpoints} breakpoints hit, {stacks} loads of SS refused; ",
            self.switches,
            self.took.as_millis(),
            counts[count::ROUNDS],
            self.rounds32,
            counts[count::YIELDS],
            counts[count::PREEMPTED],
            self.moves,
            self.migrations,
            counts[count::MIGRATED],
            self.held.suspended,
            self.held.turned,
            self.replaced,
            self.lives,
        )?;
        write!(
            f,
            "{} short calls and yields in a row, {} by int 0x80, {} long, {} sleeps, {} messages, {} ports used, {} loops; \
             {} waits for nothing, {} waits ended, {} registers changed behind one; {} touches of fresh pages, {} taken away; {} own stack segments; ",
            counts[count::SHORT],
            counts[count::INTERRUPT],
            counts[count::LONG],
            counts[count::SLEEP],
            counts[count::MESSAGE],
            counts[count::PORT],
            counts[count::SPIN],
            counts[count::WAIT],
            counts[count::CANCELLED],
            self.held.rewritten,
            counts[count::TOUCH],
            self.held.renewed,
            counts[count::STACKS],
        )?;
        write!(
            f,
            "FPU: {} looks, {} loads, {} saves, {} restores, {} skipped, {} traps, {} scrubs; {} segment loads, {} looks at descriptors",
            counts[count::FPU_LOOKS],
            counts[count::FPU_LOADS],
            self.saves,
            self.restores,
            self.skipped,
            self.traps,
            self.scrubs,
            counts[count::SEGMENT_LOADS],
            counts[count::SLOT_LOOKS],
        )
    }
}

/// The machine, filled.
struct Crowd<'a> {
    shop: &'a Shop,
    system: &'a System,
    places: Vec<Place>,
    random: Random,
    tally: Tally,
    /// How often the machine was filled.
    epoch: u64,
    /// Counts of places that were given up, and their 32-bit steps.
    left: ([u64; count::ALL], u64),
    before: Vec<CpuInfo>,
    began: Duration,
}

/// Shapes of the places where registers are left alone: on each CPU some who use no FPU, and two threads for the whole machine that use
/// it wherever they go. So a state that stayed behind in a CPU is still there when its thread comes back from another.
fn few(cpus: u32) -> Vec<Shape> {
    let priority = |level| Priority::new(level).unwrap_or(Priority::LOWEST);
    let quiet = Shape {
        bits32: false,
        threads: 1,
        waker: false,
        pinned: None,
        priority: priority(LOW),
        fpu: Some(Use::Never),
    };
    let mut shapes = Vec::new();
    for cpu in 0..cpus.min(MOST_PLACES as u32 / 2 - 1) {
        let pinned = Some(cpu);
        shapes.push(Shape { pinned, ..quiet });
        shapes.push(Shape {
            pinned,
            waker: true,
            priority: priority(WAKERS),
            ..quiet
        });
    }
    for bits32 in [false, true] {
        shapes.push(Shape {
            bits32,
            fpu: Some(Use::Often),
            ..quiet
        });
    }
    shapes
}

/// Shapes of the places of a machine with so many CPUs: on each CPU a pair, a single one and a waker, which stay there; and as
/// many again that are moved about.
fn shapes(cpus: u32) -> Vec<Shape> {
    let priority = |level| Priority::new(level).unwrap_or(Priority::LOWEST);
    let tortured = Shape {
        bits32: false,
        threads: 1,
        waker: false,
        pinned: None,
        priority: priority(LOW),
        fpu: None,
    };
    let mut shapes = Vec::new();
    for cpu in 0..cpus {
        let here = Shape {
            pinned: Some(cpu),
            ..tortured
        };
        shapes.push(Shape { threads: 2, ..here });
        shapes.push(Shape {
            bits32: cpu % 2 == 0,
            ..here
        });
        shapes.push(Shape {
            waker: true,
            bits32: cpu % 2 == 1,
            priority: priority(WAKERS),
            ..here
        });
    }
    for number in 0..2 + 2 * cpus {
        shapes.push(Shape {
            bits32: number % 3 == 0,
            threads: if number % 3 == 1 { 2 } else { 1 },
            ..tortured
        });
    }
    shapes.truncate(MOST_PLACES);
    shapes
}

/// How many threads a machine with so many CPUs gets.
pub fn threads(cpus: u32) -> usize {
    shapes(cpus).iter().map(|shape| shape.threads).sum()
}

/// Tortures until enough was done. Returns what was, and the first wrong bit or what else went wrong.
pub fn torture(
    shop: &Shop,
    system: &System,
    options: &Options,
    random: Random,
) -> (Tally, Result<(), String>) {
    let mut crowd = Crowd {
        shop,
        system,
        places: Vec::new(),
        random,
        tally: Tally::default(),
        epoch: 0,
        left: ([0; count::ALL], 0),
        before: Vec::new(),
        began: time::now(),
    };
    let result = crowd.run(options);
    crowd.sum();
    (crowd.tally, result)
}

impl Crowd<'_> {
    fn run(&mut self, options: &Options) -> Result<(), String> {
        let kernel = |error| format!("{error}");
        self.before = self.system.cpus().map_err(kernel)?;
        self.fill(few(self.shop.cpus))?;
        // A few wander alone first; nothing but that is asked of them.
        self.act(options, options.switches / 16, false)?;
        self.finish()?;
        self.leave();
        self.fill(shapes(self.shop.cpus))?;
        self.act(options, options.switches, true)?;
        self.finish()?;
        self.shop.servers.check()
    }

    fn fill(&mut self, shapes: Vec<Shape>) -> Result<(), String> {
        self.epoch += 1;
        for (number, shape) in shapes.into_iter().enumerate() {
            let place = Place::new(number, shape).map_err(|error| format!("no place: {error}"))?;
            self.places.push(place);
            self.begin(number)?;
        }
        Ok(())
    }
    /// Disturbs until so many switches were made, and nothing is missing if `all` is wanted.
    fn act(&mut self, options: &Options, switches: u64, all: bool) -> Result<(), String> {
        let limit = Duration::from_secs(options.seconds);
        let mut looks = 0_u64;
        loop {
            let ended = match self.shop.ended.wait(time::after(PAUSE)) {
                Ok(bits) => bits,
                Err(rt::Error::TimedOut) => 0,
                Err(error) => return Err(format!("{error}")),
            };
            self.ends(ended)?;
            for number in 0..self.places.len() {
                if ended >> number & 1 != 0 {
                    self.begin(number)?;
                }
            }
            for _ in 0..2 {
                self.disturb().map_err(|error| format!("{error}"))?;
            }
            looks += 1;
            if !looks.is_multiple_of(16) {
                continue;
            }
            self.sum();
            let missing = self.tally.missing(self.shop.cpus, self.shop.eager);
            if self.tally.switches >= switches && (missing.is_empty() || !all) {
                return Ok(());
            }
            if self.tally.took > limit {
                return Err(format!(
                    "not done in {} s: {} switches of {switches}; missing: {missing:?}",
                    options.seconds, self.tally.switches
                ));
            }
        }
    }

    /// All places are given up; their counts stay.
    fn leave(&mut self) {
        for place in self.places.drain(..) {
            for (sum, count) in self.left.0.iter_mut().zip(place.counts) {
                *sum += count;
            }
            if place.is_32_bit() {
                self.left.1 += place.counts[count::ROUNDS];
            }
        }
    }

    fn begin(&mut self, number: usize) -> Result<(), String> {
        self.tally.lives += 1;
        // A stream of its own for each life, whatever the order in which the threads end.
        let place = &mut self.places[number];
        let mut random = self
            .random
            .branch(self.epoch << 48 | (number as u64) << 32 | place.lives);
        place.begin(self.shop, &mut random, None)
    }

    /// Judges those whose bits are set.
    fn ends(&mut self, ended: u64) -> Result<(), String> {
        for number in 0..self.places.len() {
            if ended >> number & 1 == 0 {
                continue;
            }
            let end = self.places[number]
                .end(self.shop)
                .map_err(|fault| fault.text)?;
            let place = match end {
                End::Killed => 0,
                End::Exit => 1,
                End::Invalid => 2,
                End::Port => 3,
                End::Breakpoint => 4,
                End::Stack => 5,
            };
            self.tally.ends[place] += 1;
        }
        Ok(())
    }

    /// Does something to one of them: moves it, suspends it, or decides its end.
    fn disturb(&mut self) -> rt::Result<()> {
        let number = self.random.below(self.places.len() as u64) as usize;
        let (place, random) = (&mut self.places[number], &mut self.random);
        if !place.is_open() {
            return Ok(());
        }
        match random.below(8) {
            0 => place.kill(),
            1 => place.tell(random, None),
            2 => self.tally.replaced += u64::from(place.replace(self.shop, random)?),
            3..5 => self.tally.moves += u64::from(place.move_about(self.shop, random)?),
            _ => self.tally.held += place.hold(self.shop, random)?,
        }
        Ok(())
    }

    /// Has all end as they are told, and judges them.
    fn finish(&mut self) -> Result<(), String> {
        for place in &mut self.places {
            if place.is_open() {
                place.tell(&mut self.random, None);
            }
        }
        let until = time::after(LAST);
        let mut left = u64::MAX >> (64 - self.places.len());
        while left != 0 {
            let ended = self
                .shop
                .ended
                .wait(until)
                .map_err(|error| format!("places {left:#x} do not end: {error}"))?;
            self.ends(ended)?;
            left &= !ended;
        }
        Ok(())
    }

    /// Brings the sums up to date.
    fn sum(&mut self) {
        self.tally.took = time::now().saturating_sub(self.began);
        (self.tally.counts, self.tally.rounds32) = self.left;
        for place in &self.places {
            for (sum, count) in self.tally.counts.iter_mut().zip(place.counts) {
                *sum += count;
            }
            if place.is_32_bit() {
                self.tally.rounds32 += place.counts[count::ROUNDS];
            }
        }
        // Without an answer the last sums stand.
        let Ok(now) = self.system.cpus() else { return };
        let since = |count: fn(&CpuInfo) -> u64| {
            let sum = |cpus: &[CpuInfo]| cpus.iter().map(count).sum::<u64>();
            sum(&now) - sum(&self.before)
        };
        self.tally.switches = since(|cpu| cpu.switches);
        self.tally.migrations = since(|cpu| cpu.migrations_in);
        self.tally.saves = since(|cpu| cpu.fpu.saves);
        self.tally.restores = since(|cpu| cpu.fpu.restores);
        self.tally.skipped = since(|cpu| cpu.fpu.skipped);
        self.tally.traps = since(|cpu| cpu.fpu.traps);
        self.tally.scrubs = since(|cpu| cpu.fpu.scrubs);
    }
}
