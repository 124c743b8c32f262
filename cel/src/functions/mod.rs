//! The table of functions and operators: their signatures and what they do. The checker and the evaluator both read it.

pub(crate) mod convert;
mod format;
mod lists;
mod operators;
mod optional;
pub(crate) mod regex;
mod strings;
pub(crate) mod time;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::budget::Budget;
use crate::error::EvalError;
use crate::kube;
use crate::types::{Type, split_arguments};
use crate::value::Value;

/// What a function gives.
pub(crate) type Answer = Result<Value, EvalError>;
type Run = fn(&mut Args<'_>) -> Answer;

/// A function for certain argument types. The receiver of a member function is its first argument.
#[derive(Debug)]
pub(crate) struct Overload {
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    pub run: Run,
}

/// A line of a library: name, signature (`string,int->string`; a member's begins with `.`), what to do.
pub(crate) type Line = (&'static str, &'static str, Run);

/// The arguments of one call.
pub(crate) struct Args<'a> {
    pub values: &'a [Value],
    pub pattern: Option<&'a ::regex::Regex>,
    pub budget: &'a mut Budget,
}

impl Args<'_> {
    pub fn value(&self, at: usize) -> Result<&Value, EvalError> {
        self.values.get(at).ok_or_else(EvalError::no_overload)
    }

    pub fn text(&self, at: usize) -> Result<Arc<str>, EvalError> {
        match self.value(at)? {
            Value::String(text) => Ok(text.clone()),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// A text, charged for being read once.
    pub fn scanned(&mut self, at: usize) -> Result<Arc<str>, EvalError> {
        let text = self.text(at)?;
        self.budget.charge_scan(text.len())?;
        Ok(text)
    }

    pub fn int(&self, at: usize) -> Result<i64, EvalError> {
        match self.value(at)? {
            Value::Int(value) => Ok(*value),
            _ => Err(EvalError::no_overload()),
        }
    }

    pub fn bool(&self, at: usize) -> Result<bool, EvalError> {
        match self.value(at)? {
            Value::Bool(value) => Ok(*value),
            _ => Err(EvalError::no_overload()),
        }
    }

    pub fn list(&self, at: usize) -> Result<Arc<Vec<Value>>, EvalError> {
        match self.value(at)? {
            Value::List(items) => Ok(items.clone()),
            _ => Err(EvalError::no_overload()),
        }
    }
}

/// The overloads of a name; empty where there is no such function.
pub(crate) fn named(name: &str) -> Vec<&'static Overload> {
    static TABLE: OnceLock<HashMap<&'static str, Vec<Overload>>> = OnceLock::new();
    TABLE.get_or_init(table).get(name).map(|overloads| overloads.iter().collect()).unwrap_or_default()
}

fn table() -> HashMap<&'static str, Vec<Overload>> {
    let libraries: [&[Line]; 16] = [
        operators::LINES,
        convert::LINES,
        strings::LINES,
        format::LINES,
        lists::LINES,
        optional::LINES,
        regex::LINES,
        time::LINES,
        kube::authz::LINES,
        kube::named::LINES,
        kube::net::LINES,
        kube::quantity::LINES,
        kube::semver::LINES,
        kube::url::LINES,
        kube::patch::LINES,
        lists::SETS,
    ];
    let mut table: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for (name, signature, run) in libraries.into_iter().flatten() {
        let (args, result) = signature.split_once("->").unwrap_or((signature, "dyn"));
        let member = args.starts_with('.');
        let args = split_arguments(args.trim_start_matches('.')).into_iter().map(Type::of_signature).collect();
        let overload = Overload { member, args, result: Type::of_signature(result), run: *run };
        table.entry(name).or_default().push(overload);
    }
    table
}
