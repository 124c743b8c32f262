//! The Common Expression Language as Kubernetes uses it: match conditions, admission policies, validation rules of
//! custom resources.
//!
//! An expression is parsed, checked against an [`Environment`] and then evaluated with [`Bindings`] within a
//! [`Budget`]. Nothing here does IO; whatever the input, the answer is a value or an error.

mod ast;
mod budget;
mod check;
mod compare;
mod environment;
mod error;
mod eval;
mod functions;
mod kube;
mod lexer;
mod macros;
mod parser;
mod types;
mod value;

#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use budget::{Budget, MATCH_CONDITIONS, PER_CALL, PER_REQUEST};
pub use environment::{Environment, TypeProvider};
pub use error::{CompileError, EvalError, Issue};
pub use functions::time::{parse_duration, parse_timestamp};
pub use kube::authz::{AccessRequest, Authorizer, Decision};
pub use types::Type;
pub use value::{Dynamic, Key, Object, Value};

/// A checked expression, to be evaluated any number of times.
#[derive(Clone, Debug)]
pub struct Program {
    root: ast::Node,
    result: Type,
}

/// Values of variables, by name. A variable that was declared and is not here is an error when it is used.
pub type Bindings = BTreeMap<String, Value>;

impl Program {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// Syntax errors, undeclared names, calls that no overload fits; displayed as cel-go displays them.
    pub fn compile(expression: &str, environment: &Environment) -> Result<Self, CompileError> {
        let mut root = parser::parse(expression)?;
        match check::check(&mut root, environment) {
            Ok(result) => Ok(Self { root, result }),
            Err(issues) => Err(CompileError { source: expression.to_owned(), issues }),
        }
    }

    /// The type of what the expression gives; [`Type::Dyn`] where only evaluation tells.
    pub fn result(&self) -> &Type {
        &self.result
    }

    /// Whether the expression may give this type: it does, or only evaluation tells.
    pub fn may_give(&self, of: &Type) -> bool {
        self.result == Type::Dyn || self.result == *of
    }

    /// The value of the expression.
    ///
    /// # Errors
    /// What went wrong in the evaluation, and [`EvalError::Cost`] once the budget is spent.
    pub fn evaluate(&self, bindings: &Bindings, budget: &mut Budget) -> Result<Value, EvalError> {
        eval::Evaluator { bindings, budget, locals: Vec::new() }.node(&self.root)
    }
}
