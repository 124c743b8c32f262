//! What the cross-process tests share: the cluster under test, the real kubectl, and waiting for conditions.
//!
//! The cluster is brought up by `cargo balsa test`, which says where it is in the environment; a test that is run
//! without one says so and fails, it is never skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod tidy;

/// The cluster under test.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Its name, the prefix of its containers.
    pub name: String,
    /// Its certificates, data and kubeconfig.
    pub state: PathBuf,
}

/// Where the repository is.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository").to_owned()
}

/// What a program said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Whether it exited with 0.
    pub success: bool,
    /// Exit code; −1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            success: output.status.success(),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a program to its end.
pub fn run(command: &mut Command) -> Said {
    let shown = format!("{command:?}");
    command.output().unwrap_or_else(|error| panic!("cannot run {shown}: {error}")).into()
}

/// The kubectl to test with: the newest that is at hand.
pub fn kubectl_program() -> PathBuf {
    let built = repository().join("target/peers/kubectl");
    if let Some(named) = std::env::var_os("BALSA_TEST_KUBECTL") {
        return named.into();
    }
    if built.exists() { built } else { "kubectl".into() }
}

/// Asks `condition` again until it gives something; panics with its last word after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(last) if Instant::now() > deadline => panic!("{what}: not within {limit:?}; last seen: {last}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

impl Cluster {
    /// The one that `cargo balsa test` has brought up.
    pub fn under_test() -> Self {
        let state = std::env::var_os("BALSA_TEST_STATE");
        let state = state.expect("no cluster to test: run `cargo balsa test e2e` (or chaos), which brings one up");
        let name = std::env::var("BALSA_TEST_CLUSTER").unwrap_or_else(|_| "balsa-test".to_owned());
        Self { name, state: state.into() }
    }

    /// Where the stores' client ports are: `localhost:PORT`.
    pub fn store_endpoints(&self) -> [String; 3] {
        let port: u16 = std::env::var("BALSA_TEST_STORE_PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(2389);
        [port, port + 20_000, port + 30_000].map(|port| format!("localhost:{port}"))
    }

    /// The container of a process.
    pub fn container(&self, process: &str) -> String {
        format!("{}-{process}", self.name)
    }

    /// kubectl, with nothing but this cluster's kubeconfig.
    pub fn kubectl_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(kubectl_program());
        command.env("KUBECONFIG", self.state.join("kubeconfig")).args(words).stdin(Stdio::null());
        command
    }

    /// Runs kubectl.
    pub fn kubectl(&self, words: &[&str]) -> Said {
        run(&mut self.kubectl_command(words))
    }

    /// Runs kubectl and expects success; gives its output.
    pub fn kubectl_ok(&self, words: &[&str]) -> String {
        let said = self.kubectl(words);
        assert!(said.success, "kubectl {}: exit {}\n{}{}", words.join(" "), said.code, said.out, said.err);
        said.out
    }

    /// Feeds a manifest to `kubectl WORDS -f -`.
    pub fn kubectl_with_input(&self, words: &[&str], input: &str) -> Said {
        use std::io::Write as _;
        let mut child = self
            .kubectl_command(words)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        // The comment keeps older kubectls from taking a manifest in flow style for JSON.
        let input = format!("# a manifest\n{input}");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads its input");
        child.wait_with_output().expect("kubectl").into()
    }

    /// `kubectl apply -f -`, expecting success.
    pub fn apply(&self, manifest: &str) -> String {
        let said = self.kubectl_with_input(&["apply"], manifest);
        assert!(said.success, "kubectl apply: {}{}", said.out, said.err);
        said.out
    }

    /// An object as JSON.
    pub fn get(&self, words: &[&str]) -> Result<Value, String> {
        let said = self.kubectl(&[&["get", "-o", "json"], words].concat());
        if !said.success {
            return Err(said.err);
        }
        serde_json::from_str(&said.out).map_err(|error| error.to_string())
    }

    /// Waits until a pod is in a phase.
    pub fn wait_phase(&self, namespace: &str, pod: &str, phase: &str) -> Value {
        wait_for(&format!("pod {namespace}/{pod} {phase}"), Duration::from_secs(90), || {
            let object = self.get(&["pod", pod, "-n", namespace])?;
            if object["status"]["phase"] == phase { Ok(object) } else { Err(object["status"].to_string()) }
        })
    }

    /// A namespace of the test's own, with its default service account there; gone when dropped.
    pub fn namespace(&self, name: &str) -> Namespace {
        let said = self.kubectl(&["create", "namespace", name]);
        assert!(said.success, "{}", said.err);
        wait_for("the namespace's service account", Duration::from_secs(60), || {
            self.get(&["serviceaccount", "default", "-n", name])
        });
        Namespace { cluster: self.clone(), name: name.to_owned() }
    }

    /// Names of containers that the node agents of this cluster have made, by label; dead ones too.
    pub fn pod_containers(&self, filter: &str) -> Vec<String> {
        let label = format!("label=balsa.cluster={}", self.name);
        let said = docker(&["ps", "--all", "--filter", &label, "--format", "{{.Names}}"]);
        said.out.lines().filter(|name| name.contains(filter)).map(str::to_owned).collect()
    }
}

/// Runs docker.
pub fn docker(words: &[&str]) -> Said {
    let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
    run(Command::new(program).args(words))
}

/// See [`Cluster::namespace`].
#[derive(Debug)]
pub struct Namespace {
    cluster: Cluster,
    /// Its name.
    pub name: String,
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}
