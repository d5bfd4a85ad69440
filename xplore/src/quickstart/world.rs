//! The data of the quickstart: rows for the judges and the base model, synthesized SFT rows, RL rows, and held-out users.

use std::path::Path;

use chat::prompts::NO_PAST;
use chat::{History, PromptSet, RlRow, SftRow, jsonl};
use configs::QuickstartConfig;
use configs::judge::ItemOrders;
use configs::synth::{WorldImport, WorldPopulation};
use data_synth::curriculum::Curriculum;
use data_synth::import::world::{history, subjects};
use data_synth::judge_rows::judge_rows;
use data_synth::policy_rows::reading_rows;
use data_synth::rl_rows::rl_rows;
use data_synth::signal::{ScoredHistory, score};
use data_synth::synthesis::{SynthesisSettings, synthesize as run_synthesis};
use data_synth::teacher::Teacher;
use data_synth::world::{Population, Subject, WorldParams};
use evals::EvalUser;
use lm::LocalModel;
use rewards::{Judge, JudgeSettings};

use crate::error::Error;
use crate::parts;
use crate::reporter::Reporter;
use crate::synth::models;

/// Data of the built-in world that requires no model.
pub struct Data {
    /// Training rows of the reward judge, easy rows first.
    pub judge: Vec<SftRow>,
    /// Training rows of the base model, short rows first.
    pub reading: Vec<SftRow>,
    /// Held-out histories for measuring reading accuracy.
    pub probe: Vec<SftRow>,
    /// Held-out users for the evaluation.
    pub users: Vec<EvalUser>,
}

/// Number of histories for measuring reading accuracy: standard error 2 points at 90 %.
const PROBES: usize = 200;

/// Seed of the held-out users. They are the same for every seed of the run, like the test set of a benchmark, so that results of
/// two seeds differ by their training only.
const HELD_OUT_SEED: u64 = 0;

/// Slower than the judges' curriculum: counting is easiest to learn on rows with little to count, and such rows are short.
const READING_CURRICULUM: Curriculum = Curriculum { ramp: 0.9, skew: 0.3 };

/// Returns the users of the SFT rows. Their histories are long enough that each third of a history can be read or predicted.
fn synthesis_users(config: &QuickstartConfig) -> WorldImport {
    WorldImport {
        population: WorldPopulation::Synthesis,
        users: config.world.synthesis_users,
        least_interactions: 9,
        most_interactions: 18,
        targets: 0,
        transfer_targets: 0,
    }
}

/// Returns the users of the RL rows. Stages have about the length that the evaluations read. Reward terms can measure transfer by two
/// choices in each other domain.
fn rl_users(config: &QuickstartConfig) -> WorldImport {
    WorldImport {
        population: WorldPopulation::Reinforcement,
        users: config.world.rl_users,
        least_interactions: 8,
        most_interactions: 10,
        targets: config.world.rl_targets,
        transfer_targets: 2,
    }
}

/// Returns the users of the evaluation.
fn eval_users(config: &QuickstartConfig) -> WorldImport {
    WorldImport {
        population: WorldPopulation::HeldOut,
        users: config.world.eval_users,
        least_interactions: 6,
        most_interactions: 6,
        targets: config.world.eval_targets,
        transfer_targets: config.world.eval_transfer_targets,
    }
}

/// Generates the users of the world and the rows of the judges and the base model, and writes them to `folder`/data.
pub fn make(config: &QuickstartConfig, folder: &Path, reporter: &dyn Reporter) -> Result<Data, Error> {
    let progress = reporter.task("world");
    let world = WorldParams { seed: config.seed, ..WorldParams::default() };
    let policy_prompts = parts::prompts(&config.prompts)?;
    let rows_of = |population, ask: &configs::JudgeConfig, count| -> Result<Vec<SftRow>, Error> {
        let prompts = parts::prompts(&ask.prompts)?;
        Ok(judge_rows(&world, population, &prompts, count, &Curriculum::default())?)
    };
    let judge = rows_of(Population::TrainingJudge, &config.judge.ask, config.world.judge_rows)?;
    let second_judge = rows_of(Population::SecondJudge, &config.second_judge.ask, config.world.second_judge_rows)?;
    let count = config.world.reading_rows;
    let reading = reading_rows(&world, Population::Reading, &policy_prompts, count, &READING_CURRICULUM)?;
    // The held-out rows are as hard as the last training rows.
    let held_out = WorldParams { seed: HELD_OUT_SEED, ..world.clone() };
    let probe = Curriculum { ramp: 0.0, skew: 0.0 };
    let probe = reading_rows(&held_out, Population::HeldOut, &policy_prompts, PROBES, &probe)?;
    let users: Vec<EvalUser> = subjects(&eval_users(config), HELD_OUT_SEED).into_iter().map(user).collect();

    let data = folder.join("data");
    jsonl::write(&data.join("judge.jsonl"), &judge)?;
    jsonl::write(&data.join("second_judge.jsonl"), &second_judge)?;
    jsonl::write(&data.join("reading.jsonl"), &reading)?;
    jsonl::write(&data.join("users.jsonl"), &users)?;
    progress.done(&format!(
        "{} judge rows, {count} reading rows, {} held-out users",
        judge.len() + second_judge.len(),
        users.len()
    ));
    Ok(Data { judge, reading, probe, users })
}

fn user(subject: Subject) -> EvalUser {
    EvalUser {
        uid: subject.uid,
        history: subject.history,
        targets: subject.targets,
        transfer: subject.transfer,
        truth: Some(subject.oracle),
        ..EvalUser::default()
    }
}

/// Scores, synthesizes and prunes rows with the trained judge, and writes sft.jsonl and rl.jsonl to `folder`/data.
pub fn synthesize(
    config: &QuickstartConfig,
    judge_model: &LocalModel,
    folder: &Path,
    reporter: &dyn Reporter,
) -> Result<Vec<RlRow>, Error> {
    let mut progress = reporter.task("synthesis");
    let judge_prompts = parts::prompts(&config.judge.ask.prompts)?;
    // One random order per question, as published: synthesis asks many questions and averages over many targets.
    let settings = JudgeSettings { orders: ItemOrders::One, ..parts::judge_settings(&config.judge.ask, config.seed) };
    let judge = Judge::new(judge_model, &judge_prompts, settings)?;
    let verify = models::probabilities(&judge);
    let scored = |users: &WorldImport| -> Result<Vec<ScoredHistory>, Error> {
        let subjects = subjects(users, config.seed);
        let histories: Vec<History> = subjects.iter().map(history).collect();
        let informed: Vec<String> = subjects.iter().map(|s| s.oracle.clone()).collect();
        Ok(score(&histories, &informed, NO_PAST, &verify)?)
    };
    let prompts: PromptSet = parts::prompts(&config.prompts)?;
    let students = scored(&synthesis_users(config))?;
    progress.at(1, 3, "histories scored");
    let synthesis =
        SynthesisSettings { thresholds: config.synthesis.clone(), seed: config.seed, ..SynthesisSettings::default() };
    let (sft, report) = run_synthesis(&students, &Teacher::default(), &prompts, &verify, &synthesis)?;
    if sft.is_empty() {
        return Err(Error::data(format!(
            "no user passed the synthesis ({report:?}); raise world.synthesis_users (--set) or train the judge \
             longer"
        )));
    }
    progress.at(2, 3, "rows synthesized");
    let candidates = scored(&rl_users(config))?;
    let (rl, pruned) = rl_rows(&candidates, &config.pruning);
    if rl.is_empty() {
        return Err(Error::data(format!("no user remains after pruning ({pruned:?}); train the judge longer")));
    }
    let folder = folder.join("data");
    jsonl::write(&folder.join("sft.jsonl"), &sft)?;
    jsonl::write(&folder.join("rl.jsonl"), &rl)?;
    progress.done(&format!(
        "{} SFT rows from {} users ({} passed both stages), {} RL rows from {}",
        sft.len(),
        report.users,
        report.second.passed,
        rl.len(),
        pruned.users
    ));
    Ok(rl)
}
