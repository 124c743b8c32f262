//! How soon a stream tells its watchers the next news. Pure.
//!
//! What a message costs, here and at the client, depends little on how many events it holds. A stream whose watchers
//! are seldom told something, or that has only a few, tells it at once. One with many watchers that all have news all
//! the time waits a little between rounds, so that each message holds several events; the longer, the more there is.

use std::time::Duration;

/// The pause after a round, for each message of it: at least, and at most when rounds stay full.
const LEAST_PER_ANSWER: Duration = Duration::from_micros(50);
const MOST_PER_ANSWER: Duration = Duration::from_micros(500);
/// No pause is longer, however many watchers there are.
const LONGEST: Duration = Duration::from_millis(40);
/// The least pause is not longer than this.
const LONGEST_LEAST: Duration = Duration::from_millis(5);
/// With more events in a message, at the mean, a round counts as full.
const FEW_EVENTS: usize = 2;

/// The pace of one stream.
#[derive(Debug, Default)]
pub struct Pace {
    pause: Duration,
}

impl Pace {
    /// How long to wait after a round of `answers` messages that held `events` events together.
    pub fn after(&mut self, answers: usize, events: usize) -> Duration {
        let answers_u32 = u32::try_from(answers).unwrap_or(u32::MAX);
        let least = LEAST_PER_ANSWER.saturating_mul(answers_u32).min(LONGEST_LEAST);
        let most = MOST_PER_ANSWER.saturating_mul(answers_u32).min(LONGEST);
        let full = events > answers.saturating_mul(FEW_EVENTS);
        self.pause = if full { self.pause.saturating_mul(2) } else { self.pause / 2 }.clamp(least, most);
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_watchers_hardly_wait_and_many_busy_ones_wait_longer_and_longer() {
        let micros = |answers: usize, rounds: &[usize]| {
            let mut pace = Pace::default();
            let pauses: Vec<u128> = rounds.iter().map(|events| pace.after(answers, answers * events).as_micros()).collect();
            pauses
        };
        assert_eq!(micros(1, &[1, 1]), [50, 50], "one watcher, now and then");
        assert_eq!(micros(1, &[9; 6]), [50, 100, 200, 400, 500, 500], "one busy watcher");
        assert_eq!(micros(100, &[3, 6, 12, 24, 24, 1, 1]), [5_000, 10_000, 20_000, 40_000, 40_000, 20_000, 10_000]);
        assert_eq!(micros(0, &[0]), [0], "nobody was told anything");
    }
}
