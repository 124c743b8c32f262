//! What goes wrong with an expression, in the words of cel-go: issues with positions when it is compiled, an error when
//! it is evaluated.

use std::fmt;

/// One finding of the parser or the checker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where in the expression, in characters from its start.
    pub offset: usize,
    pub message: String,
}

/// An expression that cannot be compiled. Displayed as cel-go shows it, position, line and caret included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    pub source: String,
    pub issues: Vec<Issue>,
}

impl CompileError {
    pub(crate) fn one(source: &str, offset: usize, message: impl Into<String>) -> Self {
        Self { source: source.to_owned(), issues: vec![Issue { offset, message: message.into() }] }
    }
}

/// Line (from 1), column (from 0) and text of the line that holds the character at `offset`.
fn place(source: &str, offset: usize) -> (usize, usize, String) {
    let (mut line, mut start) = (1, 0);
    for (at, c) in source.chars().enumerate().take(offset) {
        if c == '\n' {
            line += 1;
            start = at + 1;
        }
    }
    let text = source.split('\n').nth(line - 1).unwrap_or_default().replace('\t', " ");
    (line, offset.saturating_sub(start), text)
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, issue) in self.issues.iter().enumerate() {
            let (line, column, text) = place(&self.source, issue.offset);
            let end = if at == 0 { "" } else { "\n" };
            let dots = ".".repeat(column);
            write!(f, "{end}ERROR: <input>:{line}:{}: {}\n | {text}\n | {dots}^", column + 1, issue.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for CompileError {}

/// An evaluation that gave no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The budget is spent. No operator absorbs this.
    #[error("operation cancelled: actual cost limit exceeded")]
    Cost,
    /// Everything else; `||` and `&&` absorb it when the other side decides.
    #[error("{0}")]
    Other(String),
}

impl EvalError {
    /// An error with these words.
    pub fn new(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    pub(crate) fn no_overload() -> Self {
        Self::new("no such overload")
    }

    pub(crate) fn no_key(key: &str) -> Self {
        Self::new(format!("no such key: {key}"))
    }
}
