//! Calendar to UNIX time, for the date-at-boot feature.
//!
//! Firmware clocks give a civil date; the protocol wants seconds since 1970-01-01 00:00:00 UTC.

/// Seconds since the UNIX epoch of a civil date and time in the Gregorian calendar.
///
/// `offset_minutes` is the clock's distance west of UTC, as UEFI gives it (UTC = local + offset; UEFI
/// specification 2.10 §8.3), 0 if the clock does not know. Returns `None` for a date that does not exist.
#[must_use]
pub fn unix_seconds(
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    offset_minutes: i16,
) -> Option<i64> {
    if !(1..=12).contains(&month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    let year = i64::from(year);
    let lengths = [
        31,
        28 + i64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    let month = usize::from(month - 1);
    if day == 0 || i64::from(day) > lengths[month] {
        return None;
    }
    // Leap days up to the end of year y, counted from year 0.
    let leaps = |y: i64| y / 4 - y / 100 + y / 400;
    let days = (year - 1970) * 365 + leaps(year - 1) - leaps(1969)
        + lengths[..month].iter().sum::<i64>()
        + i64::from(day)
        - 1;
    let seconds =
        days * 86400 + i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Some(seconds + i64::from(offset_minutes) * 60)
}

/// The registers of a PC's clock, as they are read: seconds, minutes, hours, day, month, year, and status register B
/// (Motorola MC146818A data sheet, "Time, calendar and alarm").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockRegisters {
    /// Seconds, minutes, hours, day of the month, month, year of the century.
    pub time: [u8; 6],
    /// Status register B: bit 2 numbers are binary, bit 1 hours count to 24.
    pub status_b: u8,
}

/// Seconds since the UNIX epoch by a PC's clock, taken to be of this century and to show UTC. `None` for a clock that
/// shows no date.
#[must_use]
pub fn from_clock(registers: ClockRegisters) -> Option<i64> {
    let ClockRegisters { time, status_b } = registers;
    let number = |value: u8| {
        if status_b & 4 != 0 {
            Some(value)
        } else {
            (value & 15 < 10 && value >> 4 < 10).then_some((value >> 4) * 10 + (value & 15))
        }
    };
    let [second, minute, hour, day, month, year] = time;
    let hour = if status_b & 2 != 0 {
        number(hour)?
    } else {
        // Bit 7 says afternoon; both noon and midnight are 12.
        number(hour & 0x7f)? % 12 + if hour & 0x80 != 0 { 12 } else { 0 }
    };
    unix_seconds(
        2000 + u16::from(number(year)?),
        number(month)?,
        number(day)?,
        hour,
        number(minute)?,
        number(second)?,
        0,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_is_read_in_each_of_its_forms() {
        let read = |time, status_b| from_clock(ClockRegisters { time, status_b });
        let noon = Some(1_735_646_400 + 59);
        // 2024-12-31 12:00:59: packed decimal and binary, 24 and 12 hours.
        assert_eq!(read([0x59, 0, 0x12, 0x31, 0x12, 0x24], 2), noon);
        assert_eq!(read([59, 0, 12, 31, 12, 24], 6), noon);
        assert_eq!(read([0x59, 0, 0x92, 0x31, 0x12, 0x24], 0), noon);
        assert_eq!(read([59, 0, 0x8c, 31, 12, 24], 4), noon);
        let midnight = noon.map(|s| s - 12 * 3600);
        assert_eq!(read([0x59, 0, 0x12, 0x31, 0x12, 0x24], 0), midnight);
    }

    #[test]
    fn clock_that_stands_open_has_no_date() {
        let read = |time, status_b| from_clock(ClockRegisters { time, status_b });
        assert_eq!(read([0xff; 6], 0xff), None);
        assert_eq!(read([0x5a, 0, 0, 1, 1, 0x24], 2), None);
        assert_eq!(read([0; 6], 2), None);
    }

    #[test]
    fn known_dates_have_their_known_seconds() {
        assert_eq!(unix_seconds(1970, 1, 1, 0, 0, 0, 0), Some(0));
        assert_eq!(unix_seconds(2000, 2, 29, 12, 0, 0, 0), Some(951_825_600));
        assert_eq!(
            unix_seconds(2024, 12, 31, 23, 59, 59, 0),
            Some(1_735_689_599)
        );
        assert_eq!(unix_seconds(2038, 1, 19, 3, 14, 8, 0), Some(1 << 31));
    }

    #[test]
    fn zone_offset_is_added() {
        assert_eq!(unix_seconds(1970, 1, 1, 0, 0, 0, -60), Some(-3600));
    }

    #[test]
    fn impossible_dates_are_refused() {
        assert_eq!(unix_seconds(2023, 2, 29, 0, 0, 0, 0), None);
        assert_eq!(unix_seconds(2023, 0, 1, 0, 0, 0, 0), None);
        assert_eq!(unix_seconds(2023, 13, 1, 0, 0, 0, 0), None);
        assert_eq!(unix_seconds(2023, 1, 1, 24, 0, 0, 0), None);
    }
}
