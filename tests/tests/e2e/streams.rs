//! logs -f, exec -it, cp, attach and port-forward through the real kubectl.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::Duration;

use balsa_tests::{Cluster, wait_for};

const POD: &str = "{apiVersion: v1, kind: Pod, metadata: {name: s}, spec: {terminationGracePeriodSeconds: 0, containers: [{name: c, \
    image: 'balsa/busybox:1', command: [sh, -c, 'httpd -p 8080 -h /www; i=0; while true; do i=$((i+1)); echo line $i; sleep 0.2; done']}]}}";

#[test]
fn logs_follow_exec_copy_and_forward() {
    let cluster = Cluster::under_test();
    let namespace = cluster.namespace("streams");
    let ns = namespace.name.as_str();
    cluster.kubectl_with_input(&["apply", "-n", ns], POD);
    cluster.wait_phase(ns, "s", "Running");
    follow(&cluster, ns);
    exec(&cluster, ns);
    copy(&cluster, ns);
    forward(&cluster, ns);
}

fn follow(cluster: &Cluster, ns: &str) {
    let mut child = cluster.kubectl_command(&["logs", "-f", "s", "-n", ns]).stdout(Stdio::piped()).spawn().expect("kubectl");
    let lines: Vec<String> =
        BufReader::new(child.stdout.take().expect("piped")).lines().take(12).map(|line| line.expect("text")).collect();
    child.kill().ok();
    child.wait().ok();
    let expected: Vec<String> = (1..=12).map(|number| format!("line {number}")).collect();
    assert_eq!(lines, expected);
    assert_eq!(cluster.kubectl_ok(&["logs", "s", "--tail=1", "-n", ns]).lines().count(), 1);
}

fn exec(cluster: &Cluster, ns: &str) {
    let said = cluster.kubectl(&["exec", "s", "-n", ns, "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7), "{}", said.err);
    assert!(said.err.starts_with("err\n"), "{}", said.err);
    let mut child = cluster
        .kubectl_command(&["exec", "-i", "s", "-n", ns, "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    child.stdin.take().expect("piped").write_all(b"through and back").expect("stdin");
    let output = child.wait_with_output().expect("kubectl");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through and back");
    // A terminal of its own for kubectl: `script` gives it one.
    let command = format!("{} exec -it s -n {ns} -- sh -c 'tty && stty size'", balsa_tests::kubectl_program().display());
    let said = balsa_tests::run(
        std::process::Command::new("script")
            .args(["-q", "-e", "-c", &command, "/dev/null"])
            .env("KUBECONFIG", cluster.state.join("kubeconfig"))
            .stdin(Stdio::null()),
    );
    assert!(said.out.contains("/dev/pts/"), "{}{}", said.out, said.err);
}

fn copy(cluster: &Cluster, ns: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let there = folder.path().join("there.txt");
    std::fs::write(&there, "carried").expect("a file");
    let pod_path = format!("{ns}/s:/tmp/there.txt");
    cluster.kubectl_ok(&["cp", &there.to_string_lossy(), &pod_path]);
    let back = folder.path().join("back.txt");
    cluster.kubectl_ok(&["cp", &pod_path, &back.to_string_lossy()]);
    assert_eq!(std::fs::read_to_string(back).expect("copied back"), "carried");
}

fn forward(cluster: &Cluster, ns: &str) {
    let mut child =
        cluster.kubectl_command(&["port-forward", "s", ":8080", "-n", ns]).stdout(Stdio::piped()).spawn().expect("kubectl");
    let mut first = String::new();
    // Kept open: kubectl ends when it cannot print.
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    said.read_line(&mut first).expect("a line");
    let port: u16 = first.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or_else(|| panic!("{first}"));
    for _ in 0..3 {
        let page = wait_for("the page through the tunnel", Duration::from_secs(20), || ask(port).map_err(|error| error.to_string()));
        assert!(page.contains("this page comes from a pod"), "{page}");
    }
    child.kill().ok();
    child.wait().ok();
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut page = String::new();
    stream.read_to_string(&mut page)?;
    Ok(page)
}
