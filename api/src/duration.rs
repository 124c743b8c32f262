//! Time spans as `kubectl` prints them: `5s`, `3m20s`, `2d3h`.

use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::cursor::text;

/// A span in the two or so units that matter.
pub fn human(seconds: i64) -> String {
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    if seconds < 120 {
        return format!("{seconds}s");
    }
    if minutes < 10 {
        return pair(minutes, "m", seconds % 60, "s");
    }
    if minutes < 180 {
        return format!("{minutes}m");
    }
    if hours < 8 {
        return pair(hours, "h", minutes % 60, "m");
    }
    if hours < 48 {
        return format!("{hours}h");
    }
    if hours < 24 * 8 {
        return pair(hours / 24, "d", hours % 24, "h");
    }
    if hours < 24 * 365 * 2 {
        return format!("{}d", hours / 24);
    }
    if hours < 24 * 365 * 8 {
        return pair(hours / 24 / 365, "y", hours / 24 % 365, "d");
    }
    format!("{}y", hours / 24 / 365)
}

fn pair(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 { format!("{large}{large_unit}") } else { format!("{large}{large_unit}{small}{small_unit}") }
}

/// The span between two times.
pub fn since(then: Timestamp, now: Timestamp) -> String {
    human(now.as_second() - then.as_second())
}

/// An RFC 3339 time; `None` for anything else.
pub fn parse(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// How long ago a time in an object was; `<unknown>` where there is none.
pub fn since_text(then: &str, now: Timestamp) -> String {
    parse(then).map_or_else(|| "<unknown>".to_owned(), |then| since(then, now))
}

/// How old an object is.
pub fn age(object: &Value, now: Timestamp) -> String {
    since_text(text(object, "metadata.creationTimestamp"), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (seconds, expected) in [
            (0, "0s"), (119, "119s"), (120, "2m"), (200, "3m20s"), (600, "10m"), (10_799, "179m"), (10_800, "3h"), (12_000, "3h20m"),
            (36_000, "10h"), (172_800, "2d"), (183_600, "2d3h"), (864_000, "10d"), (63_072_000, "2y"), (63_158_400, "2y1d"), (-1, "0s"), (-5, "<invalid>"),
        ] {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }
}
