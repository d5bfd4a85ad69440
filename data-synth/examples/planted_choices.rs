//! Measures how well a scorer's signal separates informative choices from noise (docs/data.md):
//!
//!     cargo run --release -p data-synth --example planted_choices -- write runs/planted [USERS]
//!     xplore synth signal --config runs/planted/signal.toml --input runs/planted/histories.jsonl
//!     cargo run --release -p data-synth --example planted_choices -- auc runs/planted

use std::error::Error;
use std::path::{Path, PathBuf};

use chat::{History, jsonl};
use data_synth::planted::{PlantedKinds, auc, users};
use data_synth::signal::ScoredHistory;

const USAGE: &str = "usage: planted_choices write FOLDER [USERS] | auc FOLDER";
const CHOICES: usize = 12;
const NOISE: f64 = 0.5;
/// A scorer that trains on a CPU, with the optimizer of the quickstart's judges.
const SCORER: &str = r#"steps = ["signal"]
seed = 1

[signal]
by = "scorer"

[scorer]
train_max_length = 1024
max_length = 1024

[scorer.train]
batch_size = 16

[scorer.model]
dtype = "fp32"
device = "cpu"
tokenizer.vocab_size = 1024

[scorer.model.shape]
layers = 3
max_position_embeddings = 1024
rope_theta = 100000.0
init_std = 0.06

[scorer.optimizer]
kind = "muon"
muon = { ns_steps = 3 }
lr = 4e-3
betas = [0.9, 0.95]
weight_decay = 0.05
schedule = "wsd"
decay_ratio = 0.6
warmup_ratio = 0.05
min_lr_ratio = 0.02
"#;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["write", folder] => write(Path::new(folder), 8000),
        ["write", folder, count] => write(Path::new(folder), count.parse()?),
        ["auc", folder] => measure(Path::new(folder)),
        _ => Err(USAGE.into()),
    }
}

fn write(folder: &Path, count: usize) -> Result<(), Box<dyn Error>> {
    let (histories, kinds): (Vec<History>, Vec<PlantedKinds>) = users(1, count, CHOICES, NOISE).into_iter().unzip();
    jsonl::write(&folder.join("histories.jsonl"), &histories)?;
    jsonl::write(&folder.join("kinds.jsonl"), &kinds)?;
    let name = folder.file_name().ok_or("FOLDER has no name")?.to_string_lossy();
    let out = folder.parent().filter(|out| !out.as_os_str().is_empty()).map_or(PathBuf::from("."), Path::to_path_buf);
    std::fs::write(
        folder.join("signal.toml"),
        format!("name = {name:?}\nout = {:?}\n{SCORER}", out.display().to_string()),
    )?;
    println!("{count} users with {CHOICES} choices each: {}", folder.display());
    Ok(())
}

fn measure(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scored: Vec<ScoredHistory> = jsonl::read(&folder.join("signal/scored.jsonl"))?;
    let kinds: Vec<PlantedKinds> = jsonl::read(&folder.join("kinds.jsonl"))?;
    let auc = auc(&scored, &kinds)
        .ok_or("the scored choices are of one kind only, or not all choices were kept (signal.max_interactions)")?;
    println!("AUC of the signal, informative choices against noise: {auc:.3}");
    Ok(())
}
