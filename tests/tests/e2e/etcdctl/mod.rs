//! etcd's own client against the running stores, or against stores of the test's own.

mod commands;
mod everyday;

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use balsa_tests::{Cluster, Said, run};

/// etcdctl, and how it reaches the stores.
pub struct Ctl {
    program: PathBuf,
    flags: Vec<String>,
    /// One for each store.
    pub endpoints: Vec<String>,
}

/// Where it is: `cargo balsa test` finds one or gets it.
fn program() -> PathBuf {
    std::env::var_os("BALSA_TEST_ETCDCTL").expect("`cargo balsa test` says where etcdctl is").into()
}

impl Ctl {
    /// For the cluster that all tests share.
    pub fn under_test() -> Self {
        let cluster = Cluster::under_test();
        let pki = cluster.state.join("pki");
        let files = [("--cacert", "ca.crt"), ("--cert", "admin.crt"), ("--key", "admin.key")];
        let flags = files.iter().flat_map(|(flag, file)| [(*flag).to_owned(), pki.join(file).display().to_string()]);
        Self { program: program(), flags: flags.collect(), endpoints: cluster.store_endpoints().to_vec() }
    }

    /// The same for other stores, without TLS.
    pub fn at(endpoints: &[String]) -> Self {
        Self { program: program(), flags: Vec::new(), endpoints: endpoints.to_vec() }
    }

    /// A command for these endpoints.
    pub fn command(&self, endpoints: &str, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--endpoints").arg(endpoints).args(&self.flags).args(words).env_remove("ETCDCTL_USER");
        command
    }

    /// Runs it to its end, with `input` to read.
    pub fn says(&self, endpoints: &str, words: &[&str], input: Option<&str>) -> Said {
        let mut command = self.command(endpoints, words);
        let Some(text) = input else { return run(command.stdin(Stdio::null())) };
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("input");
        std::fs::write(&path, text).expect("a file");
        run(command.stdin(std::fs::File::open(path).expect("the file")))
    }

    /// What a command that has to succeed prints.
    pub fn ok(&self, endpoints: &str, words: &[&str], input: Option<&str>) -> String {
        let said = self.says(endpoints, words, input);
        assert!(said.success, "etcdctl {words:?} at {endpoints}: {}{}", said.out, said.err);
        said.out
    }

    /// The same at the first store.
    pub fn first(&self, words: &[&str]) -> String {
        self.ok(&self.endpoints[0], words, None)
    }

    /// What a command that has to fail complains about.
    pub fn fails(&self, words: &[&str]) -> String {
        let said = self.says(&self.endpoints[0], words, None);
        assert!(!said.success, "etcdctl {words:?} should fail: {}", said.out);
        said.err
    }

    /// Starts a command that goes on by itself.
    pub fn start(&self, words: &[&str]) -> Running {
        let mut command = self.command(&self.endpoints[0], words);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("etcdctl starts");
        let (sender, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("its output"));
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines }
    }
}

/// A command that goes on until it is dropped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Waits for a line that contains `text`.
    pub fn until(&self, text: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(30)).unwrap_or_else(|_| panic!("nothing says {text:?}"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
