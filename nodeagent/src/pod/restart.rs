//! Whether a container that ended is started again, and how long it waits first.
//!
//! Pure. The first restart is immediate; then the wait doubles from 10 s to 5 min, counted from the moment the last
//! instance ended; a container that did well for 10 minutes starts over. Image pulls wait by the same rule, counted
//! from the failure.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::view::{self, RestartPolicy, Role, after, since};

/// The first wait.
pub const INITIAL: Duration = Duration::from_secs(10);
/// The longest wait.
pub const MAX: Duration = Duration::from_secs(300);

/// How long something that fails again and again has to wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// The wait in force.
    pub delay: Duration,
    /// When it was last raised.
    pub updated_at: Timestamp,
    /// For which container spec; another spec starts over.
    pub spec_hash: String,
}

impl Backoff {
    fn expired(&self, at: Timestamp) -> bool {
        since(self.updated_at, at) > MAX * 2
    }
}

/// If the thing that last failed at `failed_at` must still wait at `now`: (the whole wait, until when).
pub fn waits(
    backoff: Option<&Backoff>,
    spec_hash: &str,
    failed_at: Timestamp,
    now: Timestamp,
) -> Option<(Duration, Timestamp)> {
    let backoff = backoff.filter(|backoff| backoff.spec_hash == spec_hash && !backoff.expired(failed_at))?;
    let until = after(failed_at, backoff.delay);
    (now < until).then_some((backoff.delay, until))
}

/// The back-off after one more attempt, made at `now` for a failure at `failed_at`.
pub fn raised(backoff: Option<&Backoff>, spec_hash: &str, failed_at: Timestamp, now: Timestamp) -> Backoff {
    let delay = match backoff {
        Some(old) if old.spec_hash == spec_hash && !old.expired(failed_at) => (old.delay * 2).min(MAX),
        _ => INITIAL,
    };
    Backoff { delay, updated_at: now, spec_hash: spec_hash.to_owned() }
}

/// What an agent that has just started assumes of a container that has been restarted `restarts` times, the last time
/// at `started_at`: never a shorter wait than the one that was in force.
pub fn rebuilt(restarts: u32, started_at: Timestamp, spec_hash: &str) -> Option<Backoff> {
    let doublings = restarts.checked_sub(1)?;
    let delay = INITIAL.saturating_mul(1 << doublings.min(10)).min(MAX);
    Some(Backoff { delay, updated_at: started_at, spec_hash: spec_hash.to_owned() })
}

/// `10s`, `2m40s`, `5m0s`: as messages write a wait.
pub fn display(wait: Duration) -> String {
    let seconds = wait.as_secs();
    match seconds / 60 {
        0 => format!("{seconds}s"),
        minutes => format!("{minutes}m{}s", seconds % 60),
    }
}

/// Whether a container that ended with `exit_code` is to be started again.
pub fn wanted(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    match role {
        Role::Sidecar => true,
        Role::Ephemeral => false,
        Role::Init if !has_own_policy(container) => {
            exit_code != 0 && view::restart_policy(pod) != RestartPolicy::Never
        }
        Role::Init => exit_code != 0 && own_policy(pod, container, exit_code),
        Role::App => own_policy(pod, container, exit_code),
    }
}

fn has_own_policy(container: &Container) -> bool {
    container.restart_policy.is_some()
}

fn own_policy(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    let ruled = container.restart_policy_rules.iter().flatten().any(|rule| {
        rule.action == "Restart"
            && rule.exit_codes.as_ref().is_some_and(|codes| {
                let named = codes.values.iter().flatten().any(|value| *value == exit_code);
                if codes.operator == "NotIn" { !named } else { named }
            })
    });
    let policy = match &container.restart_policy {
        Some(own) => RestartPolicy::parse(Some(own)),
        None => view::restart_policy(pod),
    };
    ruled
        || match policy {
            RestartPolicy::Always => true,
            RestartPolicy::OnFailure => exit_code != 0,
            RestartPolicy::Never => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let mut backoff = None;
        let mut now = at(0);
        let mut delays = Vec::new();
        for _ in 0..8 {
            let exited = now;
            if let Some((_, until)) = waits(backoff.as_ref(), "h", exited, now) {
                now = until;
            }
            delays.push(since(exited, now).as_secs());
            backoff = Some(raised(backoff.as_ref(), "h", exited, now));
            now = after(now, Duration::from_secs(1));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_good_minutes_and_a_new_image_start_over() {
        let old = Backoff { delay: MAX, updated_at: at(0), spec_hash: "h".to_owned() };
        assert!(waits(Some(&old), "h", at(30), at(31)).is_some());
        assert_eq!(waits(Some(&old), "h", at(601), at(602)), None, "ran for more than ten minutes");
        assert_eq!(raised(Some(&old), "h", at(601), at(602)).delay, INITIAL);
        assert_eq!(waits(Some(&old), "other", at(30), at(31)), None, "another image");
        assert_eq!(raised(Some(&old), "other", at(30), at(31)).delay, INITIAL);
    }

    #[test]
    fn a_restarted_agent_never_shortens_the_wait() {
        assert_eq!(rebuilt(0, at(0), "h"), None);
        assert_eq!(rebuilt(1, at(0), "h").unwrap().delay, INITIAL);
        assert_eq!(rebuilt(4, at(0), "h").unwrap().delay, Duration::from_secs(80));
        assert_eq!(rebuilt(400, at(0), "h").unwrap().delay, MAX);
    }

    #[test]
    fn durations_as_messages_write_them() {
        for (seconds, text) in [(10, "10s"), (40, "40s"), (80, "1m20s"), (160, "2m40s"), (300, "5m0s")] {
            assert_eq!(display(Duration::from_secs(seconds)), text);
        }
    }
}
