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

#[cfg(test)]
mod tests {
    use super::*;

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
