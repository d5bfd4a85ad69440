//! The plan of an SFT run, computed from its rows and the model's shape. Does not load weights.

use std::fmt::Write;

use configs::SftConfig;
use configs::model::Start;
use corpus::{BatchPlan, Corpus};
use lm::ModelConfig;
use trainer::memory_plan::{self, SftMemory};
use trainer::{memory, start};

use super::data_free_plan::checkpoints;
use crate::progress::Terminal;
use xplore::parts;
use xplore::{Error, Reporter};

/// Describes batches and memory for display.
pub fn describe(config: &SftConfig, ranks: usize) -> Result<String, Error> {
    if let Some(missing) = parts::missing_data(&config.data) {
        return Ok(format!("  {missing} does not exist, so batches and memory are not estimated\n"));
    }
    let (spec, tokenizer) = start::shape_of(&config.model, &config.data)?;
    let mut progress = Terminal.task("tokenize");
    let mut show = |words: &str, done, total| progress.at(done, total, words);
    let corpus = corpus::open(&config.data, &tokenizer, &config.cache(), config.seed, &mut show)?;
    let mut plan = corpus::plan(&corpus.train, &config.train);
    let batches = Batches::count(&corpus, &mut plan, config.train.micro_batch_tokens);
    let mut out = String::new();
    rows(&mut out, &corpus);
    if let Some(words) = config.train.batch_size.explanation(corpus.train.len()) {
        line(&mut out, "batch size", &words);
    }
    batches.describe(&mut out, config);
    out.push_str(&checkpoints(&config.checkpoint, batches.updates, |step| plan.ends_epoch(step)));
    let needed = memory_plan::sft(config, &spec, (batches.largest_pass, batches.most_trained), ranks);
    plan_memory(&mut out, &needed, &spec, config, ranks);
    Ok(out)
}

/// Formats bytes for display, in MiB or GiB.
pub fn gib(bytes: f64) -> String {
    match bytes / f64::from(1 << 30) {
        small if small < 1.0 => format!("{:.0} MiB", small * 1024.0),
        large => format!("{large:.2} GiB"),
    }
}

/// Describes whether ranks that need up to `bytes` each fit in the memory of `device`. All CPU ranks share this machine's memory.
pub fn fits(bytes: f64, device: configs::Device, ranks: usize) -> String {
    let Some((room, per_rank)) = memory::room(device) else {
        return "unknown (the memory of this machine cannot be read)".into();
    };
    let (needed, who) = match per_rank {
        true => (bytes, format!("each rank needs {} of its GPU's {}", gib(bytes), gib(room))),
        false => (
            bytes * ranks as f64,
            format!("{ranks} rank(s) need {} of this machine's {}", gib(bytes * ranks as f64), gib(room)),
        ),
    };
    match needed <= room {
        true => format!("yes: {who}"),
        false => format!(
            "no: {who}; lower micro_batch_tokens, set train.activation_checkpointing_every = 1 or optimizer.state = \
             \"model\", train with [lora], or set parallel.sharding = \"full\" and use more ranks"
        ),
    }
}

fn line(out: &mut String, label: &str, words: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "  {label:12} {words}");
}

fn rows(out: &mut String, corpus: &Corpus) {
    for (name, set) in corpus.report.sets.iter().chain(&corpus.report.validation) {
        line(out, "rows", &format!("{name}: {} read, {} kept", set.rows, set.kept));
        line(out, "", &format!("{} truncated to data.max_length, {} skipped", set.truncated, set.skipped.total()));
        line(out, "", &format!("{} tokens, {} trained, longest row {}", set.tokens, set.trained_tokens, set.longest));
    }
    if let Some(validation) = &corpus.validation {
        line(out, "validation", &format!("{} rows", validation.len()));
    }
}

/// Counts over the updates of a run.
#[derive(Default)]
struct Batches {
    batch_size: usize,
    updates: u64,
    epochs: f64,
    sequences: u64,
    tokens: u64,
    trained: u64,
    passes: u64,
    largest_pass: usize,
    most_trained: usize,
}

impl Batches {
    fn count(corpus: &Corpus, plan: &mut BatchPlan<'_>, budget: usize) -> Self {
        let (batch_size, updates) = (plan.batch_size(), plan.steps());
        let mut all = Self { batch_size, updates, epochs: plan.epochs_after(updates), ..Self::default() };
        for step in 0..plan.steps() {
            let batch = plan.batch(step).expect("steps below plan.steps() have a batch");
            let lengths: Vec<usize> = batch.rows.iter().map(|&id| corpus.train.length(id)).collect();
            let trained: Vec<usize> = batch.rows.iter().map(|&id| corpus.train.trained(id)).collect();
            all.sequences += lengths.len() as u64;
            for bin in corpus::pack(&lengths, budget) {
                let sum = |of: &[usize]| bin.iter().map(|&i| of[i]).sum::<usize>();
                let (tokens, counted) = (sum(&lengths), sum(&trained));
                all.passes += 1;
                all.tokens += tokens as u64;
                all.trained += counted as u64;
                all.largest_pass = all.largest_pass.max(tokens);
                all.most_trained = all.most_trained.max(counted);
            }
        }
        all
    }

    fn describe(&self, out: &mut String, config: &SftConfig) {
        let train = &config.train;
        let size = match train.batch_tokens {
            0 => format!("{} sequences", self.batch_size),
            tokens => format!("up to {tokens} tokens"),
        };
        let mean = |n: u64| n as f64 / self.updates.max(1) as f64;
        line(out, "updates", &format!("{} of {size} over {:.2} epochs", self.updates, self.epochs));
        line(
            out,
            "per update",
            &format!(
                "{:.1} sequences, {:.0} tokens, {:.0} trained, {:.2} micro-batches of at most {} tokens (mean)",
                mean(self.sequences),
                mean(self.tokens),
                mean(self.trained),
                mean(self.passes),
                train.micro_batch_tokens
            ),
        );
        line(out, "total", &format!("{} sequences, {} tokens, {} trained", self.sequences, self.tokens, self.trained));
        line(out, "micro-batch", &format!("at most {} tokens", self.largest_pass));
        if self.largest_pass > train.micro_batch_tokens {
            line(out, "", "(a row longer than train.micro_batch_tokens is a micro-batch of its own)");
        }
    }
}

fn plan_memory(out: &mut String, needed: &SftMemory, spec: &ModelConfig, config: &SftConfig, ranks: usize) {
    let needs = &needed.model;
    let numbers: i64 = lm::params::layout(spec).iter().map(lm::params::ParamEntry::numel).sum();
    line(out, "model", &format!("{:.1} million parameters", numbers as f64 / 1e6));
    line(
        out,
        "memory",
        &format!(
            "weights {}, gradients {}, optimizer {}, activations {}, temporary {}",
            gib(needs.weights),
            gib(needs.gradients),
            gib(needs.optimizer),
            gib(needs.activations),
            gib(needs.passing)
        ),
    );
    line(out, "loading", &gib(needs.loading()));
    line(out, "passes", &format!("{} (peak, forward and backward)", gib(needs.passes())));
    line(out, "update", &gib(needs.update()));
    line(out, "fits", &fits(needs.passes(), config.model.device, ranks));
    if let Some(validation) = needed.validation {
        line(out, "validation", &format!("{} plus the judge's weights", gib(validation)));
    }
    if let Start::Existing(source) = config.model.start() {
        line(out, "", &format!("(estimated from {}'s config.json; no weights were loaded)", source.path));
    }
}
