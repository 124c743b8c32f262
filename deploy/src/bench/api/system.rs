//! An API server and its store as processes: ours or Kubernetes'.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use balsa_process::identity::{Actor, names};
use balsa_process::pki::{Authority, signing_key_pem, write_private};
use balsa_process::tls::TlsIdentity;

use super::client::Client;
use crate::bench::members::{self, Members};
use crate::bench::{cpu_micros, memory};
use crate::{build, layout, peers, run};

const PORT: u16 = 21_790;
const STORE_PORT: u16 = 21_760;
/// A real kube-apiserver takes some seconds; a loaded machine makes that many more.
const READY: Duration = Duration::from_secs(120);

/// What one system consists of.
pub struct Programs {
    /// As figures call it.
    pub name: &'static str,
    store: (members::System, PathBuf),
    apiserver: PathBuf,
}

/// Both systems; ours alone where the other is not at hand.
pub fn programs(store: &members::Store) -> Result<Vec<Programs>> {
    let mut built = build::binaries(&["balsa-store", "balsa-apiserver"], store.profile, false)?.into_iter();
    let (Some(balsa_store), Some(balsa_apiserver)) = (built.next(), built.next()) else { bail!("nothing was built") };
    let mut systems = Vec::new();
    let peer = layout::repository()?.join("target/peers/kube-apiserver");
    let kubernetes = if peer.exists() { Some(peer) } else { run::find("kube-apiserver") };
    match kubernetes.map(|apiserver| Ok::<_, anyhow::Error>((apiserver, peers::etcd()?))) {
        Some(Ok((apiserver, etcd))) => {
            systems.push(Programs { name: "kubernetes", store: (members::System::Etcd, etcd), apiserver });
        }
        Some(Err(error)) => eprintln!("measured alone: {error:#}"),
        None => eprintln!("measured alone: no kube-apiserver in target/peers or on PATH"),
    }
    systems.push(Programs { name: "balsa", store: (members::System::Balsa, balsa_store), apiserver: balsa_apiserver });
    Ok(systems)
}

/// A running system; it ends with this value.
pub struct System {
    stores: Members,
    apiserver: Child,
    admin: TlsIdentity,
    /// From the start of the API server's process until it says that it is ready.
    pub ready_ms: f64,
}

impl Drop for System {
    fn drop(&mut self) {
        // Already gone is as good.
        self.apiserver.kill().ok();
        self.apiserver.wait().ok();
    }
}

impl System {
    /// Starts everything under `folder` and waits until it is ready.
    pub async fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        let pki = folder.join("pki");
        let authority = Authority::open_or_create(&pki)?;
        let actor = |user: &str, group: &str| Actor { user: user.to_owned(), groups: vec![group.to_owned()] };
        let hosts = ["127.0.0.1", "localhost", "kubernetes"].map(str::to_owned);
        let server = authority.issue_files(&pki, "server", &actor(names::APISERVER, names::MASTERS), &hosts)?;
        let admin = authority.issue_files(&pki, "admin", &actor("kubernetes-admin", names::MASTERS), &[])?.load()?;
        let key = pki.join("sa.key");
        write_private(&key, &signing_key_pem()?)?;
        let stores = Members::start(programs.store.0, &programs.store.1, folder, 3, STORE_PORT)?;
        crate::bench::load::leader(&stores.endpoints).await?;
        let stored = stores.endpoints.join(",");
        let (ca, cert, tls_key) = (server.ca.display(), server.cert.display(), server.key.display());
        let arguments = match programs.store.0 {
            members::System::Balsa => format!(
                "--store-endpoints={stored} --listen=127.0.0.1:{PORT} --listen-grpc=127.0.0.1:{} \
                 --service-account-key={} --tls-ca={ca} --tls-cert={cert} --tls-key={tls_key}",
                PORT + 1, key.display()),
            members::System::Etcd => format!(
                "--etcd-servers={stored} --bind-address=127.0.0.1 --secure-port={PORT} --client-ca-file={ca} \
                 --tls-cert-file={cert} --tls-private-key-file={tls_key} --authorization-mode=Node,RBAC \
                 --service-cluster-ip-range=10.96.0.0/16 --service-account-issuer=https://kubernetes.default.svc.cluster.local \
                 --service-account-key-file={key} --service-account-signing-key-file={key}", key = key.display()),
        };
        let log = fs::File::create(folder.join("apiserver.log"))?;
        let started = Instant::now();
        let apiserver = Command::new(&programs.apiserver)
            .args(arguments.split_whitespace())
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", programs.apiserver.display()))?;
        let mut system = Self { stores, apiserver, admin, ready_ms: 0.0 };
        loop {
            if system.is_ready().await {
                system.ready_ms = started.elapsed().as_secs_f64() * 1e3;
                return Ok(system);
            }
            if let Some(ended) = system.apiserver.try_wait()? {
                bail!("{} ended with {ended}; see apiserver.log in {}", programs.name, folder.display());
            }
            if started.elapsed() > READY {
                bail!("{} was not ready within {READY:?}; see apiserver.log in {}", programs.name, folder.display());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn is_ready(&self) -> bool {
        let Ok(mut client) = self.connect().await else { return false };
        matches!(client.call("GET", "/readyz", None).await, Ok(answer) if answer.code == 200)
    }

    /// A connection of its own to the API server.
    pub async fn connect(&self) -> Result<Client> {
        Client::connect(&self.admin, PORT).await
    }

    /// CPU time of the API server and of all its stores so far, microseconds.
    pub fn cpu_micros(&self) -> (u64, u64) {
        (cpu_micros(self.apiserver.id()), self.stores.cpu_micros())
    }

    /// Resident memory of the API server, MiB.
    pub fn resident_mib(&self) -> u64 {
        memory::resident(self.apiserver.id()) >> 20
    }
}
