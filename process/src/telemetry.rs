//! Logging: one line per event to standard error, level by `RUST_LOG` (default `info`).
//!
//! A panic is logged and ends the process: a task that died silently would be a half-dead process, and every process
//! here may die at any time without harm.

use tracing_subscriber::EnvFilter;

/// Sets up logging for a process. To be called once, first thing in `main`.
pub fn init() {
    init_with("info");
}

/// [`init`] with another filter for when `RUST_LOG` is not set.
pub fn init_with(default_filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default_hook(panic);
        std::process::exit(101);
    }));
}
