//! Numbers with their units, as people read them.
#![allow(
    clippy::cast_precision_loss,
    reason = "what is shown has four digits, a double fifteen"
)]

use alloc::format;
use alloc::string::String;
use core::time::Duration;

/// A span of time: `850 ns`, `12.3 us`, `4.56 ms`, `7.890 s`, then minutes, hours, days.
pub fn time(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.1} us", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n if n < 60e9 => format!("{:.3} s", n / 1e9),
        n => {
            let seconds = n / 1e9;
            let whole = seconds as u64;
            let (days, hours, minutes) = (whole / 86400, whole / 3600 % 24, whole / 60 % 60);
            let rest = seconds - (whole / 60 * 60) as f64;
            match (days, hours) {
                (0, 0) => format!("{minutes} min {rest:.1} s"),
                (0, _) => format!("{hours} h {minutes} min {rest:.0} s"),
                _ => format!("{days} d {hours} h {minutes} min"),
            }
        }
    }
}

/// A number of nanoseconds as [`time`] shows it.
pub fn nanoseconds(count: u64) -> String {
    time(count as f64)
}

/// A duration as [`time`] shows it.
pub fn duration(duration: Duration) -> String {
    time(duration.as_secs_f64() * 1e9)
}

/// A size: `512 B`, `1.5 KiB`, `20.0 MiB`, `3.25 GiB`.
pub fn bytes(count: u64) -> String {
    const KIB: f64 = 1024.0;
    match count as f64 {
        n if n < KIB => format!("{count} B"),
        n if n < KIB * KIB => format!("{:.1} KiB", n / KIB),
        n if n < KIB * KIB * KIB => format!("{:.1} MiB", n / KIB / KIB),
        n => format!("{:.2} GiB", n / KIB / KIB / KIB),
    }
}

/// A frequency.
pub fn gigahertz(hertz: u64) -> String {
    format!("{:.3} GHz", hertz as f64 / 1e9)
}

/// A share in percent.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".into();
    }
    format!("{:.1} %", part as f64 * 100.0 / whole as f64)
}

/// Seconds since 1970 as a date and time, UTC (days to a date by the Gregorian calendar's 400-year cycle).
pub fn date(seconds: u64) -> String {
    const DAYS_OF_CYCLE: u64 = 146_097;
    let (days, second) = (seconds / 86400, seconds % 86400);
    // Years are counted from March, so that the leap day is a year's last.
    let days = days + 719_468;
    let (cycle, day) = (days / DAYS_OF_CYCLE, days % DAYS_OF_CYCLE);
    let year = (day - day / 1460 + day / 36524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = cycle * 400 + year + u64::from(month <= 2);
    format!(
        "{year}-{month:02}-{day_of_month:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fitting_units() {
        for (nanoseconds, text) in [
            (0.0, "0 ns"),
            (999.0, "999 ns"),
            (1500.0, "1.5 us"),
            (2_345_678.0, "2.35 ms"),
            (7.89e9, "7.890 s"),
            (72.3e9, "1 min 12.3 s"),
            (3725e9, "1 h 2 min 5 s"),
            (90061e9, "1 d 1 h 1 min"),
        ] {
            assert_eq!(time(nanoseconds), text);
        }
    }

    #[test]
    fn sizes_have_fitting_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(512 << 20), "512.0 MiB");
        assert_eq!(bytes(3 << 30), "3.00 GiB");
        assert_eq!(bytes(u64::MAX), "17179869184.00 GiB");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_704_067_199), "2023-12-31 23:59:59 UTC");
        assert_eq!(date(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn share_of_nothing_is_no_number() {
        assert_eq!(percent(1, 0), "-");
        assert_eq!(percent(1, 3), "33.3 %");
    }
}
