//! `balsa-store`: one replica of the store.

use balsa_process::{shutdown, telemetry};
use balsa_store::Config;
use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // openraft tells every message at info, and of a peer that is gone with each attempt at warn.
    telemetry::init_with("info,openraft=error");
    let config = Config::parse();
    balsa_store::run(config, shutdown::on_signal()?).await
}
