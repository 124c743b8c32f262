//! Levels and schemas as configured, and which request belongs to which. Pure.

use balsa_api::kinds::flowcontrol::builtin;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::machine::{LevelLimits, Limited, Queuing};
use crate::authn::Caller;
use crate::authz::rbac::Attributes;
use crate::value;

/// The most queues of a level, whatever its object says.
const MAX_QUEUES: usize = 10_000;

/// The flags.
#[derive(Debug, Clone, clap::Args)]
pub struct Limits {
    /// Reading requests that may run at once.
    #[arg(long = "max-requests-inflight", env = "BALSA_MAX_REQUESTS_INFLIGHT", default_value_t = 400)]
    pub reading: u32,
    /// Writing requests that may run at once. With priority and fairness the sum of both is divided among the levels.
    #[arg(long = "max-mutating-requests-inflight", env = "BALSA_MAX_MUTATING_REQUESTS_INFLIGHT", default_value_t = 200)]
    pub writing: u32,
    /// Divide the requests that may run at once among priority levels, fairly within each.
    #[arg(
        long = "enable-priority-and-fairness",
        env = "BALSA_ENABLE_PRIORITY_AND_FAIRNESS",
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        default_value_t = true,
        default_missing_value = "true"
    )]
    pub fair: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { reading: 400, writing: 200, fair: true }
    }
}

/// Where a request belongs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flow {
    /// The level's name.
    pub level: String,
    /// Of schema and distinguisher.
    pub hash: u64,
    /// UID of the schema; empty where it is no object.
    pub schema_uid: String,
    /// UID of the level.
    pub level_uid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Nothing,
    User,
    Namespace,
}

#[derive(Debug, Clone)]
struct Schema {
    name: String,
    uid: String,
    level: String,
    level_uid: String,
    precedence: i64,
    by: By,
    rules: Vec<Value>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Configuration {
    schemas: Vec<Schema>,
    /// The levels with their seats.
    pub levels: Vec<LevelLimits>,
}

fn number(object: &Value, pointer: &str) -> Option<u64> {
    object.pointer(pointer).and_then(Value::as_u64)
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

/// The objects that every cluster begins with, of one kind.
pub fn builtin_of(kind: &str) -> Vec<Value> {
    builtin::all().into_iter().filter(|object| value::text(object, "/kind") == kind).collect()
}

/// The objects, and of every cluster's own those that are missing and cannot be missing.
fn complete(objects: &[Value], defaults: Vec<Value>) -> Vec<Value> {
    if objects.is_empty() {
        return defaults;
    }
    let mandatory = |object: &Value| matches!(value::name(object), "exempt" | "catch-all");
    let missing = |object: &Value| !objects.iter().any(|own| value::name(own) == value::name(object));
    let added = defaults.into_iter().filter(|object| mandatory(object) && missing(object));
    objects.iter().cloned().chain(added).collect()
}

fn queuing(level: &Value) -> Option<Queuing> {
    if value::text(level, "/spec/limited/limitResponse/type") == "Reject" {
        return None;
    }
    let size = |key: &str, default: usize, most: usize| {
        let given = number(level, &format!("/spec/limited/limitResponse/queuing/{key}"));
        given.and_then(|given| usize::try_from(given).ok()).unwrap_or(default).clamp(1, most)
    };
    let queues = size("queues", 64, MAX_QUEUES);
    Some(Queuing { queues, hand: size("handSize", 8, queues.min(64)), length: size("queueLengthLimit", 50, 1_000_000) })
}

/// Seats of all levels: each its share of `seats`, rounded up. A level's shares are 30 where it does not say.
fn seats(levels: &[Value], seats: u32) -> Vec<LevelLimits> {
    let is_exempt = |level: &Value| value::text(level, "/spec/type") == "Exempt";
    let shares = |level: &Value| {
        let part = if is_exempt(level) { "exempt" } else { "limited" };
        let default = if is_exempt(level) { 0 } else { 30 };
        number(level, &format!("/spec/{part}/nominalConcurrencyShares")).unwrap_or(default)
    };
    let sum: u64 = levels.iter().map(shares).fold(0, u64::saturating_add).max(1);
    let part = |of: u64, divisor: u64| u32::try_from(of.div_ceil(divisor)).unwrap_or(u32::MAX);
    let limits = |level: &Value| {
        if is_exempt(level) {
            return None;
        }
        let nominal = part(u64::from(seats).saturating_mul(shares(level)), sum);
        let percent = |key: &str| number(level, &format!("/spec/limited/{key}"));
        let of_nominal = |percent: u64| u32::try_from((u64::from(nominal).saturating_mul(percent) + 50) / 100).unwrap_or(u32::MAX);
        Some(Limited {
            nominal,
            lendable: of_nominal(percent("lendablePercent").unwrap_or(0).min(100)),
            borrowing: percent("borrowingLimitPercent").map(of_nominal),
            queuing: queuing(level),
        })
    };
    levels.iter().map(|level| LevelLimits { name: value::name(level).to_owned(), limited: limits(level) }).collect()
}

impl Configuration {
    /// From the objects of the two kinds; where there are none, from those that every cluster begins with.
    pub fn new(schemas: &[Value], levels: &[Value], limits: &Limits) -> Self {
        if !limits.fair {
            return Self::unfair(limits);
        }
        let levels = complete(levels, builtin_of("PriorityLevelConfiguration"));
        let mut schemas: Vec<Schema> = complete(schemas, builtin_of("FlowSchema"))
            .iter()
            .filter_map(|schema| {
                let level_name = value::text(schema, "/spec/priorityLevelConfiguration/name");
                // One whose level is missing counts for nothing.
                let level = levels.iter().find(|level| value::name(level) == level_name)?;
                let rules = schema.pointer("/spec/rules").and_then(Value::as_array);
                Some(Schema {
                    name: value::name(schema).to_owned(),
                    uid: value::uid(schema).to_owned(),
                    level: level_name.to_owned(),
                    level_uid: value::uid(level).to_owned(),
                    precedence: schema.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000),
                    by: match value::text(schema, "/spec/distinguisherMethod/type") {
                        "ByUser" => By::User,
                        "ByNamespace" => By::Namespace,
                        _ => By::Nothing,
                    },
                    rules: rules.cloned().unwrap_or_default(),
                })
            })
            .collect();
        schemas.sort_by(|a, b| (a.precedence, &a.name).cmp(&(b.precedence, &b.name)));
        Self { schemas, levels: seats(&levels, limits.reading.saturating_add(limits.writing)) }
    }

    /// Two levels, as kube-apiserver has it without priority and fairness; administrators are not held up.
    fn unfair(limits: &Limits) -> Self {
        let level = |name: &str, nominal: u32| LevelLimits {
            name: name.to_owned(),
            limited: Some(Limited { nominal: nominal.max(1), lendable: 0, borrowing: Some(0), queuing: None }),
        };
        let exempt = LevelLimits { name: "exempt".to_owned(), limited: None };
        Self { schemas: Vec::new(), levels: vec![exempt, level("reading", limits.reading), level("writing", limits.writing)] }
    }

    /// Where the request belongs.
    pub fn classify(&self, caller: &Caller, asked: &Attributes) -> Flow {
        if self.schemas.is_empty() {
            let level = match asked.verb.as_str() {
                _ if caller.is_in("system:masters") => "exempt",
                "get" | "list" | "watch" | "head" => "reading",
                _ => "writing",
            };
            return Flow { level: level.to_owned(), ..Flow::default() };
        }
        let found = self.schemas.iter().find(|schema| schema.rules.iter().any(|rule| fits(rule, caller, asked)));
        // The last of them takes everybody.
        let Some(schema) = found.or(self.schemas.last()) else { return Flow::default() };
        let distinguisher = match schema.by {
            By::Nothing => "",
            By::User => &caller.user,
            By::Namespace => &asked.namespace,
        };
        Flow {
            level: schema.level.clone(),
            hash: hash(&schema.name, distinguisher),
            schema_uid: schema.uid.clone(),
            level_uid: schema.level_uid.clone(),
        }
    }
}

fn hash(schema: &str, distinguisher: &str) -> u64 {
    let digest = Sha256::new().chain_update(schema).chain_update([0]).chain_update(distinguisher).finalize();
    digest.iter().take(8).fold(0, |hash, byte| (hash << 8) | u64::from(*byte))
}

fn fits(rule: &Value, caller: &Caller, asked: &Attributes) -> bool {
    let list = |key: &str| rule.get(key).and_then(Value::as_array).into_iter().flatten();
    if !list("subjects").any(|subject| is_subject(subject, caller)) {
        return false;
    }
    if !asked.path.is_empty() {
        return list("nonResourceRules").any(|rule| {
            let paths = value::strings(rule, "/nonResourceURLs");
            any(&value::strings(rule, "/verbs"), &asked.verb)
                && paths.iter().any(|path| path_fits(path, &asked.path))
        });
    }
    let full = if asked.subresource.is_empty() {
        asked.resource.clone()
    } else {
        format!("{}/{}", asked.resource, asked.subresource)
    };
    list("resourceRules").any(|rule| {
        let scope = if asked.namespace.is_empty() {
            rule.get("clusterScope").and_then(Value::as_bool).unwrap_or_default()
        } else {
            any(&value::strings(rule, "/namespaces"), &asked.namespace)
        };
        scope
            && any(&value::strings(rule, "/verbs"), &asked.verb)
            && any(&value::strings(rule, "/apiGroups"), &asked.group)
            && any(&value::strings(rule, "/resources"), &full)
    })
}

fn path_fits(rule: &str, path: &str) -> bool {
    match rule.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => rule == path,
    }
}

fn is_subject(subject: &Value, caller: &Caller) -> bool {
    match value::text(subject, "/kind") {
        "User" => matches!(value::text(subject, "/user/name"), name if name == "*" || name == caller.user),
        "Group" => matches!(value::text(subject, "/group/name"), name if name == "*" || caller.is_in(name)),
        "ServiceAccount" => {
            let account = caller.user.strip_prefix("system:serviceaccount:").and_then(|account| account.split_once(':'));
            account.is_some_and(|(namespace, name)| {
                let wanted = value::text(subject, "/serviceAccount/name");
                namespace == value::text(subject, "/serviceAccount/namespace") && (wanted == "*" || wanted == name)
            })
        }
        _ => false,
    }
}
