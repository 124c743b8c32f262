//! What `up` shows while it works: one line per step, with how long it took.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// Shows steps and remembers the total.
pub struct Steps {
    started: Instant,
}

/// `1.2 s`, `3 min 04 s`
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 100.0 { format!("{seconds:.1} s") } else { format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60) }
}

impl Steps {
    /// Starts the clock.
    pub fn new() -> Self {
        Self { started: Instant::now() }
    }

    /// Runs one step. It may return a note that is shown behind the time; `say` replaces the text of the running step
    /// on a terminal and is silent elsewhere.
    pub fn run<T>(&self, title: &str, step: impl FnOnce(&dyn Fn(&str)) -> Result<(T, String)>) -> Result<T> {
        let started = Instant::now();
        let terminal = std::io::stderr().is_terminal();
        if terminal {
            eprint!("  … {title}");
        }
        let say = |text: &str| {
            if terminal {
                eprint!("\r\x1b[2K  … {title}: {text}");
                // A progress line that cannot be shown is no reason to fail.
                std::io::stderr().flush().ok();
            }
        };
        let result = step(&say);
        let clear = if terminal { "\r\x1b[2K" } else { "" };
        match result {
            Ok((value, note)) => {
                let note = if note.is_empty() { String::new() } else { format!("  ({note})") };
                eprintln!("{clear}  ✓ {title:<44} {:>12}{note}", duration(started.elapsed()));
                Ok(value)
            }
            Err(error) => {
                eprintln!("{clear}  ✗ {title:<44} {:>12}", duration(started.elapsed()));
                Err(error).with_context(|| title.to_owned())
            }
        }
    }

    /// Since the start.
    pub fn total(&self) -> Duration {
        self.started.elapsed()
    }
}
