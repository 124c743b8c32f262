//! Expressions in a row within one budget, and what a list of match conditions comes to. Pure.

use balsa_cel::{Bindings, Budget, EvalError, PER_CALL, Program, Value};

/// What an expression that ran out of budget is told to its user as.
pub const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// An expression as it was written, and what compiling it gave.
#[derive(Debug, Clone)]
pub struct Expression {
    /// The text.
    pub text: String,
    /// The program, or what is wrong with it.
    pub program: Result<Program, String>,
}

/// Why an expression gave no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// This one failed; others may run.
    One(String),
    /// The budget is spent; nothing more may run.
    Budget,
}

impl Failure {
    /// For a person.
    pub fn message(&self) -> &str {
        match self {
            Self::One(message) => message,
            Self::Budget => OUT_OF_BUDGET,
        }
    }
}

impl Expression {
    /// Its value; `left` is what all expressions together may still cost.
    pub fn evaluate(&self, bindings: &Bindings, left: &mut u64) -> Result<Value, Failure> {
        let program = self.program.as_ref().map_err(|error| Failure::One(format!("compilation error: {error}")))?;
        let mut budget = Budget::new(PER_CALL.min(*left));
        let value = program.evaluate(bindings, &mut budget);
        *left -= budget.spent().min(*left);
        match value {
            Err(EvalError::Cost) if *left == 0 => Err(Failure::Budget),
            Err(error) => Err(Failure::One(format!("expression '{}' resulted in error: {error}", self.text))),
            Ok(value) => Ok(value),
        }
    }
}

/// Whether all match conditions hold. One that is false decides; an error of another counts only where none is, and
/// then by the failure policy: `ignore` makes it a no.
pub fn all_hold(conditions: &[Expression], bindings: &Bindings, ignore: bool) -> Result<bool, String> {
    let mut left = balsa_cel::MATCH_CONDITIONS;
    let mut errors = Vec::new();
    for condition in conditions {
        match condition.evaluate(bindings, &mut left) {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => return Ok(false),
            Ok(_) => {}
            Err(Failure::Budget) if ignore => return Ok(false),
            Err(Failure::Budget) => return Err(OUT_OF_BUDGET.to_owned()),
            Err(Failure::One(error)) => errors.push(error),
        }
    }
    match errors.as_slice() {
        [] => Ok(true),
        _ if ignore => Ok(false),
        [one] => Err(one.clone()),
        several => Err(format!("[{}]", several.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use balsa_cel::{Environment, Type};

    use super::*;

    fn conditions(texts: &[&str]) -> Vec<Expression> {
        let environment = Environment::new().variable("object", Type::Dyn);
        let compile = |text: &str| Program::compile(text, &environment).map_err(|error| error.to_string());
        texts.iter().map(|text| Expression { text: (*text).to_owned(), program: compile(text) }).collect()
    }

    #[test]
    fn one_no_decides_and_errors_go_by_the_failure_policy() {
        let bindings: Bindings = [("object".to_owned(), Value::from(&serde_json::json!({"a": 1})))].into();
        let hold = |texts: &[&str], ignore| all_hold(&conditions(texts), &bindings, ignore);
        assert_eq!(hold(&[], false), Ok(true));
        assert_eq!(hold(&["object.a == 1", "true"], false), Ok(true));
        assert_eq!(hold(&["object.b == 1", "object.a == 2"], false), Ok(false));
        assert_eq!(hold(&["object.b == 1", "true"], true), Ok(false));
        let error = hold(&["object.b == 1"], false).unwrap_err();
        assert_eq!(error, "expression 'object.b == 1' resulted in error: no such key: b");
    }
}
