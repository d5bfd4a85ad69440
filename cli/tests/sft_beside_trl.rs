//! `xplore sft` compared with TRL's SFTTrainer: the same losses, gradient norms, learning rates and weights at every step.

mod predictions;

use std::path::{Path, PathBuf};

use fixtures::sft_runs::{SftRun, fit};
use python_reference::ask;
use serde_json::{Value as Json, json};
use tolerance::{assert_within, largest};

use crate::predictions::{logits, numbers, predictions};

const STEPS: usize = 30;
const MAX_LENGTH: usize = 96;

/// A comparison. `passes` is `train.micro_batch_tokens`, which has no counterpart in TRL.
#[derive(Clone, Copy, Debug)]
struct Case {
    family: &'static str,
    adapter: Option<&'static str>,
    accumulation: usize,
    schedule: (&'static str, &'static str),
    passes: usize,
    /// Muon's momentum and number of Newton–Schulz iterations; AdamW if `None`.
    muon: Option<(f64, usize)>,
    /// Value of `optimizer.ema_decay`.
    ema: f64,
}

const COSINE: (&str, &str) = ("cosine", "cosine");
const CONSTANT: (&str, &str) = ("constant", "constant_with_warmup");

fn cases() -> Vec<Case> {
    let usual = |family, adapter, accumulation| Case {
        family,
        adapter,
        accumulation,
        schedule: COSINE,
        passes: 16384,
        muon: None,
        ema: 0.0,
    };
    let mut cases = Vec::new();
    for family in ["qwen3", "llama"] {
        for adapter in [None, Some("lora")] {
            cases.extend([1, 4].map(|accumulation| usual(family, adapter, accumulation)));
        }
    }
    cases.push(usual("qwen3", Some("dora"), 4));
    cases.push(Case { schedule: CONSTANT, ..usual("qwen3", None, 1) });
    cases.push(Case { passes: 150, ..usual("qwen3", None, 4) });
    cases.push(Case { passes: 150, ..usual("llama", Some("lora"), 4) });
    cases.push(Case { muon: Some((0.95, 5)), ..usual("qwen3", None, 4) });
    cases.push(Case { muon: Some((0.8, 2)), ema: 0.7, ..usual("llama", None, 1) });
    cases.push(Case { ema: 0.9, schedule: CONSTANT, ..usual("qwen3", None, 4) });
    cases.push(Case { ema: 0.9, schedule: CONSTANT, ..usual("qwen3", Some("lora"), 1) });
    cases
}

impl Case {
    /// Returns the name of the case for TRL. Cases that differ only in our micro-batches share it.
    fn asked(&self) -> String {
        let kind = self.adapter.unwrap_or("full");
        let optimizer = if self.muon.is_some() { "muon" } else { "adamw" };
        format!("{}-{kind}-{optimizer}-{}-{}-ema{}", self.family, self.accumulation, self.schedule.0, self.ema)
    }

    fn name(&self) -> String {
        format!("{}-{}", self.asked(), self.passes)
    }

    fn lr(&self) -> f64 {
        if self.adapter.is_some() { 5e-3 } else { 1e-3 }
    }

    fn job(&self) -> Json {
        json!({"name": self.asked(), "family": self.family, "batch": 4, "accumulation": self.accumulation,
               "schedule": self.schedule.1, "lr": self.lr(), "adapter": self.adapter, "ema": self.ema,
               "muon": self.muon.map(|(momentum, ns_steps)| json!({"momentum": momentum, "ns_steps": ns_steps}))})
    }

    fn base(&self, place: &Path) -> PathBuf {
        place.join(format!("model-{}", self.family))
    }

    fn config(&self, place: &Path) -> String {
        let (model, rows) = (self.base(place), place.join("rows.jsonl"));
        let lora = self.adapter.map_or(String::new(), |kind| {
            let start = place.join(format!("{}-{kind}", self.family));
            format!("[lora]\nrank = 4\nalpha = 8.0\ndora = {}\nstart = '{}'\n", kind == "dora", start.display())
        });
        let muon = self.muon.map_or(String::new(), |(momentum, ns_steps)| {
            format!("kind = 'muon'\nmuon = {{ momentum = {momentum}, ns_steps = {ns_steps} }}\n")
        });
        format!(
            "[model]\npath = '{}'\ndtype = 'fp32'\ndevice = 'cpu'\n[data]\ntrain = '{}'\nmax_length = {MAX_LENGTH}\n\
             shuffle = false\n[train]\nepochs = 9\nmax_steps = {STEPS}\nbatch_size = {}\nmicro_batch_tokens = {}\n\
             [optimizer]\nlr = {}\nweight_decay = 0.01\nschedule = '{}'\nwarmup_ratio = 0.1\nema_decay = {}\n{muon}{lora}",
            model.display(),
            rows.display(),
            4 * self.accumulation,
            self.passes,
            self.lr(),
            self.schedule.0,
            self.ema
        )
    }
}

/// Returns the maximum relative deviation of a column from TRL's.
fn deviation(ours: &[f64], trl: &[f64]) -> f64 {
    assert_eq!((ours.len(), trl.len()), (STEPS, STEPS), "steps of ours and of TRL");
    largest(ours.iter().zip(trl).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() / b.abs() }))
}

fn compare(run: &SftRun, trl: &Json, name: &str) {
    let mut seen = Vec::new();
    for (key, most) in [("loss", 2e-6), ("grad_norm", 1e-4), ("lr", 1e-9)] {
        let (ours, trl) = (run.column(key), numbers(&trl[key]));
        let off = deviation(&ours, &trl);
        seen.push(format!("{key} {off:.1e}"));
        assert_within!(off, most, "{name}: {key}\nours {ours:?}\nTRL {trl:?}\nrelative deviation");
    }
    println!("{name}: {}", seen.join(", "));
}

#[test]
fn thirty_steps_are_those_of_trl_and_so_are_the_weights_after_them() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let prompts: Vec<Vec<u32>> = vec![(3..25).collect(), (250..290).rev().collect()];
    let cases = cases();
    let asked: Vec<Json> = cases.iter().filter(|case| case.passes == 16384).map(Case::job).collect();
    let trl = ask(
        "sft_steps.py",
        &json!({"folder": place, "steps": STEPS, "max_length": MAX_LENGTH, "weight_decay": 0.01, "warmup": 0.1,
                "cases": asked, "prompts": prompts}),
        place,
    );
    let mut trained = Vec::new();
    for case in &cases {
        let name = case.name();
        let run = fit(place, &name, &case.config(place), &[]);
        let several = run.column("microbatches").iter().any(|&passes| passes > 1.0);
        assert_eq!(several, case.passes < 1000, "{name}: passes of a step");
        compare(&run, &trl[case.asked()], &name);
        trained.push(match case.adapter {
            Some(_) => (name, case.base(place), Some(run.last())),
            None => (name, run.last(), None),
        });
    }
    let ours = predictions(&trained, &prompts, place);
    for case in &cases {
        let (ours, trl) = (logits(&ours[case.name()]), logits(&trl[case.asked()]));
        assert_eq!(ours.len(), 62, "tokens of the prompts");
        let pairs = ours.iter().flatten().zip(trl.iter().flatten());
        let off = largest(pairs.map(|(a, b)| (a - b).abs()));
        println!("{}: logits {off:.1e}", case.name());
        assert_within!(off, 1e-4, "{}: logits after training", case.name());
    }
}
