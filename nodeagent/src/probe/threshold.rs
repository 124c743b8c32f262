//! When a row of answers becomes a result.
//!
//! Pure. Only consecutive answers of one kind count; attempts that could not be made count as nothing.

use k8s_openapi::api::core::v1::Probe;

use super::Answer;

/// A row of answers of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Row {
    well: bool,
    length: i32,
}

impl Row {
    /// Takes in an answer; the result, where the row is now long enough for one.
    pub fn record(&mut self, probe: &Probe, answer: &Answer) -> Option<bool> {
        let well = match answer {
            Answer::Success | Answer::Warning(_) => true,
            Answer::Failure(_) => false,
            Answer::Unknown(_) => return None,
        };
        if self.length == 0 || self.well != well {
            *self = Self { well, length: 0 };
        }
        self.length = self.length.saturating_add(1);
        let needed = match well {
            true => probe.success_threshold.unwrap_or(1),
            false => probe.failure_threshold.unwrap_or(3),
        };
        (self.length >= needed.max(1)).then_some(well)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_count() {
        let probe = Probe { failure_threshold: Some(3), success_threshold: Some(2), ..Probe::default() };
        let mut row = Row::default();
        let text: String = "ff?fsfsss?f"
            .chars()
            .map(|answer| {
                let answer = match answer {
                    's' => Answer::Success,
                    'f' => Answer::Failure(String::new()),
                    _ => Answer::Unknown(String::new()),
                };
                match row.record(&probe, &answer) {
                    None => '.',
                    Some(true) => 'S',
                    Some(false) => 'F',
                }
            })
            .collect();
        assert_eq!(text, "...F...SS..");
    }
}
