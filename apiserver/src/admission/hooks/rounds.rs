//! Who is asked a second time after others changed the object. Pure.
//!
//! After the reinvocation contexts of `k8s.io/apiserver/pkg/admission`: at most two rounds; in the second only those are
//! asked that want to be (`IfNeeded`) and after whom, in the first, somebody changed something.

use std::collections::BTreeSet;

use serde_json::Value;

/// What one sort of plug-in remembers from round to round.
#[derive(Debug, Default)]
pub struct Marks {
    asked: BTreeSet<String>,
    due: BTreeSet<String>,
    last: Option<Value>,
}

impl Marks {
    /// Before a round: what built-in plug-ins changed since the last one makes all due that may be asked again.
    pub fn begin(&mut self, second: bool, object: Option<&Value>) {
        if second && self.last.as_ref() != object {
            self.all_due();
        }
    }

    /// After a round.
    pub fn end(&mut self, object: Option<&Value>) {
        self.last = object.cloned();
    }

    /// Whether it is asked again.
    pub fn is_due(&self, key: &str) -> bool {
        self.due.contains(key)
    }

    fn all_due(&mut self) {
        self.due.append(&mut self.asked);
    }
}

/// The rounds of one request.
#[derive(Debug, Default)]
pub struct Rounds {
    /// This is the second round.
    pub second: bool,
    /// A second round is needed.
    pub wanted: bool,
    /// Of webhooks.
    pub webhooks: Marks,
    /// Of policies.
    pub policies: Marks,
}

impl Rounds {
    /// A webhook was asked. `again`: its key, if it may be asked again.
    pub fn note_webhook(&mut self, changed: bool, again: Option<&str>) {
        self.wanted |= changed;
        if changed {
            self.webhooks.all_due();
        }
        self.webhooks.asked.extend(again.map(str::to_owned));
    }

    /// As [`Self::note_webhook`], of a policy.
    pub fn note_policy(&mut self, changed: bool, again: Option<&str>) {
        self.wanted |= changed;
        if changed {
            self.policies.all_due();
        }
        self.policies.asked.extend(again.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_those_before_a_change_are_asked_again() {
        let mut rounds = Rounds::default();
        rounds.note_webhook(false, Some("a"));
        rounds.note_webhook(true, None);
        rounds.note_webhook(false, Some("c"));
        assert!(rounds.wanted && rounds.webhooks.is_due("a") && !rounds.webhooks.is_due("c"));
        rounds.webhooks.end(Some(&json!(1)));
        rounds.webhooks.begin(true, Some(&json!(1)));
        assert!(!rounds.webhooks.is_due("c"));
        rounds.webhooks.begin(true, Some(&json!(2)));
        assert!(rounds.webhooks.is_due("c"), "something else changed the object in between");
    }
}
