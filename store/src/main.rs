//! `balsa-store`: one replica of the store, or one of its tools.

use balsa_process::{shutdown, telemetry};
use balsa_store::Config;
use balsa_store::tools::{self, Tools};
use clap::Parser as _;

/// Many small, short-lived allocations on many threads: the C library's allocator took an eighth of a put's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // openraft tells every message at info, and of a peer that is gone with each attempt at warn.
    telemetry::init_with("info,openraft=error");
    if tools::is_called(std::env::args().nth(1).as_deref()) {
        return tools::run(Tools::parse()).await;
    }
    let config = Config::parse();
    balsa_store::run(config, shutdown::on_signal()?).await
}
