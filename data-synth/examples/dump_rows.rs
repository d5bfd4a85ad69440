//! Writes training rows of the built-in world as JSONL, for inspection or for another trainer.
//!
//! `cargo run --release -p data-synth --example dump_rows -- PROMPTS (reading|judge) COUNT FILE`, where PROMPTS is the
//! folder of a prompt set such as `configs/prompts/compact`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use chat::PromptSet;
use data_synth::curriculum::Curriculum;
use data_synth::judge_rows::judge_rows;
use data_synth::policy_rows::reading_rows;
use data_synth::world::{Population, WorldParams};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, kind, count, file] = arguments.as_slice() else {
        return Err("expected PROMPTS (reading|judge) COUNT FILE".into());
    };
    let mut sources = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        sources.insert(name, std::fs::read_to_string(&path)?);
    }
    let prompts = PromptSet::new("compact", &sources)?;
    let (world, count, curriculum) = (WorldParams::default(), count.parse()?, Curriculum::default());
    let rows = match kind.as_str() {
        "reading" => reading_rows(&world, Population::Reading, &prompts, count, &curriculum)?,
        "judge" => judge_rows(&world, Population::TrainingJudge, &prompts, count, &curriculum)?,
        other => return Err(format!("`{other}` is not a kind of row; expected reading or judge").into()),
    };
    chat::jsonl::write(Path::new(file), &rows)?;
    Ok(())
}
