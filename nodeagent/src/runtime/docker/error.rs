//! The engine's errors, sorted by what a caller can do about them. Pure.

use bollard::errors::Error as EngineError;

use crate::runtime::RuntimeError;

/// What was asked of the engine when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Making a container or volume.
    Create,
    /// Starting one.
    Start,
    /// Fetching an image.
    Pull,
    /// Anything else.
    Other,
}

/// Sorts an error of the client library.
pub fn from_engine(op: Op, error: EngineError) -> RuntimeError {
    match error {
        EngineError::DockerResponseServerError { status_code, message } => from_status(op, status_code, &message),
        EngineError::DockerStreamError { error } => from_status(op, 500, &error),
        EngineError::JsonDataError { message, .. } => {
            RuntimeError::Other(format!("the engine's answer is not understood: {message}"))
        }
        EngineError::JsonSerdeError { err } => {
            RuntimeError::Other(format!("the engine's answer is not understood: {err}"))
        }
        // What is left is the way to the engine: a socket that is not there, a connection cut, no answer in time.
        other => RuntimeError::Unavailable(chain(&other)),
    }
}

/// Sorts an answer by its HTTP status and message.
pub fn from_status(op: Op, status: u16, message: &str) -> RuntimeError {
    let message = message.trim();
    if is_engine_trouble(status, message) {
        return RuntimeError::Unavailable(message.to_owned());
    }
    match op {
        Op::Pull => pull(status, message),
        Op::Start if status == 404 && message.starts_with("No such container") => {
            RuntimeError::NotFound(message.to_owned())
        }
        Op::Start => RuntimeError::Start { message: message.to_owned(), exit_code: start_exit_code(message) },
        Op::Create | Op::Other if status == 404 => RuntimeError::NotFound(message.to_owned()),
        Op::Create => RuntimeError::Create(message.to_owned()),
        Op::Other => RuntimeError::Other(message.to_owned()),
    }
}

/// Whether a start failed for want of CAP_SYS_RESOURCE: the words of runc for capabilities, a negative OOM score and
/// a raised limit.
pub fn wants_sys_resource(message: &str) -> bool {
    ["unable to apply caps", "can't get final child's PID from pipe", "error setting rlimit type"]
        .iter()
        .any(|words| message.contains(words))
}

fn is_engine_trouble(status: u16, message: &str) -> bool {
    status == 503
        || (status >= 500
            && ["containerd.sock", "timeout waiting for containerd", "context deadline exceeded", "ttrpc: closed"]
                .iter()
                .any(|words| message.contains(words)))
}

fn start_exit_code(message: &str) -> i32 {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&["executable file not found", "no such file or directory", "system cannot find the file"]) {
        127
    } else if has(&["permission denied", "exec format error", "is a directory", "not a directory"]) {
        126
    } else {
        128
    }
}

fn pull(status: u16, message: &str) -> RuntimeError {
    let has = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if has(&["invalid reference format", "invalid tag format"]) {
        return RuntimeError::InvalidImageName(message.to_owned());
    }
    let lead = if has(&["no basic auth credentials", "unauthorized", "authentication required", "denied"]) {
        "the registry refused the credentials or wants some: "
    } else if status == 404 || has(&["manifest unknown", "not found"]) {
        "not found: "
    } else if has(&["connection refused", "no such host", "i/o timeout", "TLS handshake", "server gave HTTP response"]) {
        "the registry cannot be reached: "
    } else {
        ""
    };
    RuntimeError::Pull(format!("{lead}{message}"))
}

/// An error with its causes, which the client library keeps one level down.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_errors_have_a_shells_exit_codes() {
        for (message, code) in [
            (r#"OCI runtime create failed: exec: "nosuch": executable file not found in $PATH: unknown"#, 127),
            (r#"exec: "/nosuch": stat /nosuch: no such file or directory: unknown"#, 127),
            (r#"exec: "/etc/passwd": permission denied: unknown"#, 126),
            ("failed to write 150000: write cpu.cfs_quota_us: invalid argument", 128),
        ] {
            let RuntimeError::Start { exit_code, .. } = from_status(Op::Start, 400, message) else {
                panic!("{message} is a start error");
            };
            assert_eq!(exit_code, code, "{message}");
        }
        assert!(matches!(from_status(Op::Start, 404, "No such container: x"), RuntimeError::NotFound(_)));
        let late = "timeout waiting for containerd to start";
        assert!(matches!(from_status(Op::Start, 500, late), RuntimeError::Unavailable(_)));
    }

    #[test]
    fn pull_errors_say_whose_fault_it_is() {
        for (status, message, expected) in [
            (500, r#"Head "http://r/v2/a/manifests/1": no basic auth credentials"#, "the registry refused the cred"),
            (500, "unauthorized: authentication required", "the registry refused the credentials"),
            (404, "manifest for r/a:2 not found: manifest unknown: manifest unknown", "not found: manifest for r/a:2"),
            (500, "dial tcp 127.0.0.1:5999: connect: connection refused", "the registry cannot be reached: dial"),
            (200, "filesystem layer verification failed for digest sha256:1", "filesystem layer"),
        ] {
            let RuntimeError::Pull(text) = from_status(Op::Pull, status, message) else {
                panic!("{message} is a pull error");
            };
            assert!(text.starts_with(expected), "{text}");
        }
        let invalid = "invalid reference format: repository name must be lowercase";
        assert!(matches!(from_status(Op::Pull, 400, invalid), RuntimeError::InvalidImageName(_)));
    }

    #[test]
    fn the_machines_lack_is_recognised() {
        assert!(wants_sys_resource("unable to apply caps: operation not permitted"));
        assert!(!wants_sys_resource("executable file not found"));
    }

    #[test]
    fn a_missing_engine_is_not_a_missing_container() {
        let gone = EngineError::SocketNotFoundError("/x.sock".into());
        assert!(matches!(from_engine(Op::Other, gone), RuntimeError::Unavailable(_)));
        assert!(matches!(from_status(Op::Create, 404, "No such image: a:1"), RuntimeError::NotFound(_)));
        assert!(matches!(from_status(Op::Create, 400, "bind source path does not exist: /p"), RuntimeError::Create(_)));
    }
}
