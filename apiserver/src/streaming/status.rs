//! How an exec or attach ended, in the words that clients wait for. Pure.

use serde_json::{Value, json};

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0, or the end of an attach.
    Success,
    /// The command ran and failed.
    ExitCode {
        /// What was run.
        command: Vec<String>,
        /// Not 0.
        code: i32,
    },
    /// It could not be run, or we lost it.
    Failed(String),
}

impl Outcome {
    /// The `Status` that protocols v4 and v5 send on the error channel.
    pub fn to_json(&self) -> Vec<u8> {
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode { code, .. } => json!({
                "metadata": {}, "status": "Failure", "message": self.text(), "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Failed(message) => json!({
                "metadata": {}, "status": "Failure", "message": self.text(), "reason": "InternalError",
                "details": {"causes": [{"message": message}]}, "code": 500,
            }),
        };
        serde_json::to_vec::<Value>(&status).unwrap_or_default()
    }

    /// What older protocols send there: nothing for a success.
    pub fn text(&self) -> String {
        match self {
            Self::Success => String::new(),
            Self::ExitCode { command, code } => format!(
                "command terminated with non-zero exit code: error executing command [{}], exit code {code}",
                command.join(" ")
            ),
            Self::Failed(message) => format!("Internal error occurred: {message}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_is_a_cause() {
        let outcome = Outcome::ExitCode { command: vec!["sh".into(), "-c".into(), "exit 3".into()], code: 3 };
        let status: Value = serde_json::from_slice(&outcome.to_json()).unwrap();
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
        assert_eq!(
            status["message"],
            "command terminated with non-zero exit code: error executing command [sh -c exit 3], exit code 3"
        );
    }

    #[test]
    fn a_success_says_nothing_more() {
        assert_eq!(Outcome::Success.to_json(), br#"{"metadata":{},"status":"Success"}"#);
    }
}
