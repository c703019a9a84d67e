//! Choosing the clock and setting the scale, once, on the first CPU.
//!
//! References in the order of trust: HPET, power management timer, 8254. What CPUID says exactly (leaf 15h with a
//! crystal frequency) is taken before them, but only if the measurement doesn't contradict it: some hypervisors show
//! the host's leaf to a guest whose counter runs at another rate.

use super::{
    calibrate::{self, CalibrationError, Frequencies, Measured, Reference},
    hpet, pit, pm_timer, set_scale, timer, tsc,
};
use crate::platform::{PhysicalMap, acpi::Tables, apic, hypervisor::cpuid};

/// The frequency that is assumed where nothing is known. Too high rather than too low: waits get longer, not shorter.
const ASSUMED_HZ: u64 = 4_000_000_000;

/// What the time-stamp counter's frequency was taken from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// CPUID leaf 15h, not contradicted.
    Cpuid,
    /// Measured against the high precision event timer.
    Hpet,
    /// Measured against the ACPI power management timer.
    PmTimer,
    /// Measured against the 8254 interval timer.
    Pit,
    /// The CPU's base frequency as CPUID leaf 16h has it, rounded: nothing else was there.
    BaseFrequency,
    /// Nothing was known.
    Assumed,
}

impl Source {
    /// In a word or two.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Source::Cpuid => "CPUID",
            Source::Hpet => "HPET",
            Source::PmTimer => "PM timer",
            Source::Pit => "8254 timer",
            Source::BaseFrequency => "CPU base frequency",
            Source::Assumed => "an assumption",
        }
    }
}

/// How time was set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Calibration {
    /// Ticks of the time-stamp counter a second.
    pub tsc_hz: u64,
    /// Ticks of the local APIC's timer a second; 0 if it does not run.
    pub apic_hz: u64,
    /// Where the first comes from.
    pub source: Source,
    /// Whether timers fire at values of the time-stamp counter.
    pub deadline_timer: bool,
    /// Whether the CPU promises a counter of constant speed.
    pub invariant: bool,
    /// What went wrong on the way, if the result is a guess, or the timer is dead.
    pub trouble: Option<CalibrationError>,
}

/// This machine's clocks under measurement.
struct Clocks;

impl Measured for Clocks {
    fn tsc(&mut self) -> u64 {
        tsc()
    }

    fn apic_left(&mut self) -> u32 {
        apic::timer_left()
    }
}

/// Tries the references in turn; the error is the first that a present one met.
///
/// # Safety
/// As for [`init`].
unsafe fn measure(
    tables: Option<&Tables<'_>>,
    map: &dyn PhysicalMap,
) -> Result<(Source, Frequencies), CalibrationError> {
    let mut trouble = None;
    let mut attempt = |source: Source, reference: &mut dyn Reference| {
        // The largest count that there is: at 10 GHz it lasts 400 ms, many windows.
        apic::timer_arm(u32::MAX);
        let result = calibrate::measure(reference, &mut Clocks);
        apic::timer_arm(0);
        match result {
            Ok(found) => Some((source, found)),
            Err(error) => {
                trouble.get_or_insert(error);
                None
            }
        }
    };
    if let Some(hpet) = tables.and_then(|tables| tables.hpet().ok())
        // SAFETY: the caller vouches that the tables are the machine's.
        && let Some(mut counter) = unsafe { hpet::Counter::new(hpet, map) }
        && let Some(found) = attempt(Source::Hpet, &mut counter)
    {
        return Ok(found);
    }
    if let Some(timer) = tables.and_then(|tables| tables.fixed().ok()?.pm_timer)
        // SAFETY: as above.
        && let Some(mut counter) = unsafe { pm_timer::Counter::new(timer, map) }
        && let Some(found) = attempt(Source::PmTimer, &mut counter)
    {
        return Ok(found);
    }
    // SAFETY: on the first CPU; nothing uses the loudspeaker.
    let mut counter = unsafe { pit::Counter::new() };
    if let Some(found) = attempt(Source::Pit, &mut counter) {
        return Ok(found);
    }
    Err(trouble.unwrap_or(CalibrationError::NoReference))
}

/// Calibrates the time-stamp counter and the local APIC's timer and sets time going, with 0 at `epoch`, a value of this
/// CPU's counter. It never fails: see [`Calibration::trouble`]. It takes about 20 ms.
///
/// # Safety
/// On the first CPU, once, before any other starts, with interrupts off, after
/// [`apic::init_boot_cpu`]; `tables` must be this machine's.
pub unsafe fn init(epoch: u64, tables: Option<&Tables<'_>>, map: &dyn PhysicalMap) -> Calibration {
    let cpuid = cpuid();
    let invariant = cpuid
        .get_advanced_power_mgmt_info()
        .is_some_and(|info| info.has_invariant_tsc());
    let stated = cpuid.get_tsc_info().and_then(|info| {
        calibrate::from_crystal(
            info.nominal_frequency(),
            info.numerator(),
            info.denominator(),
        )
    });
    // SAFETY: passed on to the caller.
    let measured = unsafe { measure(tables, map) };
    let (source, tsc_hz, mut apic_hz, mut trouble) = match (stated, measured) {
        (Some(stated), Ok((_, found))) if calibrate::agree(stated, found.tsc_hz) => {
            (Source::Cpuid, stated, found.apic_hz, None)
        }
        (_, Ok((source, found))) => (source, found.tsc_hz, found.apic_hz, None),
        (Some(stated), Err(_)) => (Source::Cpuid, stated, 0, None),
        (None, Err(error)) => {
            let base = cpuid
                .get_processor_frequency_info()
                .map(|info| u64::from(info.processor_base_frequency()) * 1_000_000)
                .filter(|hz| calibrate::PLAUSIBLE_TSC_HZ.contains(hz));
            let (source, hz) = match base {
                Some(hz) => (Source::BaseFrequency, hz),
                None => (Source::Assumed, ASSUMED_HZ),
            };
            (source, hz, 0, Some(error))
        }
    };
    set_scale(epoch, tsc_hz);
    if apic_hz == 0 {
        // No reference: the time-stamp counter, such as it is, measures the timer.
        apic_hz = timer::measure_by_tsc(tsc_hz);
    }
    let deadline_timer = invariant && apic::has_deadline_timer();
    if apic_hz == 0 && !deadline_timer {
        trouble = Some(CalibrationError::ApicTimerStandsStill);
    }
    timer::set_up(tsc_hz, apic_hz, deadline_timer);
    Calibration {
        tsc_hz,
        apic_hz,
        source,
        deadline_timer,
        invariant,
        trouble,
    }
}
