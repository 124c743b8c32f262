//! Network namespaces of the test's own: each belongs to a thread that has left the machine's network, and is gone
//! with that thread and the processes that it started. Nothing has a name, so there is nothing to clean up, also after
//! a panic.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::Command;
use std::sync::mpsc;

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
pub struct Space {
    jobs: mpsc::Sender<Job>,
    /// By this number the namespace is known to `ip`.
    thread: i32,
}

impl Space {
    pub fn new() -> Result<Self, String> {
        let (jobs, waiting) = mpsc::channel::<Job>();
        let (entered, inside) = mpsc::channel();
        std::thread::spawn(move || {
            let left = unshare(CloneFlags::CLONE_NEWNET).map(|()| nix::unistd::gettid().as_raw());
            let went_well = left.is_ok();
            let _asker = entered.send(left);
            while let (true, Ok(job)) = (went_well, waiting.recv()) {
                job();
            }
        });
        match inside.recv() {
            Ok(Ok(thread)) => Ok(Self { jobs, thread }),
            Ok(Err(error)) => Err(format!("no network namespace can be made: {error}")),
            Err(_) => Err("no network namespace can be made".to_owned()),
        }
    }

    /// Does something there: sockets and processes that are made belong to the namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, done) = mpsc::channel::<Result<T, Box<dyn Any + Send>>>();
        let job = move || {
            let _asker = answer.send(catch_unwind(AssertUnwindSafe(work)));
        };
        self.jobs.send(Box::new(job)).expect("the namespace's thread is there");
        match done.recv().expect("an answer from the namespace's thread") {
            Ok(done) => done,
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Runs `ip` there.
    pub fn ip(&self, words: &str) -> Result<(), String> {
        let words = words.to_owned();
        self.run(move || {
            let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
            match output.status.success() {
                true => Ok(()),
                false => Err(format!("ip {words}: {}", String::from_utf8_lossy(&output.stderr).trim())),
            }
        })
    }
}

/// Namespaces that a bridge joins, and the means to part them.
pub struct Lan {
    hub: Space,
    pub spaces: Vec<Space>,
}

/// An address that nobody has.
const NOBODY: &str = "02:00:00:00:00:01";

impl Lan {
    /// So many, all joined; or why not.
    pub fn of(count: usize) -> Result<Self, String> {
        let hub = Space::new()?;
        hub.ip("link add br0 type bridge forward_delay 0")?;
        hub.ip("link set br0 up")?;
        let mut spaces = Vec::new();
        for number in 0..count {
            let space = Space::new()?;
            hub.ip(&format!("link add port{number} type veth peer name eth0 netns {}", space.thread))?;
            hub.ip(&format!("link set port{number} master br0 up"))?;
            space.ip("link set lo up")?;
            space.ip(&format!("addr add {}/24 dev eth0", Self::address(number)))?;
            space.ip("link set eth0 up")?;
            spaces.push(space);
        }
        Ok(Self { hub, spaces })
    }

    pub fn address(number: usize) -> String {
        format!("10.77.0.{}", number + 1)
    }

    /// Takes one off the network, or puts it back.
    pub fn plug(&self, number: usize, plugged: bool) {
        let state = if plugged { "up" } else { "down" };
        self.hub.ip(&format!("link set port{number} {state}")).unwrap();
    }

    /// Loses, or loses no longer, what one sends to another; the way back is not touched.
    pub fn lose(&self, from: usize, to: usize, lost: bool) {
        let address = Self::address(to);
        match lost {
            true => self.spaces[from].ip(&format!("neigh replace {address} lladdr {NOBODY} nud permanent dev eth0")).unwrap(),
            false => self.spaces[from].ip(&format!("neigh del {address} dev eth0")).unwrap(),
        }
    }
}
