//! The dataset card, with the front matter that the Hugging Face hub and the `datasets` library read.

use std::collections::BTreeMap;

use configs::synth::ExportFormat;

use super::schema::{self, Field, features};
use super::{ExportJob, ExportReport, Split, SplitSize};

/// The bounds of the hub's size categories, and their names.
const SIZES: [(usize, &str); 5] = [
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
];

/// The category of larger sets.
const LARGEST: &str = "10M<n<100M";

/// An exported set: its name, its columns and its splits.
type Set<'a> = (&'static str, &'static [Field], &'a BTreeMap<Split, SplitSize>);

/// Returns the card.
pub(super) fn text(job: &ExportJob<'_>, report: &ExportReport) -> String {
    let sets: Vec<Set<'_>> = [("sft", schema::SFT, &report.sft), ("rl", schema::RL, &report.rl)]
        .into_iter()
        .filter(|(_, _, splits)| !splits.is_empty())
        .collect();
    let mut text = String::from("---\n");
    front_matter(&mut text, job, &sets);
    text += "---\n\n";
    body(&mut text, job, report, &sets);
    text
}

/// Returns a text as a YAML scalar; JSON's strings are strings of YAML.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn title<'a>(job: &ExportJob<'a>) -> &'a str {
    if job.config.title.is_empty() { job.name } else { &job.config.title }
}

fn front_matter(text: &mut String, job: &ExportJob<'_>, sets: &[Set<'_>]) {
    let rows: usize = sets.iter().flat_map(|(_, _, splits)| splits.values()).map(|size| size.rows).sum();
    let size = SIZES.iter().find(|(bound, _)| rows < *bound).map_or(LARGEST, |(_, name)| *name);
    // Table files are smaller and have types, so the hub's viewer gets them where both exist.
    let ending = if job.config.formats.contains(&ExportFormat::Parquet) { "parquet" } else { "jsonl" };
    *text += &format!("license: {}\n", quoted(&job.config.license));
    if !job.config.languages.is_empty() {
        *text += "language:\n";
        job.config.languages.iter().for_each(|language| *text += &format!("- {}\n", quoted(language)));
    }
    *text += &format!("pretty_name: {}\n", quoted(title(job)));
    *text += &format!("size_categories:\n- {size}\ntask_categories:\n- text-generation\n");
    *text += "tags:\n- preference\n- personalization\n- synthetic\nconfigs:\n";
    for (name, _, splits) in sets {
        *text += &format!("- config_name: {name}\n  data_files:\n");
        for split in splits.keys() {
            let split = split.name();
            *text += &format!("  - split: {split}\n    path: {name}/{split}.{ending}\n");
        }
    }
    *text += "dataset_info:\n";
    for (name, columns, splits) in sets {
        *text += &format!("- config_name: {name}\n  features:\n{}  splits:\n", features(columns, 2));
        for (split, size) in splits.iter() {
            let SplitSize { rows, bytes, .. } = size;
            *text += &format!("  - name: {}\n    num_bytes: {bytes}\n    num_examples: {rows}\n", split.name());
        }
        let bytes: u64 = splits.values().map(|size| size.bytes).sum();
        *text += &format!("  download_size: {bytes}\n  dataset_size: {bytes}\n");
    }
}

fn body(text: &mut String, job: &ExportJob<'_>, report: &ExportReport, sets: &[Set<'_>]) {
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line(&format!("# {}\n", title(job)));
    if !job.config.description.is_empty() {
        line(&format!("{}\n", job.config.description.trim()));
    }
    line(
        "Training sets for preference reasoning models: a model reads a user's past choices and writes a summary of their \
         preferences, from which a judge predicts later choices.\n",
    );
    line("## Sets\n\n| set | split | rows | users |\n|---|---|---|---|");
    for (name, _, splits) in sets {
        for (split, size) in splits.iter() {
            let known = *name != "sft" || report.sft_users_known;
            let users = if known { size.users.to_string() } else { "unknown".into() };
            line(&format!("| `{name}` | {} | {} | {users} |", split.name(), size.rows));
        }
    }
    if report.eval_users > 0 {
        line(&format!("| `eval/users.jsonl` | test | {0} | {0} |", report.eval_users));
    }
    line(&format!(
        "\n`sft` has a prompt and a completion in messages: reasoning in `<think>` tags, then the summary. `rl` has a history and \
         the positions of the choices that a summary is judged by. A user is in one split only, drawn with seed {} by user id; \
         {} of the users are held out.",
        job.seed, job.config.validation_share
    ));
    if report.messages {
        line(
            "\nHistories of messages may have one user id per question (`import.message_users = \"question\"`). Questions about one \
             person's conversation are then different users, and can be in both splits and in `eval/users.jsonl`.",
        );
    }
    if !report.sft_users_known && !report.sft.is_empty() {
        line(
            "\nThe rows of `sft` came without user ids: rows with the same prompt count as one user, so a user with \
             several prompts can be in both splits.",
        );
    }
    provenance(text, job);
}

fn provenance(text: &mut String, job: &ExportJob<'_>) {
    let mut line = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    line("\n## Provenance\n\nMade with Xplore (`xplore synth`).");
    if !job.models.is_empty() {
        line("\n| role | model |\n|---|---|");
        job.models.iter().for_each(|model| line(&format!("| {} | `{}` |", model.role, model.name)));
    }
    if !job.provenance.is_empty() {
        line(
            "\nEach step's stamp is the hash of its configuration, its inputs and its outputs.\n\n| step | stamp |\n|---|---|",
        );
        job.provenance.iter().for_each(|step| line(&format!("| {} | `{}` |", step.step, step.stamp)));
        line("\n| step | input | SHA-256 |\n|---|---|---|");
        for step in job.provenance {
            step.inputs.iter().for_each(|(name, hash)| line(&format!("| {} | `{name}` | `{hash}` |", step.step)));
        }
    }
    for step in job.provenance.iter().filter(|step| !step.text.trim().is_empty()) {
        line(&format!(
            "\n<details><summary>Configuration of {}</summary>\n\n```toml\n{}\n```\n\n</details>",
            step.step,
            step.text.trim()
        ));
    }
}
