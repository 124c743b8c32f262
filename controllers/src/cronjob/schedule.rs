//! Schedules as robfig/cron's standard parser reads them: five fields, names, steps, `@hourly` and its like, `@every`;
//! and the next time after a given one, in a time zone.
//!
//! Where both days are restricted either suffices, else both must fit. A time that does not exist on a day (clocks go
//! forward) is left out that day; one that comes twice is used twice.

use std::time::Duration;

use k8s_openapi::jiff::civil::Date;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{SignedDuration, Timestamp, ToSpan as _, Zoned};

/// The values of a field, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// Any value will do: for days this says which of the two fields counts.
    star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| value < 64 && self.bits & (1 << value) != 0)
    }
}

/// A schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// Minute, hour, day of month, month, day of week.
    Times(Times),
    /// Again and again after so long, at least a second.
    Every(Duration),
}

/// The five fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

/// Lowest and highest value and names, in the order of the fields.
const BOUNDS: [(u8, u8, &[&str]); 5] = [
    (0, 59, &[]),
    (0, 23, &[]),
    (1, 31, &[]),
    (1, 12, &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]),
    (0, 6, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

fn number(text: &str, (low, _, names): (u8, u8, &[&str])) -> Result<u8, String> {
    if let Some(position) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(low + u8::try_from(position).unwrap_or(0));
    }
    text.parse().map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
}

/// `*`, `5`, `1-5`, `*/15`, `5/15`, `mon-fri`.
fn range(text: &str, bounds: (u8, u8, &[&str])) -> Result<Field, String> {
    let (low, high, _) = bounds;
    let (span, step) = match text.split_once('/') {
        Some((_, step)) if step.contains('/') => return Err(format!("too many slashes: {text}")),
        Some((span, step)) => (span, Some(step)),
        None => (text, None),
    };
    let mut star = false;
    let (first, mut last, single) = if matches!(span, "*" | "?") {
        star = true;
        (low, high, false)
    } else {
        match span.split_once('-') {
            Some((_, last)) if last.contains('-') => return Err(format!("too many hyphens: {text}")),
            Some((first, last)) => (number(first, bounds)?, number(last, bounds)?, false),
            None => {
                let one = number(span, bounds)?;
                (one, one, true)
            }
        }
    };
    let step = match step {
        None => 1,
        Some(step) => {
            let step = number(step, (0, u8::MAX, &[]))?;
            if single {
                last = high;
            }
            if step > 1 {
                star = false;
            }
            step
        }
    };
    if first < low {
        return Err(format!("beginning of range ({first}) below minimum ({low}): {text}"));
    }
    if last > high {
        return Err(format!("end of range ({last}) above maximum ({high}): {text}"));
    }
    if first > last {
        return Err(format!("beginning of range ({first}) beyond end of range ({last}): {text}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {text}"));
    }
    let bits = (first..=last).step_by(usize::from(step)).fold(0, |bits, value| bits | 1 << value);
    Ok(Field { bits, star })
}

fn field(text: &str, bounds: (u8, u8, &[&str])) -> Result<Field, String> {
    let mut whole = Field { bits: 0, star: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let part = range(part, bounds)?;
        whole = Field { bits: whole.bits | part.bits, star: whole.star | part.star };
    }
    Ok(whole)
}

/// Go's durations: `1h30m`, `90s`, `1.5h`.
fn go_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let value: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += value
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    Duration::try_from_secs_f64(total).ok()
}

impl Schedule {
    /// Reads a schedule, without `TZ=`. The error is a sentence for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.is_empty() {
            return Err("empty spec string".to_owned());
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            _ => text,
        };
        if let Some(every) = fields.strip_prefix("@every ") {
            let duration = go_duration(every).ok_or_else(|| format!("failed to parse duration {text}: time: invalid duration {every:?}"))?;
            return Ok(Self::Every(Duration::from_secs(duration.as_secs().max(1))));
        }
        if fields.starts_with('@') {
            return Err(format!("unrecognized descriptor: {text}"));
        }
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts.as_slice() else {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", parts.len(), parts.join(" ")));
        };
        Ok(Self::Times(Times {
            minute: field(minute, BOUNDS[0])?,
            hour: field(hour, BOUNDS[1])?,
            day: field(day, BOUNDS[2])?,
            month: field(month, BOUNDS[3])?,
            weekday: field(weekday, BOUNDS[4])?,
        }))
    }

    /// The first time after `after`. `None`: there is none within five years.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Self::Every(every) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(SignedDuration::try_from(*every).ok()?).ok()
            }
            Self::Times(times) => times.next(after, zone),
        }
    }
}

impl Times {
    fn fits_day(&self, date: Date) -> bool {
        let (day, weekday) = (self.day.has(date.day()), self.weekday.has(date.weekday().to_sunday_zero_offset()));
        if self.day.star || self.weekday.star { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let last_year = after.to_zoned(zone.clone()).year() + 5;
        let seconds = after.as_second().checked_add(1)?;
        let mut at = Timestamp::from_second(seconds).ok()?.to_zoned(zone.clone());
        if at.second() != 0 {
            at = later(&at, 60 - i64::from(at.second()))?;
        }
        loop {
            if at.year() > last_year {
                return None;
            }
            let date = at.date();
            if !self.month.has(date.month()) {
                at = start(date.first_of_month().checked_add(1.month()).ok()?, zone)?;
            } else if !self.fits_day(date) {
                at = start(date.tomorrow().ok()?, zone)?;
            } else if !self.hour.has(at.hour()) {
                at = later(&at, 3600 - 60 * i64::from(at.minute()))?;
            } else if !self.minute.has(at.minute()) {
                at = later(&at, 60)?;
            } else {
                return Some(at.timestamp());
            }
        }
    }
}

fn later(at: &Zoned, seconds: i64) -> Option<Zoned> {
    at.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// The first moment of a day.
fn start(date: Date, zone: &TimeZone) -> Option<Zoned> {
    date.to_zoned(zone.clone()).ok()?.start_of_day().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(schedule: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let zone = TimeZone::get(zone).unwrap();
        let schedule = Schedule::parse(schedule).unwrap();
        let mut at: Timestamp = from.parse().unwrap();
        let mut found = Vec::new();
        for _ in 0..count {
            let Some(next) = schedule.next(at, &zone) else { break };
            found.push(next.to_string());
            at = next;
        }
        found
    }

    #[test]
    fn next_times() {
        let cases = [
            ("*/15 * * * *", "UTC", "2026-11-23T10:07:30Z", vec!["2026-11-23T10:15:00Z", "2026-11-23T10:30:00Z"]),
            ("0 0 1 1 *", "UTC", "2026-11-23T10:07:30Z", vec!["2027-01-01T00:00:00Z"]),
            ("59 23 31 2 *", "UTC", "2026-11-23T10:07:30Z", vec![]),
            ("0 12 29 2 *", "UTC", "2026-11-23T10:07:30Z", vec!["2028-02-29T12:00:00Z"]),
            ("5/20 9-10 * * mon-fri", "UTC", "2026-11-20T10:30:00Z", vec!["2026-11-20T10:45:00Z", "2026-11-23T09:05:00Z"]),
            // Both days restricted: either suffices.
            ("0 0 13 * 5", "UTC", "2026-11-07T00:00:00Z", vec!["2026-11-13T00:00:00Z", "2026-11-20T00:00:00Z"]),
            ("0 0 */9 * 5", "UTC", "2026-11-07T00:00:00Z", vec!["2026-11-10T00:00:00Z", "2026-11-13T00:00:00Z"]),
            ("30 2 * * *", "Europe/Berlin", "2026-03-28T00:00:00Z", vec!["2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"]),
            ("30 2 25 10 *", "Europe/Berlin", "2026-10-24T00:00:00Z", vec!["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"]),
            ("0 9 * * *", "Asia/Kolkata", "2026-11-23T00:00:00Z", vec!["2026-11-23T03:30:00Z"]),
            ("@every 90s", "UTC", "2026-11-23T00:00:00.7Z", vec!["2026-11-23T00:01:30Z", "2026-11-23T00:03:00Z"]),
        ];
        for (schedule, zone, from, expected) in cases {
            assert_eq!(times(schedule, zone, from, expected.len().max(1)), expected, "{schedule} {zone}");
        }
    }

    #[test]
    fn what_is_no_schedule() {
        for (text, part) in [
            ("", "empty"),
            ("* * * *", "expected exactly 5 fields, found 4: [* * * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "above maximum (6)"),
            ("5-1 * * * *", "beyond end of range"),
            ("*/0 * * * *", "step of range should be a positive number"),
            ("x * * * *", "failed to parse int from x"),
            ("1-2-3 * * * *", "too many hyphens"),
            ("@never", "unrecognized descriptor: @never"),
            ("@every soon", "failed to parse duration"),
        ] {
            let error = Schedule::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
