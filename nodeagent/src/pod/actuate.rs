//! Carries a resize out: the node's word on it, the writes to the kernel, and the file that remembers both.

use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use super::execute::Executor;
use super::observed::Outcome;
use super::resize::{Allocation, Checkpoint, Step};
use super::view;
use crate::volume::Layout;

/// The file's name in the pod's folder.
const FILE: &str = "resources.json";

impl Executor {
    /// Asks the node.
    pub(super) fn allocate(&self) -> Outcome {
        Outcome::Weighed {
            verdict: self.shared.resize(&self.pod),
            allocation: Allocation::of(&self.pod),
            generation: self.pod.metadata.generation.unwrap_or_default(),
        }
    }

    /// Writes one limit after the other; the first error ends it.
    pub(super) async fn resize(&self, steps: Vec<Step>) -> Outcome {
        if let Err(error) = self.may_shrink(&steps).await {
            return Outcome::Resized { done: Vec::new(), error };
        }
        let mut done = Vec::new();
        for step in steps {
            if let Err(error) = self.write_step(&step).await {
                return Outcome::Resized { done, error };
            }
            done.push(step);
        }
        Outcome::Resized { done, error: String::new() }
    }

    async fn write_step(&self, step: &Step) -> Result<(), String> {
        let runtime = &self.shared.runtime;
        let written = match step {
            Step::Pod(resources) => {
                let Some((sandbox, _)) = &self.sandbox else { return Err("the pod has no sandbox".to_owned()) };
                runtime.update_sandbox(sandbox, &view::pod_ref(&self.pod), resources).await
            }
            Step::Container { id, limits, .. } => {
                runtime.update_container(id, limits.cpu_shares, limits.cpu_limit_milli, limits.memory_limit).await
            }
        };
        written.map_err(|error| error.to_string())
    }

    /// A memory limit below what is in use would end processes; Kubernetes looks first, too.
    async fn may_shrink(&self, steps: &[Step]) -> Result<(), String> {
        let mut problems = Vec::new();
        for step in steps {
            let Step::Container { name, id, shrinks_to: Some(limit), .. } = step else { continue };
            match self.shared.runtime.usage(id).await {
                Ok(usage) if usage.memory_bytes >= *limit => problems.push(format!(
                    "attempting to set container \"{name}\" memory limit ({limit}) below current usage ({})",
                    usage.memory_bytes
                )),
                Ok(_) => {}
                Err(_) => problems.push(format!("missing container \"{name}\" memory usage")),
            }
        }
        match problems.as_slice() {
            [] => Ok(()),
            [one] => Err(format!("cannot decrease memory limits: {one}")),
            several => Err(format!("cannot decrease memory limits: [{}]", several.join(", "))),
        }
    }
}

/// What an earlier agent remembered of the pod; nothing where there is no such file.
pub fn load(layout: &Layout, pod: &Pod) -> Checkpoint {
    let path = layout.pod(view::uid(pod)).join(FILE);
    let Ok(text) = std::fs::read(&path) else { return Checkpoint::default() };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        // The spec is the next best source.
        tracing::warn!(path = %path.display(), %error, "a pod's resources cannot be read");
        Checkpoint::default()
    })
}

/// Remembers it beyond this agent: all of it or what was there before.
pub async fn save(layout: &Layout, uid: &str, checkpoint: &Checkpoint) -> std::io::Result<()> {
    let folder = layout.pod(uid);
    tokio::fs::create_dir_all(&folder).await?;
    write(&folder, &serde_json::to_vec(checkpoint)?).await
}

async fn write(folder: &Path, text: &[u8]) -> std::io::Result<()> {
    let fresh = folder.join(format!(".{FILE}"));
    tokio::fs::write(&fresh, text).await?;
    tokio::fs::rename(&fresh, folder.join(FILE)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_given_outlives_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::new(folder.path());
        let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "c", "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}}]}}))
        .unwrap();
        assert_eq!(load(&layout, &pod), Checkpoint::default());
        let kept = Checkpoint { allocated: Some(Allocation::of(&pod)), ..Checkpoint::default() };
        save(&layout, "u", &kept).await.unwrap();
        assert_eq!(load(&layout, &pod), kept);
        std::fs::write(layout.pod("u").join(FILE), "{").unwrap();
        assert_eq!(load(&layout, &pod), Checkpoint::default());
    }
}
