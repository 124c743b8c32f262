//! Makes static binaries link C++'s runtime (RocksDB needs it) statically too.
//!
//! A prebuilt RocksDB asks for `dylib=stdc++`. In a static executable that would leave references to a shared library
//! that nobody loads: it crashes before `main`. Linkers take whatever kind of library they find first, so a directory
//! with nothing but the static one, ahead of the system's, settles it.

use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io};

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    let is_static = env::var("CARGO_CFG_TARGET_FEATURE").is_ok_and(|features| features.contains("crt-static"));
    if !is_static || env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return Ok(());
    }
    let asked = Command::new("c++").arg("-print-file-name=libstdc++.a").output()?;
    let library = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    if !library.is_absolute() {
        println!("cargo::warning=there is no static libstdc++; the binaries may not run");
        return Ok(());
    }
    let dir = PathBuf::from(env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("no OUT_DIR"))?).join("static");
    fs::create_dir_all(&dir)?;
    fs::copy(library, dir.join("libstdc++.a"))?;
    println!("cargo::rustc-link-search=native={}", dir.display());
    Ok(())
}
