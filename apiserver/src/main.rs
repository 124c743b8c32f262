//! The apiserver as a process.

use balsa_apiserver::{Config, run};
use balsa_process::{shutdown, telemetry};
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    telemetry::init();
    let config = Config::parse();
    let stop = shutdown::on_signal()?;
    run(config, stop).await
}
