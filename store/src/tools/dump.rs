//! `dump`: the content as lines of JSON, for people and for `jq`. Passwords and tokens are left out.

use std::io::{self, Write as _};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::ensure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Value, json};

use super::file::Source;
use crate::disk::hash;
use crate::disk::log::LogDisk;
use crate::error::Fault;
use crate::mvcc::{End, KeyRange, Version, View as _};
use crate::raft::founding;

/// Flags of `dump`.
#[derive(Debug, clap::Args)]
pub struct Dump {
    /// A backup, or a stopped member's data directory.
    pub path: PathBuf,
    /// Only keys that begin so.
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Every version that compaction has left, and deletions, in place of the newest alone.
    #[arg(long)]
    pub history: bool,
    /// The entries of the log in place of the keys.
    #[arg(long, conflicts_with_all = ["prefix", "history"])]
    pub log: bool,
    /// Leases, alarms, users and roles in place of the keys.
    #[arg(long, conflicts_with_all = ["prefix", "history", "log"])]
    pub meta: bool,
}

fn text(field: &str, bytes: &Bytes, into: &mut serde_json::Map<String, Value>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => into.insert(field.to_owned(), json!(text)),
        Err(_) => into.insert(format!("{field}_base64"), json!(STANDARD.encode(bytes))),
    };
}

fn line(key: &Bytes, version: &Version) -> Value {
    let mut line = serde_json::Map::new();
    text("key", key, &mut line);
    if version.is_tombstone() {
        line.insert("deleted".to_owned(), json!(true));
    } else {
        text("value", &version.value, &mut line);
        line.insert("create_revision".to_owned(), json!(version.create));
        line.insert("version".to_owned(), json!(version.version));
    }
    line.insert("mod_revision".to_owned(), json!(version.main));
    if version.lease != 0 {
        line.insert("lease".to_owned(), json!(format!("{:x}", version.lease)));
    }
    Value::Object(line)
}

impl Dump {
    /// Does it.
    pub fn run(self) -> anyhow::Result<()> {
        let source = Source::open(&self.path)?;
        let mut out = io::BufWriter::new(io::stdout().lock());
        if self.log {
            ensure!(source.has_log, "a backup holds no log");
            self.entries(&mut out)?;
        } else if self.meta {
            self.meta(&source, &mut out)?;
        } else {
            self.keys(&source, &mut out)?;
        }
        Ok(out.flush()?)
    }

    fn keys(&self, source: &Source, out: &mut impl io::Write) -> anyhow::Result<()> {
        let broken = |error: io::Error| Fault(format!("cannot print: {error}"));
        source.state.read(|view| -> Result<(), Fault> {
            let position = view.position()?;
            if self.history {
                return hash::versions(view, i64::MAX, position.compacted, |key, version| {
                    if key.starts_with(self.prefix.as_bytes()) {
                        writeln!(out, "{}", line(key, version)).map_err(broken)?;
                    }
                    Ok(())
                });
            }
            let all = KeyRange { start: Bytes::copy_from_slice(self.prefix.as_bytes()), end: End::Unbounded };
            let mut printed = Ok(());
            view.scan(&all, position.revision, false, &mut |key, version| {
                if !key.starts_with(self.prefix.as_bytes()) {
                    return ControlFlow::Break(());
                }
                printed = writeln!(out, "{}", line(&key, &version));
                if printed.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            printed.map_err(broken)
        })?;
        Ok(())
    }

    fn meta(&self, source: &Source, out: &mut impl io::Write) -> anyhow::Result<()> {
        let (position, leases) = source.state.read(|view| Ok::<_, Fault>((view.position()?, view.leases()?)))?;
        writeln!(out, "{}", json!({"revision": position.revision, "compacted": position.compacted}))?;
        for (id, lease) in leases {
            writeln!(out, "{}", json!({"lease": format!("{id:x}"), "ttl": lease.ttl, "remaining": lease.remaining}))?;
        }
        let ledger = source.state.ledger()?;
        for alarm in ledger.alarms(balsa_proto::etcd::etcdserverpb::AlarmType::None) {
            writeln!(out, "{}", json!({"alarm": alarm.alarm, "member": format!("{:x}", alarm.member_id)}))?;
        }
        for (id, member) in &ledger.members {
            writeln!(out, "{}", json!({"member": format!("{id:x}"), "name": member.name, "client_urls": member.client_urls}))?;
        }
        writeln!(out, "{}", json!({"auth": ledger.auth.is_enabled(), "auth_revision": ledger.auth.revision()}))?;
        for user in ledger.auth.users() {
            let roles = ledger.auth.user(&user).unwrap_or_default();
            writeln!(out, "{}", json!({"user": user, "roles": roles}))?;
        }
        for role in ledger.auth.roles() {
            writeln!(out, "{}", json!({"role": role}))?;
        }
        Ok(())
    }

    fn entries(&self, out: &mut impl io::Write) -> anyhow::Result<()> {
        let log = LogDisk::open(&self.path, |_| ())?;
        let Some((first, last)) = log.bounds()? else { return Ok(()) };
        for index in first..=last {
            for entry in log.read(index, index + 1)? {
                let seen = founding::describe(entry)?;
                writeln!(out, "{}", json!({"index": seen.index, "term": seen.term, "entry": seen.what}))?;
            }
        }
        Ok(())
    }
}
