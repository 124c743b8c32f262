//! Durations as Go writes them, because etcd's flags do: `300ms`, `1.5h`, `2h45m`. Pure.

use std::time::Duration;

/// Longest that is understood: Go's own bound, some 292 years.
const LONGEST: f64 = 9.2e18;

fn unit(name: &str) -> Option<f64> {
    Some(match name {
        "ns" => 1.0,
        "us" | "µs" | "μs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        "m" => 60e9,
        "h" => 3_600e9,
        _ => return None,
    })
}

/// Reads one; a number without a unit is refused, unless it is 0.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration such as 10m or 1h30m");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let (mut left, mut nanoseconds) = (text, 0.0);
    if left.is_empty() {
        return Err(wrong());
    }
    while !left.is_empty() {
        let number = left.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let (digits, rest) = left.split_at(number);
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let number: f64 = digits.parse().map_err(|_| wrong())?;
        nanoseconds += number * unit(name).ok_or_else(wrong)?;
        left = rest;
    }
    if nanoseconds > LONGEST {
        return Err(wrong());
    }
    Ok(Duration::from_secs_f64(nanoseconds / 1e9))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, milliseconds) in [
            ("0", Some(0)), ("10m", Some(600_000)), ("1h30m", Some(5_400_000)), ("1.5h", Some(5_400_000)), ("300ms", Some(300)),
            ("2h45m10s", Some(9_910_000)), ("", None), ("5", None), ("h", None), ("-1h", None), ("1x", None), ("1h5", None),
            ("99999999h", None), ("1..5h", None),
        ] {
            assert_eq!(parse(text).ok(), milliseconds.map(Duration::from_millis), "{text:?}");
        }
    }
}
