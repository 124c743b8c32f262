//! Who is who in a cluster: one certificate per process, made once and kept.
//!
//! `pki/ca.crt`, `pki/admin.crt`, `pki/admin.key` are for people; `pki/PROCESS/` is what that process's container sees
//! and nothing else.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use balsa_process::identity::{Actor, names};
use balsa_process::pki::{Authority, signing_key_pem, write_private};
use balsa_process::tls::TlsFiles;

use crate::layout::Layout;

fn actor(user: impl Into<String>, groups: &[&str]) -> Actor {
    Actor { user: user.into(), groups: groups.iter().map(|&group| group.to_owned()).collect() }
}

/// Makes what is missing. Returns the admin's identity.
pub fn make(layout: &Layout) -> Result<TlsFiles> {
    let folder = layout.state_dir()?.join("pki");
    let authority = Authority::open_or_create(&folder)?;
    let issue = |name: &str, actor: &Actor, hosts: &[&str]| -> Result<()> {
        let own = folder.join(name);
        fs::create_dir_all(&own).with_context(|| format!("{}", own.display()))?;
        let hosts: Vec<String> = std::iter::once(name).chain(hosts.iter().copied()).map(str::to_owned).collect();
        authority.issue_files(&own, "tls", actor, &hosts)?;
        Ok(())
    };
    for name in layout.store_names() {
        issue(&name, &actor(format!("balsa:store:{name}"), &[names::STORES]), &[])?;
    }
    for name in layout.apiserver_names() {
        let hosts = ["apiserver", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local", "10.96.0.1"];
        issue(&name, &actor(names::APISERVER, &[names::MASTERS]), &hosts)?;
    }
    for name in ["scheduler1", "scheduler2"] {
        issue(name, &actor(names::SCHEDULER, &[]), &[])?;
    }
    for name in ["controllers1", "controllers2"] {
        issue(name, &actor(names::CONTROLLERS, &[]), &[])?;
    }
    for name in layout.node_names() {
        issue(&name, &actor(names::node(&name), &[names::NODES]), &[])?;
    }
    make_token_key(&folder, layout)?;
    Ok(authority.issue_files(&folder, "admin", &actor("kubernetes-admin", &[names::MASTERS]), &[])?)
}

/// The key that signs service-account tokens: one for all apiservers.
fn make_token_key(folder: &Path, layout: &Layout) -> Result<()> {
    let path = folder.join("sa.key");
    if !path.exists() {
        write_private(&path, &signing_key_pem()?)?;
    }
    let pem = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
    for name in layout.apiserver_names() {
        write_private(&folder.join(name).join("sa.key"), &pem)?;
    }
    Ok(())
}
