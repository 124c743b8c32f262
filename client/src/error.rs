//! How a call can fail, and what the caller may conclude from it.
//!
//! Decides which gRPC statuses are an answer of the apiserver and which mean that there was none.

use balsa_api::status::ApiError;
use thiserror::Error as ThisError;
use tonic::{Code, Status};

/// The metadata key under which a gRPC error carries a Kubernetes `Status` as JSON.
pub(crate) const STATUS_METADATA: &str = "balsa-status-bin";

/// The result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a call failed.
#[derive(Debug, Clone, ThisError)]
pub enum Error {
    /// The apiserver answered, and said no: its `Status`. Final, except where [`Error::is_retryable`] says otherwise.
    #[error("{0}")]
    Api(ApiError),
    /// There was no answer in time from any endpoint. A write may or may not have happened: observe again.
    #[error("the apiserver cannot be reached: {0}")]
    Unavailable(String),
    /// The answer is not what its type says: a fault in one of the two programs.
    #[error("cannot decode the apiserver's answer: {0}")]
    Decode(String),
}

impl Error {
    /// The apiserver's answer, where there was one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            Self::Unavailable(_) | Self::Decode(_) => None,
        }
    }

    /// Whether the object (or the path) does not exist.
    pub fn is_not_found(&self) -> bool {
        self.api().is_some_and(ApiError::is_not_found)
    }

    /// Whether somebody else wrote in between, or a precondition failed: observe again.
    pub fn is_conflict(&self) -> bool {
        self.api().is_some_and(ApiError::is_conflict)
    }

    /// Whether the name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.api().is_some_and(ApiError::is_already_exists)
    }

    /// Whether the revision that was asked for is gone: list again.
    pub fn is_expired(&self) -> bool {
        self.api().is_some_and(|error| error.code == 410)
    }

    /// Whether the object's namespace is being deleted, so that nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.api().is_some_and(|error| {
            error.code == 403 && error.details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        })
    }

    /// Whether the same call may succeed later without anything having been changed by the caller.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Api(error) => matches!(error.code, 429 | 500 | 503 | 504),
            Self::Unavailable(_) => true,
            Self::Decode(_) => false,
        }
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Self::Api(error)
    }
}

/// Reads a gRPC status. Where it carries no Kubernetes `Status`, its code decides: codes that a proxy or the
/// transport itself produces mean that there was no answer.
pub(crate) fn from_status(status: &Status) -> Error {
    if let Some(value) = status.metadata().get_bin(STATUS_METADATA)
        && let Ok(json) = value.to_bytes()
        && let Some(error) = ApiError::from_json(&json)
    {
        return Error::Api(error);
    }
    let message = status.message();
    match status.code() {
        Code::InvalidArgument => Error::Api(ApiError::bad_request(message)),
        Code::Unauthenticated => Error::Api(ApiError::unauthorized()),
        Code::PermissionDenied => Error::Api(ApiError::new(403, "Forbidden", message)),
        Code::NotFound => Error::Api(ApiError::new(404, "NotFound", message)),
        Code::AlreadyExists => Error::Api(ApiError::new(409, "AlreadyExists", message)),
        Code::Aborted | Code::FailedPrecondition => Error::Api(ApiError::new(409, "Conflict", message)),
        Code::OutOfRange if message.contains("length too large") => Error::Decode(message.to_owned()),
        Code::OutOfRange => Error::Api(ApiError::expired(message)),
        Code::ResourceExhausted => Error::Api(ApiError::too_large(message)),
        Code::Unimplemented => Error::Api(ApiError::new(405, "MethodNotAllowed", message)),
        _ => Error::Unavailable(format!("{}: {message}", status.code())),
    }
}

/// Whether the request certainly never left this process: no connection could be made.
pub(crate) fn was_never_sent(status: &Status) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The gRPC status that carries `error`, as the apiserver sends it.
#[cfg(any(test, feature = "test-util"))]
pub fn to_status(error: &ApiError) -> Status {
    let code = match error.code {
        400 | 422 => Code::InvalidArgument,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        409 if error.reason == "AlreadyExists" => Code::AlreadyExists,
        409 => Code::Aborted,
        410 => Code::OutOfRange,
        413 | 429 => Code::ResourceExhausted,
        405 => Code::Unimplemented,
        503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        _ => Code::Internal,
    };
    let mut metadata = tonic::metadata::MetadataMap::new();
    metadata.insert_bin(STATUS_METADATA, tonic::metadata::MetadataValue::from_bytes(&error.to_json()));
    Status::with_metadata(code, error.message.clone(), metadata)
}

#[cfg(test)]
mod tests {
    use balsa_api::meta::GroupVersionResource;

    use super::*;

    #[test]
    fn a_kubernetes_status_survives_the_wire() {
        let pods = GroupVersionResource::new("", "v1", "pods");
        let sent = ApiError::modified(&pods, "web");
        let received = from_status(&to_status(&sent));
        assert!(received.is_conflict());
        assert_eq!(received.api(), Some(&sent));
    }

    #[test]
    fn statuses_of_the_transport_are_no_answers() {
        for code in [Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled, Code::DeadlineExceeded] {
            let error = from_status(&Status::new(code, "tcp"));
            assert!(matches!(error, Error::Unavailable(_)), "{code:?} gave {error:?}");
            assert!(error.is_retryable());
        }
        assert!(from_status(&Status::new(Code::OutOfRange, "old")).is_expired());
    }
}
