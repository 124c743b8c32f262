//! Images: found, listed, fetched with progress.

use std::collections::BTreeMap;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptionsBuilder};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::error::{self, Op};
use super::{Docker, SHORT, state};
use crate::runtime::{ImageInfo, RegistryAuth, RuntimeError, RuntimeResult};

/// A pull without a word for so long has failed.
const STALLED: Duration = Duration::from_secs(60);
/// Between two lines for a person.
const REPORT_EVERY: Duration = Duration::from_secs(1);

impl Docker {
    pub(super) async fn find_image(&self, name: &str) -> RuntimeResult<Option<ImageInfo>> {
        let (repository, tag) = split_reference(name)?;
        let api = &self.engine().await?.api;
        match self.call(Op::Other, SHORT, api.inspect_image(&join_reference(&repository, &tag))).await {
            Ok(found) => Ok(Some(state::image(&found))),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn find_images(&self) -> RuntimeResult<Vec<ImageInfo>> {
        let api = &self.engine().await?.api;
        let options = ListImagesOptionsBuilder::new().build();
        let listed = self.call(Op::Other, SHORT * 3, api.list_images(Some(options))).await?;
        Ok(listed.iter().map(state::image_summary).collect())
    }

    pub(super) async fn pull(
        &self,
        name: &str,
        auth: Option<&RegistryAuth>,
        progress: &(dyn Fn(String) + Send + Sync),
    ) -> RuntimeResult<ImageInfo> {
        let (repository, tag) = split_reference(name)?;
        let api = &self.engine().await?.api;
        let options = CreateImageOptionsBuilder::new().from_image(&repository).tag(&tag).build();
        let mut lines = api.create_image(Some(options), None, auth.map(credentials));
        let mut layers = Layers::default();
        let mut reported = Instant::now();
        loop {
            let line = tokio::time::timeout(STALLED, lines.next()).await;
            let line = line.map_err(|_| {
                RuntimeError::Pull(format!("the registry has sent nothing for {STALLED:?} ({})", layers.describe()))
            })?;
            match line {
                None => break,
                Some(Err(error)) => return Err(error::from_engine(Op::Pull, error)),
                Some(Ok(info)) => layers.note(&info),
            }
            if reported.elapsed() >= REPORT_EVERY {
                reported = Instant::now();
                progress(layers.describe());
            }
        }
        let pulled = self.find_image(name).await?;
        pulled.ok_or_else(|| RuntimeError::Pull(format!("{name} was fetched but is not in the engine's store")))
    }
}

fn credentials(auth: &RegistryAuth) -> DockerCredentials {
    DockerCredentials {
        username: Some(auth.username.clone()),
        password: Some(auth.password.clone()),
        serveraddress: Some(auth.server.clone()),
        ..DockerCredentials::default()
    }
}

/// How far each layer is.
#[derive(Debug, Default)]
struct Layers {
    bytes: BTreeMap<String, (i64, i64)>,
}

impl Layers {
    fn note(&mut self, info: &CreateImageInfo) {
        let Some(id) = info.id.as_deref() else { return };
        let detail = info.progress_detail.clone().unwrap_or_default();
        let layer = self.bytes.entry(id.to_owned()).or_default();
        match info.status.as_deref() {
            Some("Downloading") => *layer = (detail.current.unwrap_or(0), detail.total.unwrap_or(0).max(layer.1)),
            // Both mean that it has come; extraction counts in other bytes.
            Some("Download complete" | "Extracting" | "Pull complete") => layer.0 = layer.1,
            _ => {}
        }
    }

    /// `41 MB of 120 MB, 3 of 5 layers`. Layers that have not begun have no size yet.
    fn describe(&self) -> String {
        let current: i64 = self.bytes.values().map(|(current, _)| current).sum();
        let total: i64 = self.bytes.values().map(|(_, total)| total).sum();
        let complete = self.bytes.values().filter(|(current, total)| *total > 0 && current == total).count();
        format!("{} MB of {} MB, {complete} of {} layers", current / 1_000_000, total / 1_000_000, self.bytes.len())
    }
}

/// An image's name in the engine's two parts: repository, and tag or digest. Without either it is `latest`: the
/// engine would fetch every tag.
///
/// # Errors
/// [`RuntimeError::InvalidImageName`] with the words that Kubernetes has for it.
pub fn split_reference(name: &str) -> RuntimeResult<(String, String)> {
    let invalid = |why: &str| RuntimeError::InvalidImageName(format!("{name:?}: {why}"));
    let is_identifier = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if name.strip_prefix("sha256:").is_some_and(is_identifier) {
        return Ok((name.to_owned(), String::new()));
    }
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match rest[slash..].split_once(':') {
        Some((image, tag)) => (format!("{}{image}", &rest[..slash]), Some(tag)),
        None => (rest.to_owned(), None),
    };
    check_repository(&repository).map_err(invalid)?;
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(invalid("invalid reference format"));
    }
    match digest {
        Some(digest) if digest.strip_prefix("sha256:").is_some_and(is_identifier) => Ok((repository, digest.to_owned())),
        Some(_) => Err(invalid("invalid reference format")),
        None => Ok((repository, tag.unwrap_or("latest").to_owned())),
    }
}

/// Whether it is an image's name.
pub fn check_reference(name: &str) -> RuntimeResult<()> {
    split_reference(name).map(|_| ())
}

fn check_repository(repository: &str) -> Result<(), &'static str> {
    let mut parts: Vec<&str> = repository.split('/').collect();
    let is_host = |part: &str| part.contains('.') || part.contains(':') || part == "localhost";
    if parts.len() > 1 && is_host(parts[0]) {
        parts.remove(0);
    }
    if repository.len() > 255 || parts.iter().any(|part| !is_path_part(&part.to_ascii_lowercase())) {
        return Err("invalid reference format");
    }
    if parts.iter().any(|part| part.bytes().any(|byte| byte.is_ascii_uppercase())) {
        return Err("invalid reference format: repository name must be lowercase");
    }
    Ok(())
}

/// Letters and digits, joined by `.`, `_`, `__` or dashes.
fn is_path_part(part: &str) -> bool {
    let alphanumeric = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let bytes = part.as_bytes();
    alphanumeric(bytes.first())
        && alphanumeric(bytes.last())
        && bytes.iter().all(|byte| alphanumeric(Some(byte)) || b"._-".contains(byte))
        && !part.contains("..")
        && !part.contains("___")
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

fn join_reference(repository: &str, tag: &str) -> String {
    match tag {
        "" => repository.to_owned(),
        digest if digest.starts_with("sha256:") => format!("{repository}@{digest}"),
        tag => format!("{repository}:{tag}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_come_apart() {
        let digest = format!("sha256:{}", "a".repeat(64));
        for (name, repository, tag) in [
            ("busybox", "busybox", "latest"),
            ("busybox:1.36", "busybox", "1.36"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b", "latest"),
            ("localhost:5000/a_b/c-d.e:v1", "localhost:5000/a_b/c-d.e", "v1"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause", "3.9"),
        ] {
            assert_eq!(split_reference(name), Ok((repository.to_owned(), tag.to_owned())), "{name}");
        }
        assert_eq!(split_reference(&format!("a/b:1@{digest}")), Ok(("a/b".into(), digest.clone())));
        assert_eq!(join_reference("a/b", &digest), format!("a/b@{digest}"));
        assert_eq!(split_reference(&digest), Ok((digest.clone(), String::new())));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for name in ["", ":1", "a:", "UPPER", "a//b", "a b", "a:b c", "a@sha256:short", "-a", "a:-x", "/a", "a/"] {
            assert!(matches!(split_reference(name), Err(RuntimeError::InvalidImageName(_))), "{name:?}");
        }
        let error = split_reference("Foo").expect_err("upper case");
        assert!(error.to_string().contains("repository name must be lowercase"), "{error}");
    }

    #[test]
    fn progress_is_for_people() {
        let mut layers = Layers::default();
        let line = |id: &str, status: &str, current: i64, total: i64| CreateImageInfo {
            id: Some(id.into()),
            status: Some(status.into()),
            progress_detail: Some(bollard::models::ProgressDetail { current: Some(current), total: Some(total) }),
            ..CreateImageInfo::default()
        };
        layers.note(&line("a", "Downloading", 41_000_000, 100_000_000));
        layers.note(&line("b", "Downloading", 1, 20_000_000));
        layers.note(&line("b", "Download complete", 0, 0));
        assert_eq!(layers.describe(), "61 MB of 120 MB, 1 of 2 layers");
    }
}
