//! RFC 3339 in UTC with nine digits of nanoseconds, to and from ns since 1970. Written by hand
//! because it stands in every line: the date is computed without a table and digits go straight
//! into the buffer.

const SECOND_NS: u64 = 1_000_000_000;
const DAY_S: u64 = 86_400;

/// Bytes of one time.
const LENGTH: usize = 30;

/// `2026-01-02T03:04:05.000000006Z`.
pub fn format_ns(time_ns: u64) -> String {
    let mut out = Vec::with_capacity(LENGTH);
    write_ns(&mut out, time_ns);
    String::from_utf8_lossy(&out).into_owned()
}

/// Appends the time to `out`.
pub(super) fn write_ns(out: &mut Vec<u8>, time_ns: u64) {
    let (seconds, ns) = (time_ns / SECOND_NS, time_ns % SECOND_NS);
    let (day, second) = (seconds / DAY_S, seconds % DAY_S);
    let (year, month, date) = civil(day);
    let mut text = *b"0000-00-00T00:00:00.000000000Z";
    digits(&mut text[0..4], year);
    digits(&mut text[5..7], month);
    digits(&mut text[8..10], date);
    digits(&mut text[11..13], second / 3600);
    digits(&mut text[14..16], second / 60 % 60);
    digits(&mut text[17..19], second % 60);
    digits(&mut text[20..29], ns);
    out.extend_from_slice(&text);
}

fn digits(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day since 1970 (Howard Hinnant's `civil_from_days`, for days from
/// 1970 on).
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let date = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, date)
}

/// The inverse of [`format_ns`]. Nothing else is accepted.
pub fn parse_ns(text: &str) -> Option<u64> {
    let text: &[u8; LENGTH] = text.as_bytes().try_into().ok()?;
    let number = |from: usize, to: usize| {
        text[from..to].iter().try_fold(0_u64, |value, &byte| {
            byte.is_ascii_digit().then(|| value * 10 + u64::from(byte - b'0'))
        })
    };
    let (year, month, date) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let second = number(11, 13)? * 3600 + number(14, 16)? * 60 + number(17, 19)?;
    if year < 1970 || !(1..=12).contains(&month) || date == 0 || second >= DAY_S {
        return None;
    }
    let seconds = days(year, month, date) * DAY_S + second;
    let time_ns = seconds.checked_mul(SECOND_NS)?.checked_add(number(20, 29)?)?;
    let mut back = Vec::with_capacity(LENGTH);
    write_ns(&mut back, time_ns);
    (back == text).then_some(time_ns)
}

fn days(year: u64, month: u64, date: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + date - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_are_written_as_rfc_3339() {
        assert_eq!(format_ns(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(format_ns(951_827_696_000_000_001), "2000-02-29T12:34:56.000000001Z");
        assert_eq!(format_ns(4_107_542_399_999_999_999), "2100-02-28T23:59:59.999999999Z");
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "",
            "1970-01-01T00:00:00Z",
            "2001-02-29T00:00:00.000000000Z",
            "1970-01-01T24:00:00.000000000Z",
            "1970-01-01 00:00:00.000000000Z",
            "1970-01-01T00:00:00.00000000+Z",
        ] {
            assert_eq!(parse_ns(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_comes_back(time_ns in any::<u64>()) {
            let text = format_ns(time_ns);
            let known = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(time_ns)).unwrap();
            prop_assert!(text.starts_with(&known.date().to_string()), "{text} {known}");
            prop_assert_eq!(parse_ns(&text), Some(time_ns));
        }
    }
}
