//! A container engine of a few lines for the tests of this module: commands are words that it knows.

use std::time::Duration;

use async_trait::async_trait;
use balsa_proto::node::ContainerRef;
use bytes::Bytes;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::runtime::*;

pub fn pod_ref() -> PodRef {
    PodRef { namespace: "default".into(), name: "web".into(), uid: "u1".into() }
}

pub fn wanted(container: &str) -> ContainerRef {
    ContainerRef { namespace: "default".into(), pod: "web".into(), pod_uid: "u1".into(), container: container.into() }
}

/// The pod `web` with a container `c` and these container statuses.
pub fn pod(statuses: serde_json::Value) -> Pod {
    serde_json::from_value(serde_json::json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "u1"},
        "spec": {"containers": [{"name": "c", "image": "i"}, {"name": "t", "image": "i", "tty": true}]},
        "status": {"phase": "Running", "containerStatuses": statuses},
    }))
    .unwrap()
}

/// A container of the pod `web`; its id is `NAME-ATTEMPT`.
pub fn container(name: &str, attempt: u32, state: &str) -> ContainerStatus {
    let at = Timestamp::UNIX_EPOCH;
    let state = match state {
        "created" => ContainerState::Created,
        "running" => ContainerState::Running { started_at: at },
        _ => ContainerState::Exited {
            started_at: at,
            finished_at: at,
            exit_code: 0,
            oom_killed: false,
            error: String::new(),
        },
    };
    ContainerStatus {
        id: format!("{name}-{attempt}"),
        pod: pod_ref(),
        name: name.into(),
        attempt,
        spec_hash: String::new(),
        image: "i".into(),
        image_id: String::new(),
        state,
        created_at: at,
    }
}

/// Has the containers that it is given and one ready sandbox.
pub struct Engine {
    pub containers: Vec<ContainerStatus>,
}

fn absent<T>() -> RuntimeResult<T> {
    Err(RuntimeError::Other("not in this test".into()))
}

fn out(text: impl Into<Bytes>) -> Output {
    Output::Stdout(text.into())
}

/// `echo`: input comes back, and the exit code 0 at its end. `fail`: words on both outputs, exit code 3.
/// `sizes`: each new size is printed; ends with the input. `flood`: output without end.
async fn process(
    command: String,
    mut input: mpsc::Receiver<Input>,
    output: mpsc::Sender<Output>,
    exit: oneshot::Sender<RuntimeResult<i32>>,
) {
    let mut code = 0;
    match command.as_str() {
        "fail" => {
            let _ = output.send(out("to stdout\n")).await;
            let _ = output.send(Output::Stderr("to stderr\n".into())).await;
            code = 3;
        }
        "flood" => while output.send(out(vec![b'x'; 32 * 1024])).await.is_ok() {},
        _ => {
            while let Some(next) = input.recv().await {
                let text: Bytes = match next {
                    Input::Data(data) => data,
                    Input::Resize(width, height) => format!("{width}x{height}\n").into(),
                    Input::Eof => break,
                };
                if output.send(out(text)).await.is_err() {
                    break;
                }
            }
        }
    }
    drop(output);
    let _ = exit.send(Ok(code));
}

fn session(command: &str) -> Session {
    let (input, inputs) = mpsc::channel(4);
    let (outputs, output) = mpsc::channel(4);
    let (exit_sender, exit) = oneshot::channel();
    tokio::spawn(process(command.to_owned(), inputs, outputs, exit_sender));
    Session { input, output, exit }
}

#[async_trait]
impl Runtime for Engine {
    async fn version(&self) -> RuntimeResult<String> {
        Ok("test://1".into())
    }
    async fn create_sandbox(&self, _: &SandboxSpec) -> RuntimeResult<SandboxStatus> {
        absent()
    }
    async fn stop_sandbox(&self, _: &str) -> RuntimeResult<()> {
        absent()
    }
    async fn remove_sandbox(&self, _: &str) -> RuntimeResult<()> {
        absent()
    }
    async fn create_container(&self, _: &str, _: &ContainerSpec) -> RuntimeResult<String> {
        absent()
    }
    async fn start_container(&self, _: &str) -> RuntimeResult<()> {
        absent()
    }
    async fn stop_container(&self, _: &str, _: Duration) -> RuntimeResult<()> {
        absent()
    }
    async fn remove_container(&self, _: &str) -> RuntimeResult<()> {
        absent()
    }
    async fn update_container(&self, _: &str, _: u64, _: Option<u64>, _: Option<u64>) -> RuntimeResult<()> {
        absent()
    }
    async fn update_sandbox(&self, _: &str, _: &PodRef, _: &PodResources) -> RuntimeResult<()> {
        absent()
    }
    async fn list_sandboxes(&self) -> RuntimeResult<Vec<SandboxStatus>> {
        let (pod, created_at) = (pod_ref(), Timestamp::UNIX_EPOCH);
        Ok(vec![SandboxStatus { id: "s-0".into(), pod, attempt: 0, ready: true, ips: vec![], created_at }])
    }
    async fn list_containers(&self) -> RuntimeResult<Vec<ContainerStatus>> {
        Ok(self.containers.clone())
    }
    async fn inspect_container(&self, _: &str) -> RuntimeResult<ContainerStatus> {
        absent()
    }
    async fn events(&self) -> RuntimeResult<mpsc::Receiver<RuntimeEvent>> {
        absent()
    }
    async fn image(&self, _: &str) -> RuntimeResult<Option<ImageInfo>> {
        absent()
    }
    async fn pull_image(
        &self,
        _: &str,
        _: Option<&RegistryAuth>,
        _: &(dyn Fn(String) + Send + Sync),
    ) -> RuntimeResult<ImageInfo> {
        absent()
    }
    async fn list_images(&self) -> RuntimeResult<Vec<ImageInfo>> {
        absent()
    }
    async fn exec(&self, _: &str, _: &[String], _: Duration) -> RuntimeResult<ExecResult> {
        absent()
    }
    async fn exec_session(&self, _: &str, command: &[String], _: bool, _: bool) -> RuntimeResult<Session> {
        if command[0] == "missing" {
            return Err(RuntimeError::Start { message: "exec: \"missing\": not found".into(), exit_code: 127 });
        }
        Ok(session(&command[0]))
    }
    async fn attach(&self, _: &str, _: bool, tty: bool) -> RuntimeResult<Session> {
        Ok(session(if tty { "sizes" } else { "fail" }))
    }
    /// Ten lines, the last of them on standard error; `follow` adds two more.
    async fn logs(&self, id: &str, options: &LogOptions) -> RuntimeResult<mpsc::Receiver<RuntimeResult<Output>>> {
        let (sender, receiver) = mpsc::channel(2);
        let count = if options.follow { 12 } else { 10 };
        let skip = options.tail_lines.map_or(0, |tail| count - tail.min(count));
        let id = id.to_owned();
        tokio::spawn(async move {
            for number in skip..count {
                let line = Bytes::from(format!("{id} line {number}\n"));
                let output = if number == 9 { Output::Stderr(line) } else { Output::Stdout(line) };
                if sender.send(Ok(output)).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }
    async fn connect(&self, _: &str, port: u16) -> RuntimeResult<TcpStream> {
        TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| RuntimeError::Other(error.to_string()))
    }
    async fn usage(&self, _: &str) -> RuntimeResult<Usage> {
        Ok(Usage { cpu_nanos: 1_000, memory_bytes: 2_000, pids: 3 })
    }
}
