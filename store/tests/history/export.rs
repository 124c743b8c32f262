//! A history for other checkers: as Jepsen's EDN, one operation per line, and as JSON that a porcupine model can read.

use std::fmt::Write as _;

use super::{Call, Compare, Event, Op, Outcome};

/// A string as EDN and JSON both write it.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _never = write!(quoted, "\\u{:04x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// `{:process 1, :type :invoke, :f :txn, :value "...", :index 7}`, in the order in which things happened. An unknown
/// outcome is `:info`, a refusal `:fail`.
pub fn edn(events: &[Event]) -> String {
    let mut lines = Vec::new();
    for event in events {
        let (f, value) = (name(&event.call), quoted(&json_call(&event.call)));
        let line = |kind: &str, at: u64, value: &str| {
            format!("{{:process {}, :type :{kind}, :f :{f}, :value {value}, :index {at}}}\n", event.client)
        };
        lines.push((event.called, line("invoke", event.called, &value)));
        match &event.outcome {
            Outcome::Done { .. } => {
                lines.push((event.returned, line("ok", event.returned, &quoted(&json_outcome(&event.outcome)))));
            }
            Outcome::Refused => lines.push((event.returned, line("fail", event.returned, "nil"))),
            Outcome::Unknown => lines.push((u64::MAX, line("info", event.called, "nil"))),
        }
    }
    lines.sort_by_key(|(at, _)| *at);
    lines.into_iter().map(|(_, line)| line).collect()
}

/// An array of porcupine's `Operation`: client, call time, input, return time (-1 for an unknown outcome), output.
pub fn porcupine(events: &[Event]) -> String {
    let operations: Vec<String> = events
        .iter()
        .map(|event| {
            let returned = if event.returned == u64::MAX { "-1".to_owned() } else { event.returned.to_string() };
            format!(
                "{{\"ClientId\":{},\"Call\":{},\"Input\":{},\"Return\":{returned},\"Output\":{}}}",
                event.client,
                event.called,
                json_call(&event.call),
                json_outcome(&event.outcome)
            )
        })
        .collect();
    format!("[{}]\n", operations.join(",\n"))
}

fn name(call: &Call) -> &'static str {
    match call {
        Call::Txn { .. } => "txn",
        Call::Grant(_) => "grant",
        Call::Revoke(_) => "revoke",
        Call::Expire(_) => "expire",
    }
}

fn list<T>(items: &[T], each: impl Fn(&T) -> String) -> String {
    format!("[{}]", items.iter().map(each).collect::<Vec<_>>().join(","))
}

fn json_op(op: &Op) -> String {
    match op {
        Op::Put { key, value, lease } => {
            format!("{{\"put\":{},\"value\":{},\"lease\":{lease}}}", quoted(key), quoted(value))
        }
        Op::Delete { from, to } => format!("{{\"delete\":{},\"to\":{}}}", quoted(from), quoted(to)),
        Op::Range { from, to } => format!("{{\"range\":{},\"to\":{}}}", quoted(from), quoted(to)),
    }
}

fn json_call(call: &Call) -> String {
    match call {
        Call::Txn { compare, then, otherwise } => {
            let compare = list(compare, |compare| match compare {
                Compare::Modified(key, revision) => format!("{{\"key\":{},\"modified\":{revision}}}", quoted(key)),
                Compare::Value(key, value) => format!("{{\"key\":{},\"value\":{}}}", quoted(key), quoted(value)),
            });
            format!("{{\"compare\":{compare},\"then\":{},\"else\":{}}}", list(then, json_op), list(otherwise, json_op))
        }
        Call::Grant(lease) => format!("{{\"grant\":{lease}}}"),
        Call::Revoke(lease) => format!("{{\"revoke\":{lease}}}"),
        Call::Expire(lease) => format!("{{\"expire\":{lease}}}"),
    }
}

fn json_outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { revision, succeeded, answers } => {
            let answers = list(answers, |answer| match answer {
                super::Answer::Put => "\"put\"".to_owned(),
                super::Answer::Deleted(count) => format!("{{\"deleted\":{count}}}"),
                super::Answer::Range(keys) => list(keys, |(key, seen)| {
                    format!(
                        "{{\"key\":{},\"value\":{},\"create\":{},\"modified\":{},\"version\":{},\"lease\":{}}}",
                        quoted(key),
                        quoted(&seen.value),
                        seen.create,
                        seen.modified,
                        seen.version,
                        seen.lease
                    )
                }),
            });
            format!("{{\"revision\":{revision},\"succeeded\":{succeeded},\"answers\":{answers}}}")
        }
        Outcome::Refused => "{\"refused\":true}".to_owned(),
        Outcome::Unknown => "null".to_owned(),
    }
}
