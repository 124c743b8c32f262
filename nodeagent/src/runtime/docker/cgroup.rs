//! Control groups of pods: where they are, made, limited, read and removed.
//!
//! The engine makes the groups of containers below the parent that it is told; it never removes the parent. Works on
//! hierarchies of version 1 (one tree per controller) and 2 (one tree), with the engine's `cgroupfs` and `systemd`
//! drivers. Only version 1 with `cgroupfs` has been run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::runtime::{PodResources, Usage};

/// How the engine and this kernel arrange control groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    root: PathBuf,
    unified: bool,
    systemd: bool,
}

/// What runs in the kernel's hands: controllers whose pod group carries limits.
const LIMITED: [&str; 3] = ["memory", "cpu", "pids"];
/// CFS period in microseconds.
const PERIOD: u64 = 100_000;

impl Layout {
    /// Finds out which version is mounted at `root`. `driver` is what the engine says of itself.
    pub fn detect(root: &Path, driver: &str) -> Self {
        let unified = root.join("cgroup.controllers").exists();
        Self { root: root.to_owned(), unified, systemd: driver == "systemd" }
    }

    /// The `CgroupParent` of a pod's containers.
    pub fn parent(&self, cluster: &str, node: &str, uid: &str) -> String {
        if self.systemd {
            let part = |text: &str| text.replace('-', "_");
            return format!("balsa-{}-{}-{}.slice", part(cluster), part(node), part(uid));
        }
        format!("/balsa/{cluster}/{node}/{uid}")
    }

    /// Makes the pod's group and sets its limits.
    pub fn make(&self, parent: &str, resources: &PodResources) -> io::Result<()> {
        for controller in self.controllers(&LIMITED) {
            let dir = self.dir(&controller, parent);
            fs::create_dir_all(&dir)?;
            if self.unified {
                enable_controllers(&self.root, &dir);
            }
        }
        for (controller, file, value) in limits(resources, self.unified) {
            fs::write(self.dir(controller, parent).join(file), value)?;
        }
        Ok(())
    }

    /// Removes the pod's group; the kernel needs a moment after the last process. Does nothing to a group in use.
    pub async fn remove(&self, parent: &str) {
        for wait in [0, 20, 100, 400] {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            let left = self.hierarchies().into_iter().map(|tree| tree.join(self.relative(parent)));
            let busy = left.filter(|dir| fs::remove_dir(dir).is_err() && dir.exists()).count();
            if busy == 0 {
                return;
            }
        }
        tracing::debug!(parent, "the pod's control group is still in use");
    }

    /// What a container uses.
    pub fn usage(&self, parent: &str, id: &str) -> io::Result<Usage> {
        let read = |controller: &str, file: &str| fs::read_to_string(self.container_dir(controller, parent, id).join(file));
        if self.unified {
            let memory = number(&read("", "memory.current")?);
            let inactive = field(&read("", "memory.stat")?, "inactive_file").unwrap_or(0);
            let cpu = field(&read("", "cpu.stat")?, "usage_usec").unwrap_or(0).saturating_mul(1000);
            let pids = read("", "pids.current").map_or(0, |text| number(&text));
            return Ok(Usage { cpu_nanos: cpu, memory_bytes: memory.saturating_sub(inactive), pids });
        }
        let memory = number(&read("memory", "memory.usage_in_bytes")?);
        let inactive = field(&read("memory", "memory.stat")?, "total_inactive_file").unwrap_or(0);
        let cpu = number(&read("cpuacct", "cpuacct.usage")?);
        let pids = read("pids", "pids.current").map_or(0, |text| number(&text));
        Ok(Usage { cpu_nanos: cpu, memory_bytes: memory.saturating_sub(inactive), pids })
    }

    /// How many processes of the container the kernel has killed for memory; `None` once its group is gone.
    pub fn oom_kills(&self, parent: &str, id: &str) -> Option<u64> {
        let (controller, file) = if self.unified { ("", "memory.events") } else { ("memory", "memory.oom_control") };
        let text = fs::read_to_string(self.container_dir(controller, parent, id).join(file)).ok()?;
        field(&text, "oom_kill")
    }

    fn container_dir(&self, controller: &str, parent: &str, id: &str) -> PathBuf {
        let leaf = if self.systemd { format!("docker-{id}.scope") } else { id.to_owned() };
        self.dir(controller, parent).join(leaf)
    }

    fn dir(&self, controller: &str, parent: &str) -> PathBuf {
        let tree = if self.unified { self.root.clone() } else { self.root.join(controller) };
        tree.join(self.relative(parent))
    }

    /// A parent as a path below a hierarchy: systemd nests slices at each dash.
    fn relative(&self, parent: &str) -> PathBuf {
        let Some(name) = parent.strip_suffix(".slice").filter(|_| self.systemd) else {
            return PathBuf::from(parent.trim_start_matches('/'));
        };
        let ends = name.match_indices('-').map(|(at, _)| at).chain([name.len()]);
        ends.map(|end| format!("{}.slice", &name[..end])).collect()
    }

    fn controllers(&self, wanted: &[&str]) -> Vec<String> {
        if self.unified { vec![String::new()] } else { wanted.iter().map(|name| (*name).to_owned()).collect() }
    }

    fn hierarchies(&self) -> Vec<PathBuf> {
        if self.unified {
            return vec![self.root.clone()];
        }
        let Ok(entries) = fs::read_dir(&self.root) else { return Vec::new() };
        // Controllers that share a tree are links to it.
        let trees = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        trees.map(|entry| entry.path()).collect()
    }
}

/// Lets the group and its ancestors hand controllers down (version 2). A controller that is missing is no error here:
/// writing the limit will say so.
fn enable_controllers(root: &Path, dir: &Path) {
    let mut ancestors: Vec<&Path> = dir.ancestors().take_while(|path| path.starts_with(root)).collect();
    ancestors.reverse();
    for path in ancestors {
        for controller in ["+memory", "+cpu", "+pids"] {
            let _ = fs::write(path.join("cgroup.subtree_control"), controller);
        }
    }
}

/// Files and values that limit a pod's group.
fn limits(resources: &PodResources, unified: bool) -> Vec<(&'static str, &'static str, String)> {
    let mut files = Vec::new();
    let quota = resources.cpu_limit_milli.map(|milli| (milli * PERIOD / 1000).max(1000));
    if unified {
        if resources.cpu_shares > 0 {
            files.push(("", "cpu.weight", weight(resources.cpu_shares).to_string()));
        }
        files.extend(quota.map(|quota| ("", "cpu.max", format!("{quota} {PERIOD}"))));
        files.extend(resources.memory_limit.map(|bytes| ("", "memory.max", bytes.to_string())));
        return files;
    }
    if resources.cpu_shares > 0 {
        files.push(("cpu", "cpu.shares", resources.cpu_shares.clamp(2, 262_144).to_string()));
    }
    files.extend(quota.map(|quota| ("cpu", "cpu.cfs_quota_us", quota.to_string())));
    files.extend(resources.memory_limit.map(|bytes| ("memory", "memory.limit_in_bytes", bytes.to_string())));
    files
}

/// Version 1 shares (2 to 262144) on version 2's scale (1 to 10000), as the OCI runtimes convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(unified: bool, systemd: bool) -> Layout {
        Layout { root: PathBuf::from("/cg"), unified, systemd }
    }

    #[test]
    fn groups_are_where_the_driver_puts_them() {
        let plain = layout(false, false);
        assert_eq!(plain.parent("c", "n1", "u-1"), "/balsa/c/n1/u-1");
        assert_eq!(plain.container_dir("memory", "/balsa/c/n1/u-1", "id"), Path::new("/cg/memory/balsa/c/n1/u-1/id"));
        let slices = layout(true, true);
        let parent = slices.parent("c", "n-1", "u-1");
        assert_eq!(parent, "balsa-c-n_1-u_1.slice");
        assert_eq!(
            slices.container_dir("", &parent, "id"),
            Path::new("/cg/balsa.slice/balsa-c.slice/balsa-c-n_1.slice/balsa-c-n_1-u_1.slice/docker-id.scope")
        );
    }

    #[test]
    fn limits_have_each_versions_files() {
        let resources =
            PodResources { cpu_shares: 1024, memory_limit: Some(1 << 20), cpu_limit_milli: Some(1500) };
        let text = |unified| {
            let files = limits(&resources, unified);
            files.iter().map(|(_, file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(text(false), "cpu.shares=1024 cpu.cfs_quota_us=150000 memory.limit_in_bytes=1048576");
        assert_eq!(text(true), "cpu.weight=39 cpu.max=150000 100000 memory.max=1048576");
        assert!(limits(&PodResources::default(), true).is_empty());
    }

    #[test]
    fn usage_is_read_from_files() {
        let dir = tempfile::tempdir().expect("temp dir");
        let group = dir.path().join("memory/p/id");
        for controller in ["memory", "cpuacct", "pids"] {
            fs::create_dir_all(dir.path().join(controller).join("p/id")).expect("mkdir");
        }
        fs::write(group.join("memory.usage_in_bytes"), "1000\n").expect("write");
        fs::write(group.join("memory.stat"), "inactive_file 1\ntotal_inactive_file 300\n").expect("write");
        fs::write(group.join("memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n").expect("write");
        fs::write(dir.path().join("cpuacct/p/id/cpuacct.usage"), "42\n").expect("write");
        fs::write(dir.path().join("pids/p/id/pids.current"), "7\n").expect("write");
        let layout = Layout::detect(dir.path(), "cgroupfs");
        let usage = layout.usage("/p", "id").expect("usage");
        assert_eq!(usage, Usage { cpu_nanos: 42, memory_bytes: 700, pids: 7 });
        assert_eq!(layout.oom_kills("/p", "id"), Some(2));
        assert_eq!(layout.oom_kills("/p", "other"), None);
    }
}
