//! The Docker Engine: whether one answers, and starting one where none does.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::run;

/// Where the engine listens.
pub const SOCKET: &str = "/var/run/docker.sock";

/// Whether an engine answers on its socket.
pub fn answers() -> bool {
    UnixStream::connect(SOCKET).is_ok() && run::output(&mut docker(&["version", "--format", "{{.Server.Version}}"])).is_ok()
}

/// The `docker` program with these words. Debian's own is preferred: it is of the engine's version.
pub fn docker(words: &[&str]) -> Command {
    let program = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// Makes sure that an engine runs. Returns a note and, where this call started it by hand, the engine's process id.
pub fn ensure(log_dir: &Path, say: &dyn Fn(&str)) -> Result<(Option<u32>, String)> {
    if answers() {
        return Ok((None, version()?));
    }
    if Path::new("/run/systemd/system").exists() && run::output(Command::new("systemctl").args(["start", "docker"])).is_ok() {
        wait(Duration::from_secs(60))?;
        return Ok((None, format!("{}, started by systemd", version()?)));
    }
    say("starting dockerd");
    let program = run::find("dockerd").context("no Docker Engine answers and there is no dockerd to start")?;
    fs::create_dir_all(log_dir).with_context(|| format!("{}", log_dir.display()))?;
    let log_path: PathBuf = log_dir.join("dockerd.log");
    let log = fs::File::create(&log_path).with_context(|| format!("{}", log_path.display()))?;
    // A session of its own, so that Ctrl-C here does not end it.
    let child = Command::new("setsid")
        .arg(program)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("the engine's log")?)
        .stderr(log)
        .spawn()
        .context("cannot start dockerd")?;
    wait(Duration::from_secs(60)).with_context(|| format!("dockerd's own words are in {}", log_path.display()))?;
    Ok((Some(child.id()), format!("{}, started; its log is {}", version()?, log_path.display())))
}

fn wait(limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !answers() {
        if Instant::now() > deadline {
            bail!("the Docker Engine did not answer on {SOCKET} within {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

fn version() -> Result<String> {
    let version = run::output(&mut docker(&["version", "--format", "{{.Server.Version}}"]))?;
    Ok(format!("Docker Engine {}", version.trim()))
}
