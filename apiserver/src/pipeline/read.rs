//! Getting one object.

use std::time::Duration;

use balsa_api::status::{ApiError, ApiResult};

use super::{Api, Found, Target};

/// How long a reader waits until the cache has reached the revision it asked for.
pub const FRESHNESS: Duration = Duration::from_secs(3);

/// A resourceVersion parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// "": the newest.
    Newest,
    /// "0": whatever is at hand.
    Any,
    /// A revision.
    At(u64),
}

impl Version {
    /// Parses the parameter; 400 for anything but a number.
    pub fn parse(text: &str) -> ApiResult<Self> {
        match text {
            "" => Ok(Self::Newest),
            "0" => Ok(Self::Any),
            number => number.parse().map(Self::At).map_err(|_| {
                ApiError::bad_request(format!("Invalid value: {number:?}: resource version must be an unsigned integer"))
            }),
        }
    }
}

/// 504: the revision asked for lies in the future.
pub fn too_large(asked: u64, current: u64) -> ApiError {
    ApiError::timeout(format!("Too large resource version: {asked}, current: {current}"), 1)
        .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
}

impl Api {
    /// Waits until the caches have reached `revision`.
    pub async fn wait_until_fresh(&self, revision: u64) -> ApiResult<()> {
        if self.caches.wait_for(revision, FRESHNESS).await {
            return Ok(());
        }
        Err(too_large(revision, self.caches.progress()))
    }

    /// One object.
    pub async fn get(&self, target: Target<'_>, version: Version) -> ApiResult<Found> {
        let found = match version {
            Version::Newest => self.fetch(target).await?,
            Version::Any if !self.caches.is_loaded() => self.fetch(target).await?,
            Version::Any => self.lookup(target).await?,
            Version::At(revision) => {
                self.wait_until_fresh(revision).await?;
                match self.cache(target.kind)?.get(target.namespace, target.name) {
                    Some(object) => Some(self.show_one(target.kind, object).await?),
                    None => None,
                }
            }
        };
        found.ok_or_else(|| target.not_found())
    }
}
