//! `backup`: a running member's Snapshot stream to a file, whole or not at all.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use balsa_process::tls::TlsFiles;
use balsa_proto::etcd::etcdserverpb::auth_client::AuthClient;
use balsa_proto::etcd::etcdserverpb::maintenance_client::MaintenanceClient;
use balsa_proto::etcd::etcdserverpb::{AuthenticateRequest, SnapshotRequest};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::file;

/// Flags of `backup`.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// The file to write.
    pub file: PathBuf,
    /// The member's client URL.
    #[arg(long, env = "BALSA_ENDPOINT", default_value = "http://127.0.0.1:2379")]
    pub endpoint: String,
    /// The user root, when auth is enabled and the certificate's common name is not that.
    #[arg(long, env = "BALSA_USER")]
    pub user: Option<String>,
    /// Its password.
    #[arg(long, env = "BALSA_PASSWORD", hide_env_values = true, default_value = "")]
    pub password: String,
    /// Identity; needed where the endpoint begins with https.
    #[command(flatten)]
    pub tls: Option<TlsFiles>,
}

impl Backup {
    /// Does it.
    pub async fn run(self) -> anyhow::Result<()> {
        ensure!(!self.file.exists(), "{} exists already", self.file.display());
        let mut endpoint = Endpoint::from_shared(self.endpoint.clone())?.connect_timeout(Duration::from_secs(5));
        if let Some(files) = &self.tls {
            endpoint = endpoint.tls_config(files.load()?.tonic_client())?;
        }
        let channel = endpoint.connect().await.with_context(|| format!("cannot connect to {}", self.endpoint))?;
        let mut request = Request::new(SnapshotRequest {});
        if let Some(token) = self.token(&channel).await? {
            request.metadata_mut().insert("token", token.parse().context("a token that cannot be sent")?);
        }
        let mut pieces = MaintenanceClient::new(channel).snapshot(request).await?.into_inner();
        let part = self.file.with_extension("part");
        let mut to = std::fs::File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
        while let Some(piece) = pieces.message().await? {
            to.write_all(&piece.blob)?;
        }
        to.sync_all()?;
        file::check(&part)?;
        std::fs::rename(&part, &self.file)?;
        if let Some(dir) = self.file.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            crate::disk::sync_dir(dir)?;
        }
        println!("saved {} bytes to {}", std::fs::metadata(&self.file)?.len(), self.file.display());
        Ok(())
    }

    async fn token(&self, channel: &Channel) -> anyhow::Result<Option<String>> {
        let Some(name) = self.user.clone() else { return Ok(None) };
        let request = AuthenticateRequest { name, password: self.password.clone() };
        Ok(Some(AuthClient::new(channel.clone()).authenticate(request).await?.into_inner().token))
    }
}
