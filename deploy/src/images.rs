//! The images, from nothing: each is a tar of static binaries handed to `docker import`, so no base image and no
//! registry are needed.
//!
//! An image carries a fingerprint of its content as a label and is left alone while that has not changed.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::engine::docker;
use crate::{build, layout, prerequisites, run};

/// The label that holds the fingerprint.
const FINGERPRINT: &str = "balsa.fingerprint";

/// An image before it is one.
struct Image {
    name: String,
    tar: tar::Builder<Vec<u8>>,
    changes: Vec<String>,
}

impl Image {
    fn new(name: &str, entrypoint: &[&str]) -> Self {
        let changes = vec![format!("ENTRYPOINT {}", serde_json::json!(entrypoint))];
        Self { name: name.to_owned(), tar: tar::Builder::new(Vec::new()), changes }
    }

    fn change(mut self, instruction: &str) -> Self {
        self.changes.push(instruction.to_owned());
        self
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        // A fixed time keeps the fingerprint the same for the same content.
        header.set_mtime(0);
        header
    }

    fn bytes(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Regular, mode, content.len() as u64);
        self.tar.append_data(&mut header, path.trim_start_matches('/'), content)?;
        Ok(())
    }

    fn file(&mut self, path: &str, source: &Path) -> Result<()> {
        let content = std::fs::read(source).with_context(|| format!("{}", source.display()))?;
        let mode = std::fs::metadata(source)?.permissions().mode() & 0o777;
        self.bytes(path, &content, mode)
    }

    fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, format!("{}/", path.trim_matches('/')), std::io::empty())?;
        Ok(())
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path.trim_start_matches('/'), target)?;
        Ok(())
    }

    /// A program of this machine with the libraries that it needs.
    fn program(&mut self, path: &str, source: &Path, libraries: &mut BTreeSet<PathBuf>) -> Result<()> {
        self.file(path, source)?;
        for library in libraries_of(source) {
            if libraries.insert(library.clone()) {
                self.file(&library.to_string_lossy(), &library)?;
            }
        }
        Ok(())
    }

    /// Imports it unless the engine has it already. Says whether it did.
    fn import(self) -> Result<bool> {
        let Self { name, tar, mut changes } = self;
        let bytes = tar.into_inner().context("the image's tar")?;
        let mut hasher = DefaultHasher::new();
        (&bytes, &changes).hash(&mut hasher);
        let fingerprint = format!("{:016x}", hasher.finish());
        let format = format!("{{{{index .Config.Labels \"{FINGERPRINT}\"}}}}");
        let present = run::output(&mut docker(&["image", "inspect", "--format", &format, &name]));
        if present.is_ok_and(|label| label.trim() == fingerprint) {
            return Ok(false);
        }
        changes.push(format!("LABEL {FINGERPRINT}={fingerprint}"));
        let mut import = docker(&["import"]);
        for change in &changes {
            import.args(["--change", change]);
        }
        let mut child = import
            .args(["-", &name])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run docker import")?;
        let mut stdin = child.stdin.take().context("docker import has no standard input")?;
        let written = stdin.write_all(&bytes);
        drop(stdin);
        let result = child.wait_with_output()?;
        if !result.status.success() {
            bail!("docker import {name}: {}", String::from_utf8_lossy(&result.stderr).trim());
        }
        written.with_context(|| format!("docker import {name}"))?;
        Ok(true)
    }
}

fn libraries_of(program: &Path) -> Vec<PathBuf> {
    // A static program makes ldd fail: it needs nothing.
    let listing = run::output(Command::new("ldd").arg(program)).unwrap_or_default();
    listing
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect()
}

/// The name of a service's image.
pub fn image_of(package: &str) -> String {
    format!("balsa/{}:1", package.trim_start_matches("balsa-"))
}

fn service(package: &str, binary: &Path) -> Result<Image> {
    let path = format!("/{package}");
    let mut image = Image::new(&image_of(package), &[&path]).change("ENV RUST_LOG=info,openraft=error");
    image.file(&path, binary)?;
    image.folder("tmp", 0o1777)?;
    Ok(image)
}

fn nodeagent(binary: &Path) -> Result<Image> {
    let mut image = service("balsa-nodeagent", binary)?.change("ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin");
    let cni = Path::new(prerequisites::cni_folder().context("no CNI plugins on this machine")?);
    let mut libraries = BTreeSet::new();
    for plugin in ["bridge", "host-local", "loopback", "portmap", "ptp", "tuning"] {
        let source = cni.join(plugin);
        if source.exists() {
            image.program(&format!("/opt/cni/bin/{plugin}"), &source, &mut libraries)?;
        }
    }
    image.program("/usr/sbin/nft", &run::find("nft").context("no nft on this machine")?, &mut libraries)?;
    busybox_into(&mut image)?;
    Ok(image)
}

/// A userland for people who look around with `docker exec`, and for the programs that the agent calls.
fn busybox_into(image: &mut Image) -> Result<()> {
    let busybox = prerequisites::static_busybox().context("no static busybox on this machine")?;
    image.file("/bin/busybox", Path::new(busybox))?;
    let applets = run::output(Command::new(busybox).arg("--list"))?;
    for applet in applets.lines().filter(|applet| !applet.is_empty() && *applet != "busybox") {
        image.link(&format!("/bin/{applet}"), "/bin/busybox")?;
    }
    Ok(())
}

fn busybox() -> Result<Image> {
    let mut image = Image::new("balsa/busybox:1", &[])
        .change("CMD [\"sh\"]")
        .change("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    image.changes.remove(0);
    busybox_into(&mut image)?;
    image.folder("tmp", 0o1777)?;
    image.folder("root", 0o700)?;
    image.folder("etc", 0o755)?;
    image.bytes("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)?;
    image.bytes("/etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644)?;
    image.folder("www", 0o755)?;
    image.bytes("/www/index.html", b"Balsa: this page comes from a pod.\n", 0o644)?;
    Ok(image)
}

/// The pause program is no crate: it must stay a kilobyte, without the standard library.
fn pause() -> Result<Image> {
    let source = layout::repository()?.join("nodeagent/pause/pause.rs");
    let folder = layout::repository()?.join("target/pause");
    std::fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
    let binary = folder.join("pause");
    let mut words: Vec<String> = ["--edition", "2024", "-O", "-C", "panic=abort", "-C", "relocation-model=static"]
        .map(str::to_owned)
        .to_vec();
    let link_arguments =
        ["-nostartfiles", "-nostdlib", "-static", "-Wl,--build-id=none,-z,noseparate-code,-s"];
    words.extend(link_arguments.iter().flat_map(|argument| ["-C".to_owned(), format!("link-arg={argument}")]));
    words.extend([source.display().to_string(), "-o".to_owned(), binary.display().to_string()]);
    build::rustc(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut image = Image::new("balsa/pause:1", &["/pause"]);
    image.file("/pause", &binary)?;
    Ok(image)
}

/// A real etcd, for a cluster on it.
fn etcd(program: &Path) -> Result<Image> {
    if !prerequisites::is_static(program) {
        bail!("{} is not there or needs libraries; the image has none: use a static etcd", program.display());
    }
    let mut image = Image::new("balsa/etcd:1", &["/etcd"]);
    image.file("/etcd", program)?;
    image.folder("tmp", 0o1777)?;
    Ok(image)
}

/// Makes every image whose content has changed. `binaries` are those of [`build::SERVICES`], in that order; `real_etcd`
/// is the program to run in place of our store, if any.
pub fn make(binaries: &[PathBuf], real_etcd: Option<&Path>, say: &dyn Fn(&str)) -> Result<String> {
    let mut made = Vec::new();
    let mut import = |image: Image| -> Result<()> {
        say(&image.name);
        let name = image.name.clone();
        if image.import()? {
            made.push(name);
        }
        Ok(())
    };
    for (package, binary) in build::SERVICES.iter().zip(binaries) {
        let image = if *package == "balsa-nodeagent" { nodeagent(binary)? } else { service(package, binary)? };
        import(image)?;
    }
    if let Some(program) = real_etcd {
        import(etcd(program)?)?;
    }
    import(pause()?)?;
    import(busybox()?)?;
    Ok(if made.is_empty() { "unchanged".to_owned() } else { format!("made {}", made.join(", ")) })
}
