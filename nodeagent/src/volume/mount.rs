//! The volumes of one pod: made, kept current, taken away.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    HostPathVolumeSource, KeyToPath, Pod, ProjectedVolumeSource, Volume, VolumeMount, VolumeProjection,
};
use parking_lot::Mutex;

use super::content::{self, Files};
use super::{Layout, atomic, subpath};
use crate::api::{ApiFailure, PodApi, Token};
use crate::clock;
use crate::env::fields::Surroundings;
use crate::env::security;
use crate::pod::view::{self, after, since};
use crate::runtime::{Mount, MountSource};

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// On the host.
    Host { path: PathBuf, read_only: bool },
    /// In the sandbox's memory.
    Memory,
}

/// The volumes of one pod.
pub struct PodVolumes {
    layout: Layout,
    api: Arc<dyn PodApi>,
    /// Nothing touches the disk: a node without real containers.
    hollow: bool,
    places: Mutex<BTreeMap<String, Place>>,
    tokens: Mutex<BTreeMap<String, (Token, Timestamp)>>,
}

/// Which volume could not be mounted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountFailure {
    /// `spec.volumes[].name`
    pub volume: String,
    /// For a person.
    pub message: String,
}

impl PodVolumes {
    /// None mounted yet.
    pub fn new(layout: Layout, api: Arc<dyn PodApi>, hollow: bool) -> Self {
        Self { layout, api, hollow, places: Mutex::default(), tokens: Mutex::default() }
    }

    /// Mounts everything, or says what could not be. May be repeated: content is brought up to date.
    pub async fn mount_all(&self, pod: &Pod, around: &Surroundings) -> Result<(), Vec<MountFailure>> {
        let mut failures = Vec::new();
        for volume in view::spec(pod).volumes.iter().flatten() {
            match self.mount(pod, volume, around).await {
                Ok(place) => {
                    self.places.lock().insert(volume.name.clone(), place);
                }
                Err(message) => failures.push(MountFailure { volume: volume.name.clone(), message }),
            }
        }
        if failures.is_empty() { Ok(()) } else { Err(failures) }
    }

    /// Brings what is projected up to date. What cannot be read now keeps its last content.
    pub async fn refresh(&self, pod: &Pod, around: &Surroundings) {
        for volume in view::spec(pod).volumes.iter().flatten().filter(|volume| is_projected(volume)) {
            if let Err(message) = self.mount(pod, volume, around).await {
                tracing::debug!(pod = %view::full_name(pod), volume = volume.name, message, "volume not refreshed");
            }
        }
    }

    /// Whether anything in the pod has to be brought up to date now and then.
    pub fn needs_refresh(&self, pod: &Pod) -> bool {
        !self.hollow && view::spec(pod).volumes.iter().flatten().any(is_projected)
    }

    async fn mount(&self, pod: &Pod, volume: &Volume, around: &Surroundings) -> Result<Place, String> {
        let group = fs_group(pod);
        let directory = self.layout.volume(view::uid(pod), &volume.name);
        let ours = |read_only| Place::Host { path: directory.clone(), read_only };
        if let Some(empty) = &volume.empty_dir {
            if empty.medium.as_deref() == Some("Memory") {
                return Ok(Place::Memory);
            }
            self.disk(move || empty_dir(&directory, group)).await?;
            return Ok(Place::Host { path: self.layout.volume(view::uid(pod), &volume.name), read_only: false });
        }
        if let Some(host) = &volume.host_path {
            let (host, path) = (host.clone(), PathBuf::from(&host.path));
            self.disk(move || host_path(&host)).await?;
            return Ok(Place::Host { path, read_only: false });
        }
        if let Some(claim) = &volume.persistent_volume_claim {
            return self.claim(pod, &claim.claim_name, claim.read_only.unwrap_or(false)).await;
        }
        if volume.ephemeral.is_some() {
            return self.claim(pod, &format!("{}-{}", view::name(pod), volume.name), false).await;
        }
        let Some(mut files) = self.files(pod, volume, around).await? else {
            return Err("this node has no driver for this kind of volume".to_owned());
        };
        if group.is_some() {
            content::for_group(&mut files);
        }
        let stamp = clock::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
        let target = directory.clone();
        self.disk(move || atomic::write(&target, &files, group, &stamp).map(|_| ()).map_err(|error| error.to_string()))
            .await?;
        Ok(ours(true))
    }

    /// Runs disk work beside the async threads.
    async fn disk(&self, work: impl FnOnce() -> Result<(), String> + Send + 'static) -> Result<(), String> {
        if self.hollow {
            return Ok(());
        }
        tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
    }

    async fn files(&self, pod: &Pod, volume: &Volume, around: &Surroundings) -> Result<Option<Files>, String> {
        if let Some(map) = &volume.config_map {
            let items = map.items.as_deref();
            return self.config_map(pod, &map.name, items, map.default_mode, map.optional).await.map(Some);
        }
        if let Some(secret) = &volume.secret {
            let name = secret.secret_name.as_deref().unwrap_or_default();
            let items = secret.items.as_deref();
            return self.secret(pod, name, items, secret.default_mode, secret.optional).await.map(Some);
        }
        if let Some(downward) = &volume.downward_api {
            let items = downward.items.as_deref().unwrap_or_default();
            return content::downward(pod, around, items, downward.default_mode).map(Some);
        }
        if let Some(projected) = &volume.projected {
            return self.projected(pod, &volume.name, projected, around).await.map(Some);
        }
        Ok(None)
    }

    async fn config_map(
        &self,
        pod: &Pod,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Files, String> {
        let optional = optional == Some(true);
        let data = match self.api.config_map(view::namespace(pod), name).await {
            Ok(map) => content::config_map_data(&map),
            Err(ApiFailure::NotFound(_)) if optional => return Ok(Files::new()),
            Err(error) => return Err(error.to_string()),
        };
        content::keys(&data, items, mode, optional, "config")
    }

    async fn secret(
        &self,
        pod: &Pod,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: Option<i32>,
        optional: Option<bool>,
    ) -> Result<Files, String> {
        let optional = optional == Some(true);
        let data = match self.api.secret(view::namespace(pod), name).await {
            Ok(secret) => content::secret_data(&secret),
            Err(ApiFailure::NotFound(_)) if optional => return Ok(Files::new()),
            Err(error) => return Err(error.to_string()),
        };
        content::keys(&data, items, mode, optional, "secret")
    }

    async fn projected(
        &self,
        pod: &Pod,
        volume: &str,
        projected: &ProjectedVolumeSource,
        around: &Surroundings,
    ) -> Result<Files, String> {
        let mode = projected.default_mode;
        let mut files = Files::new();
        for source in projected.sources.iter().flatten() {
            files.extend(self.projection(pod, volume, source, mode, around).await?);
        }
        Ok(files)
    }

    async fn projection(
        &self,
        pod: &Pod,
        volume: &str,
        source: &VolumeProjection,
        mode: Option<i32>,
        around: &Surroundings,
    ) -> Result<Files, String> {
        if let Some(map) = &source.config_map {
            return self.config_map(pod, &map.name, map.items.as_deref(), mode, map.optional).await;
        }
        if let Some(secret) = &source.secret {
            return self.secret(pod, &secret.name, secret.items.as_deref(), mode, secret.optional).await;
        }
        if let Some(downward) = &source.downward_api {
            return content::downward(pod, around, downward.items.as_deref().unwrap_or_default(), mode);
        }
        if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(3600);
            let key = format!("{volume}/{}", token.path);
            let text = self.token(pod, key, token.audience.as_deref(), seconds).await?;
            let file = content::token(&text, security::common_user(pod), fs_group(pod).map(i64::from), mode);
            return Ok([(content::safe(&token.path)?, file)].into());
        }
        Err("this node cannot project cluster trust bundles or pod certificates".to_owned())
    }

    /// A token that has at least a fifth of its life (and of a day) before it.
    async fn token(&self, pod: &Pod, key: String, audience: Option<&str>, seconds: i64) -> Result<String, String> {
        let now = clock::now();
        let known = self.tokens.lock().get(&key).cloned();
        if let Some((token, issued_at)) = known {
            let life = since(issued_at, token.expires_at);
            let renew_at = after(issued_at, (life * 4 / 5).min(Duration::from_secs(24 * 3600)));
            if now < renew_at {
                return Ok(token.token);
            }
        }
        let token = self.api.token(pod, audience, seconds).await.map_err(|error| format!("failed to fetch token: {error}"))?;
        self.tokens.lock().insert(key, (token.clone(), now));
        Ok(token.token)
    }

    async fn claim(&self, pod: &Pod, name: &str, read_only: bool) -> Result<Place, String> {
        let claim = self.api.claim(view::namespace(pod), name).await.map_err(|error| error.to_string())?;
        let bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|_| bound);
        let Some(volume) = volume else { return Err(format!("persistentvolumeclaim \"{name}\" is not bound")) };
        let volume = self.api.volume(&volume).await.map_err(|error| error.to_string())?;
        let named = volume.metadata.name.clone().unwrap_or_default();
        let spec = volume.spec.unwrap_or_default();
        if let Some(host) = spec.host_path {
            let path = PathBuf::from(&host.path);
            self.disk(move || host_path(&host)).await?;
            return Ok(Place::Host { path, read_only });
        }
        if let Some(local) = spec.local {
            let path = PathBuf::from(&local.path);
            let host = HostPathVolumeSource { path: local.path, type_: Some("Directory".to_owned()) };
            self.disk(move || host_path(&host)).await?;
            return Ok(Place::Host { path, read_only });
        }
        Err(format!("persistentvolume \"{named}\" is of a kind that this node cannot mount: hostPath and local work"))
    }

    /// A container's mount of a volume. `expand` resolves `subPathExpr`. An `Err` is the message of
    /// CreateContainerConfigError.
    pub fn resolve(&self, mount: &VolumeMount, expand: impl Fn(&str) -> Result<String, String>) -> Result<Mount, String> {
        let place = self.places.lock().get(&mount.name).cloned();
        let place = place.ok_or_else(|| format!("volume \"{}\" is not mounted", mount.name))?;
        let below = match (&mount.sub_path_expr, &mount.sub_path) {
            (Some(expr), _) if !expr.is_empty() => expand(expr)?,
            (_, Some(path)) => path.clone(),
            _ => String::new(),
        };
        let leads_out = below.starts_with('/') || below.split('/').any(|part| part == "..") || below.contains('`');
        if leads_out {
            return Err(format!("failed to prepare subPath for volumeMount \"{}\" of container: unacceptable path {below}", mount.name));
        }
        let target = if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) };
        let wants_read_only = mount.read_only.unwrap_or(false);
        match place {
            Place::Memory if below.is_empty() => {
                Ok(Mount { source: MountSource::Memory(mount.name.clone()), target, read_only: wants_read_only })
            }
            Place::Memory => Err(format!(
                "failed to prepare subPath for volumeMount \"{}\": this node cannot mount a part of a memory volume",
                mount.name
            )),
            Place::Host { path, read_only } => {
                let source = if below.is_empty() || self.hollow { path } else { self.below(&path, &below, &mount.name)? };
                Ok(Mount { source: MountSource::Host(source), target, read_only: read_only || wants_read_only })
            }
        }
    }

    fn below(&self, root: &Path, below: &str, name: &str) -> Result<PathBuf, String> {
        let ours = root.starts_with(self.layout.pods());
        let from = if ours { root.to_owned() } else { on_host(root) };
        subpath::resolve(&from, below)
            .map(|path| path.strip_prefix("/proc/1/root").map(|path| Path::new("/").join(path)).unwrap_or(path))
            .map_err(|error| format!("failed to prepare subPath for volumeMount \"{name}\": {error}"))
    }

    /// Removes everything of the pod from the disk.
    pub async fn remove(&self, uid: &str) -> Result<(), String> {
        let directory = self.layout.pod(uid);
        self.disk(move || match std::fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("{}: {error}", directory.display())),
            _ => Ok(()),
        })
        .await
    }
}

fn is_projected(volume: &Volume) -> bool {
    volume.config_map.is_some() || volume.secret.is_some() || volume.downward_api.is_some() || volume.projected.is_some()
}

fn fs_group(pod: &Pod) -> Option<u32> {
    let group = view::spec(pod).security_context.as_ref().and_then(|context| context.fs_group);
    group.and_then(|group| u32::try_from(group).ok())
}

fn empty_dir(directory: &Path, group: Option<u32>) -> Result<(), String> {
    if directory.is_dir() {
        return Ok(());
    }
    let made = (|| {
        std::fs::create_dir_all(directory)?;
        chown(directory, None, group)?;
        let mode = if group.is_some() { 0o2777 } else { 0o777 };
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(mode))
    })();
    made.map_err(|error: std::io::Error| format!("{}: {error}", directory.display()))
}

/// The host's path as this process sees it: through the host's first process where we live in a container.
fn on_host(path: &Path) -> PathBuf {
    let below = path.strip_prefix("/").unwrap_or(path);
    let through = Path::new("/proc/1/root");
    if through.read_dir().is_ok() { through.join(below) } else { path.to_owned() }
}

/// Checks the type of a host path, and makes what may be made.
fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let (shown, path) = (&source.path, on_host(Path::new(&source.path)));
    let found = std::fs::metadata(&path).ok().map(|meta| meta.file_type());
    let make = |mode: u32, directory: bool| {
        let made = (|| {
            if directory {
                std::fs::create_dir_all(&path)?;
            } else {
                std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
            }
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
        })();
        made.map_err(|error: std::io::Error| format!("{shown}: {error}"))
    };
    let is = |wanted: bool, what: &str| match wanted {
        true => Ok(()),
        false => Err(format!("hostPath type check failed: {shown} is not {what}")),
    };
    match (source.type_.as_deref().unwrap_or_default(), found) {
        ("" | "DirectoryOrCreate", None) => make(0o755, true),
        ("", Some(_)) => Ok(()),
        ("FileOrCreate", None) => make(0o644, false),
        ("DirectoryOrCreate" | "Directory", found) => is(found.is_some_and(|kind| kind.is_dir()), "a directory"),
        ("FileOrCreate" | "File", found) => is(found.is_some_and(|kind| kind.is_file()), "a file"),
        ("Socket", found) => is(found.is_some_and(|kind| kind.is_socket()), "a socket file"),
        ("CharDevice", found) => is(found.is_some_and(|kind| kind.is_char_device()), "a character device"),
        ("BlockDevice", found) => is(found.is_some_and(|kind| kind.is_block_device()), "a block device"),
        (other, _) => Err(format!("hostPath type \"{other}\" is not known")),
    }
}
