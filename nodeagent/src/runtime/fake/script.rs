//! What a container that does not exist would do. Pure.
//!
//! By environment, then image, then command:
//!
//! - `FAKE_RUN_MS`, `FAKE_EXIT_CODE`, `FAKE_OOM=1`, `FAKE_START_ERROR=words`, `FAKE_IGNORE_TERM=1`, `FAKE_LOG=line`
//! - `fake/exit:N` ends with N after a moment, `fake/oom:…` is killed for memory, `fake/nostart:…` does not start
//! - `sleep N`, `echo words`, `true`, `false`, `exit N`, alone or joined by `;`, `&&` or new lines after `sh -c`;
//!   anything else runs until it is stopped

use std::time::Duration;

use crate::runtime::ContainerSpec;

/// How long a container runs that ends "after a moment".
const MOMENT: Duration = Duration::from_millis(100);

/// A container's life, told beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// How long it runs by itself; `None`: until it is stopped.
    pub runs: Option<Duration>,
    /// How it ends by itself.
    pub exit_code: i32,
    /// Whether that end is the kernel's doing.
    pub oom_killed: bool,
    /// Why it does not start.
    pub start_error: Option<String>,
    /// Whether SIGTERM does nothing to it.
    pub ignores_term: bool,
    /// What it prints when it starts.
    pub output: Vec<String>,
}

/// What a command that is run in a container does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// How long it takes; `None`: for ever.
    pub takes: Option<Duration>,
    /// Its exit code.
    pub exit_code: i32,
    /// What it prints, line by line.
    pub output: Vec<String>,
}

/// A container's life by its spec.
pub fn of_container(spec: &ContainerSpec) -> Script {
    let words: Vec<&str> = spec.command.iter().chain(&spec.args).map(String::as_str).collect();
    let outcome = of_command(&words);
    let mut script = Script {
        runs: outcome.takes,
        exit_code: outcome.exit_code,
        oom_killed: false,
        start_error: None,
        ignores_term: false,
        output: outcome.output,
    };
    apply_image(&mut script, &spec.image);
    for (name, value) in &spec.env {
        apply_variable(&mut script, name, value);
    }
    script
}

fn apply_image(script: &mut Script, image: &str) {
    let name = image.rsplit_once("fake/").map_or("", |(_, name)| name);
    let (kind, tag) = name.split_once(':').unwrap_or((name, ""));
    match kind {
        "exit" => (script.runs, script.exit_code) = (Some(MOMENT), tag.parse().unwrap_or(0)),
        "oom" => (script.runs, script.exit_code, script.oom_killed) = (Some(MOMENT), 137, true),
        "nostart" => script.start_error = Some("exec: \"fake\": executable file not found in $PATH".to_owned()),
        _ => {}
    }
}

fn apply_variable(script: &mut Script, name: &str, value: &str) {
    match name {
        "FAKE_RUN_MS" => script.runs = value.parse().ok().map(Duration::from_millis),
        "FAKE_EXIT_CODE" => {
            script.exit_code = value.parse().unwrap_or(1);
            script.runs.get_or_insert(MOMENT);
        }
        "FAKE_OOM" => (script.runs, script.exit_code, script.oom_killed) = (Some(MOMENT), 137, true),
        "FAKE_START_ERROR" => script.start_error = Some(value.to_owned()),
        "FAKE_IGNORE_TERM" => script.ignores_term = true,
        "FAKE_LOG" => script.output.push(value.to_owned()),
        _ => {}
    }
}

/// What a command line does.
pub fn of_command(words: &[&str]) -> Outcome {
    let text = match words {
        [shell, flag, text, ..] if shell.ends_with("sh") && flag.starts_with('-') && flag.ends_with('c') => {
            (*text).to_owned()
        }
        _ => words.join(" "),
    };
    let mut outcome = Outcome { takes: Some(Duration::ZERO), ..Outcome::default() };
    for step in text.replace("&&", ";").split([';', '\n']).map(str::trim).filter(|step| !step.is_empty()) {
        if !take_step(&mut outcome, step) {
            return outcome;
        }
    }
    if text.trim().is_empty() {
        outcome.takes = None;
    }
    // A container that ends in the same instant would start and end in one look.
    outcome.takes = outcome.takes.map(|takes| takes.max(Duration::from_millis(1)));
    outcome
}

/// Plays one step; false when nothing comes after it.
fn take_step(outcome: &mut Outcome, step: &str) -> bool {
    let mut words = step.split_whitespace();
    let program = words.next().unwrap_or_default();
    let rest: Vec<&str> = words.collect();
    match program.rsplit('/').next().unwrap_or(program) {
        "sleep" => match rest.first().and_then(|seconds| seconds.trim_end_matches('s').parse::<f64>().ok()) {
            Some(seconds) if (0.0..1e9).contains(&seconds) => {
                let takes = outcome.takes.unwrap_or_default();
                outcome.takes = Some(takes + Duration::from_secs_f64(seconds));
            }
            _ => {
                outcome.takes = None;
                return false;
            }
        },
        "exit" => {
            outcome.exit_code = rest.first().and_then(|code| code.parse().ok()).unwrap_or(0);
            return false;
        }
        "echo" => outcome.output.push(rest.join(" ").trim_matches(['\'', '"']).to_owned()),
        "true" => outcome.exit_code = 0,
        "false" => outcome.exit_code = 1,
        _ => {
            outcome.takes = None;
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_do_what_they_say() {
        for (words, seconds, code, output) in [
            (&["sh", "-c", "echo hi; sleep 2; exit 3"][..], Some(2.0), 3, "hi"),
            (&["/bin/sh", "-ec", "true && false"], Some(0.001), 1, ""),
            (&["sleep", "0.5"], Some(0.5), 0, ""),
            (&["sleep", "infinity"], None, 0, ""),
            (&["nginx"], None, 0, ""),
            (&[], None, 0, ""),
        ] {
            let outcome = of_command(words);
            assert_eq!(outcome.takes, seconds.map(Duration::from_secs_f64), "{words:?}");
            assert_eq!((outcome.exit_code, outcome.output.join("|").as_str()), (code, output), "{words:?}");
        }
    }
}
