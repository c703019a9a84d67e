//! Measuring the time-stamp counter and the local APIC's timer against a clock of known frequency.
//!
//! A window of ten milliseconds is measured at least twice, until two in a row agree: an emulator or hypervisor may stop
//! this CPU anywhere, and a window in which that happened is long by chance. Both ends of a window are sampled several
//! times and the sample that took the shortest is kept, which says best at which tick the clock was read.
//!
//! A clock may stand still, be absent (it reads as all ones for ever), or jump. The first two are noticed after ten
//! thousand readings without a change, the third by windows that don't agree; and a bound on readings and on ticks of
//! the time-stamp counter ends every wait.
//!
//! The hardware is behind two traits, so all of this is tested on the host against clocks that misbehave.

use core::fmt;

use super::scale::NS_PER_SECOND;

/// Length of a window.
const WINDOW_NS: u64 = 10_000_000;
/// Windows measured before the clock is called unsteady.
const MOST_WINDOWS: u32 = 8;
/// Two windows agree if they differ by less than one part in this.
const AGREEMENT: u64 = 500;
/// Samples at each end of a window.
const SAMPLES: u32 = 8;
/// Readings without a change after which a clock is taken to stand still.
const STILL_READINGS: u32 = 10_000;
/// Readings after which a window is given up.
const MOST_READINGS: u32 = 20_000_000;
/// Ticks of the time-stamp counter after which a window is given up: some seconds.
const MOST_TICKS: u64 = 1 << 34;
/// Frequencies of time-stamp counters that are believed.
pub const PLAUSIBLE_TSC_HZ: core::ops::RangeInclusive<u64> = 10_000_000..=100_000_000_000;

/// A clock of known frequency, that counts up.
pub trait Reference {
    /// Its counter's value; only the low [`bits`](Reference::bits) count.
    fn read(&mut self) -> u32;
    /// Width of the counter, 1 to 32. It must not wrap within a window.
    fn bits(&self) -> u32;
    /// Its frequency as a fraction: ticks, and the seconds they take.
    fn frequency(&self) -> (u64, u64);
}

/// The clocks that are measured.
pub trait Measured {
    /// The time-stamp counter.
    fn tsc(&mut self) -> u64;
    /// The local APIC timer's count, on its way down from the largest 32-bit number.
    fn apic_left(&mut self) -> u32;
}

/// Why a reference can't be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CalibrationError {
    /// The machine has no clock to measure against.
    NoReference,
    /// The clock stands still, or nothing is there.
    StandsStill,
    /// A window did not end within its bound.
    TooSlow,
    /// No two windows agreed.
    Unsteady,
    /// The time-stamp counter's frequency came out as this.
    Implausible(u64),
    /// The local APIC's timer does not count.
    ApicTimerStandsStill,
}

impl fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoReference => f.write_str("no clock to calibrate against"),
            Self::StandsStill => f.write_str("the reference clock stands still"),
            Self::TooSlow => f.write_str("the reference clock is too slow"),
            Self::Unsteady => f.write_str("the reference clock gives no two like results"),
            Self::Implausible(hz) => write!(f, "the time-stamp counter seems to run at {hz} Hz"),
            Self::ApicTimerStandsStill => f.write_str("the local APIC timer stands still"),
        }
    }
}

impl core::error::Error for CalibrationError {}

/// Frequencies in ticks a second.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frequencies {
    /// Of the time-stamp counter.
    pub tsc_hz: u64,
    /// Of the local APIC's timer, undivided; 0 if it stands still.
    pub apic_hz: u64,
}

/// All clocks at one moment.
#[derive(Clone, Copy)]
struct Sample {
    tsc: u64,
    apic_left: u32,
    reference: u32,
}

fn sample(reference: &mut dyn Reference, measured: &mut dyn Measured) -> Sample {
    let mut best: Option<(u64, Sample)> = None;
    for _ in 0..SAMPLES {
        let before = measured.tsc();
        let apic_left = measured.apic_left();
        let count = reference.read();
        let took = measured.tsc().wrapping_sub(before);
        if best.is_none_or(|(shortest, _)| took < shortest) {
            let middle = Sample {
                tsc: before.wrapping_add(took / 2),
                apic_left,
                reference: count,
            };
            best = Some((took, middle));
        }
    }
    best.map_or(
        Sample {
            tsc: 0,
            apic_left: 0,
            reference: 0,
        },
        |(_, sample)| sample,
    )
}

/// Measures one window.
fn window(
    reference: &mut dyn Reference,
    measured: &mut dyn Measured,
) -> Result<Frequencies, CalibrationError> {
    let mask = u32::MAX >> (32 - reference.bits().clamp(1, 32));
    let (ticks, seconds) = reference.frequency();
    let length = u128::from(WINDOW_NS) * u128::from(ticks)
        / (u128::from(NS_PER_SECOND) * u128::from(seconds.max(1)));
    let begin = sample(reference, measured);
    let mut last = begin.reference;
    let mut still = 0;
    let mut readings = 0;
    loop {
        let count = reference.read();
        if u128::from(count.wrapping_sub(begin.reference) & mask) >= length {
            break;
        }
        still = if count == last { still + 1 } else { 0 };
        last = count;
        readings += 1;
        if still >= STILL_READINGS {
            return Err(CalibrationError::StandsStill);
        }
        if readings >= MOST_READINGS || measured.tsc().wrapping_sub(begin.tsc) >= MOST_TICKS {
            return Err(CalibrationError::TooSlow);
        }
    }
    let end = sample(reference, measured);
    let elapsed = u128::from(end.reference.wrapping_sub(begin.reference) & mask);
    if elapsed == 0 {
        return Err(CalibrationError::StandsStill);
    }
    let hz = |count: u64| {
        let hz = u128::from(count) * u128::from(ticks) / (elapsed * u128::from(seconds.max(1)));
        u64::try_from(hz).unwrap_or(u64::MAX)
    };
    Ok(Frequencies {
        tsc_hz: hz(end.tsc.wrapping_sub(begin.tsc)),
        apic_hz: hz(u64::from(begin.apic_left.wrapping_sub(end.apic_left))),
    })
}

/// Whether two frequencies are the same but for noise.
#[must_use]
pub fn agree(a: u64, b: u64) -> bool {
    a.abs_diff(b) <= a.max(b) / AGREEMENT
}

/// Measures until two windows in a row agree, and returns their mean.
///
/// # Errors
/// The reference stands still, is too slow or unsteady, or the result can't be.
pub fn measure(
    reference: &mut dyn Reference,
    measured: &mut dyn Measured,
) -> Result<Frequencies, CalibrationError> {
    let mut before = window(reference, measured)?;
    for _ in 1..MOST_WINDOWS {
        let now = window(reference, measured)?;
        if agree(before.tsc_hz, now.tsc_hz) && agree(before.apic_hz, now.apic_hz) {
            let tsc_hz = before.tsc_hz.midpoint(now.tsc_hz);
            if !PLAUSIBLE_TSC_HZ.contains(&tsc_hz) {
                return Err(CalibrationError::Implausible(tsc_hz));
            }
            return Ok(Frequencies {
                tsc_hz,
                apic_hz: before.apic_hz.midpoint(now.apic_hz),
            });
        }
        before = now;
    }
    Err(CalibrationError::Unsteady)
}

/// The time-stamp counter's frequency from CPUID leaf 15h: the crystal's, times a ratio (Intel SDM vol. 3B §19.7.3).
/// `None` where the leaf leaves one of them out, or the result can't be.
#[must_use]
pub fn from_crystal(crystal_hz: u32, numerator: u32, denominator: u32) -> Option<u64> {
    if crystal_hz == 0 || numerator == 0 || denominator == 0 {
        return None;
    }
    let hz = u64::from(crystal_hz) * u64::from(numerator) / u64::from(denominator);
    PLAUSIBLE_TSC_HZ.contains(&hz).then_some(hz)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, rc::Rc};

    use super::*;

    /// A machine whose every reading takes 400 ns, with clocks that can be made to misbehave.
    #[derive(Clone)]
    struct Machine {
        ns: Rc<Cell<u64>>,
        readings: Rc<Cell<u32>>,
        tsc_hz: u64,
        apic_hz: u64,
        reference_hz: u64,
        bits: u32,
        /// At this reading of the reference the machine sleeps so many ns.
        stop: Option<(u32, u64)>,
        stops_every: bool,
    }

    impl Machine {
        fn new(reference_hz: u64, bits: u32) -> Machine {
            Machine {
                // Near a wrap of every counter.
                ns: Rc::new(Cell::new(54_900_000)),
                readings: Rc::new(Cell::new(0)),
                tsc_hz: 2_400_000_000,
                apic_hz: 1_000_000_000,
                reference_hz,
                bits,
                stop: None,
                stops_every: false,
            }
        }

        fn count(&self, hz: u64) -> u64 {
            self.ns.set(self.ns.get() + 400);
            (u128::from(self.ns.get()) * u128::from(hz) / 1_000_000_000) as u64
        }

        fn calibrate(&self) -> Result<Frequencies, CalibrationError> {
            measure(&mut self.clone(), &mut self.clone())
        }
    }

    impl Reference for Machine {
        fn read(&mut self) -> u32 {
            self.readings.set(self.readings.get() + 1);
            if let Some((at, ns)) = self.stop
                && (self.readings.get() == at
                    || self.stops_every && self.readings.get().is_multiple_of(at))
            {
                // Each stop is of another length.
                self.ns
                    .set(self.ns.get() + ns * u64::from(self.readings.get() / at));
            }
            let mask = u32::MAX >> (32 - self.bits);
            self.count(self.reference_hz) as u32 & mask
        }

        fn bits(&self) -> u32 {
            self.bits
        }

        fn frequency(&self) -> (u64, u64) {
            (self.reference_hz.max(1_000_000), 1)
        }
    }

    impl Measured for Machine {
        fn tsc(&mut self) -> u64 {
            self.count(self.tsc_hz)
        }

        fn apic_left(&mut self) -> u32 {
            u32::MAX - self.count(self.apic_hz) as u32
        }
    }

    fn close(found: u64, right: u64) -> bool {
        found.abs_diff(right) < right / 5_000
    }

    #[test]
    fn every_kind_of_reference_gives_the_frequencies() {
        for (hz, bits) in [
            (100_000_000, 32),
            (14_318_180, 32),
            (3_579_545, 24),
            (1_193_182, 16),
        ] {
            let found = Machine::new(hz, bits).calibrate().expect("a sound clock");
            assert!(close(found.tsc_hz, 2_400_000_000), "{hz}: {found:?}");
            assert!(close(found.apic_hz, 1_000_000_000), "{hz}: {found:?}");
        }
    }

    #[test]
    fn a_reference_that_stands_still_is_refused_within_bounds() {
        let machine = Machine::new(0, 32);
        assert_eq!(machine.calibrate(), Err(CalibrationError::StandsStill));
        assert!(machine.readings.get() < 20_000);
    }

    #[test]
    fn a_reference_far_slower_than_it_says_is_refused_within_bounds() {
        // It changes just often enough not to stand still.
        let mut machine = Machine::new(1_000, 32);
        machine.tsc_hz = 50_000_000_000;
        assert_eq!(machine.calibrate(), Err(CalibrationError::TooSlow));
        assert!(machine.readings.get() < MOST_READINGS);
    }

    #[test]
    fn one_stop_of_the_machine_does_not_spoil_the_result() {
        let mut machine = Machine::new(1_193_182, 16);
        // Long enough for the 16-bit counter to wrap unseen.
        machine.stop = Some((3_000, 60_000_000));
        let found = machine.calibrate().expect("later windows agree");
        assert!(close(found.tsc_hz, 2_400_000_000), "{found:?}");
    }

    #[test]
    fn a_machine_that_stops_in_every_window_is_called_unsteady() {
        let mut machine = Machine::new(1_193_182, 16);
        machine.stop = Some((2_000, 60_000_000));
        machine.stops_every = true;
        assert_eq!(machine.calibrate(), Err(CalibrationError::Unsteady));
    }

    #[test]
    fn an_impossible_counter_is_refused() {
        let mut machine = Machine::new(14_318_180, 32);
        machine.tsc_hz = 1_000_000;
        assert!(matches!(
            machine.calibrate(),
            Err(CalibrationError::Implausible(_))
        ));
    }

    #[test]
    fn a_dead_apic_timer_shows_as_zero() {
        let mut machine = Machine::new(14_318_180, 32);
        machine.apic_hz = 0;
        assert_eq!(machine.calibrate().map(|found| found.apic_hz), Ok(0));
    }

    #[test]
    fn crystal_leaves_that_leave_something_out_are_not_used() {
        assert_eq!(from_crystal(24_000_000, 216, 2), Some(2_592_000_000));
        assert_eq!(from_crystal(0, 216, 2), None);
        assert_eq!(from_crystal(24_000_000, 0, 2), None);
        assert_eq!(from_crystal(24_000_000, 216, 0), None);
        assert_eq!(from_crystal(1, 1, 1), None);
        assert_eq!(from_crystal(u32::MAX, u32::MAX, 1), None);
    }
}
