//! Writes the raw logs of the offline example: users of the built-in world in MIND's layout.
//!
//!     cargo run --release -p data-synth --example world_logs -- examples/offline/logs [SEED [USERS]]

use std::error::Error;
use std::fs;
use std::path::Path;

use data_synth::world_logs::{EXAMPLE_SEED, EXAMPLE_USERS, mind};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (folder, seed, users) = match &arguments[..] {
        [folder] => (folder, EXAMPLE_SEED, EXAMPLE_USERS),
        [folder, seed] => (folder, seed.parse()?, EXAMPLE_USERS),
        [folder, seed, users] => (folder, seed.parse()?, users.parse()?),
        _ => return Err("usage: world_logs FOLDER [SEED [USERS]]".into()),
    };
    let (folder, logs) = (Path::new(folder), mind(seed, users));
    fs::create_dir_all(folder)?;
    fs::write(folder.join("news.tsv"), &logs.news)?;
    fs::write(folder.join("behaviors.tsv"), &logs.behaviors)?;
    let (articles, impressions) = (logs.news.lines().count(), logs.behaviors.lines().count());
    println!("{articles} articles, {impressions} impressions: {}", folder.display());
    Ok(())
}
