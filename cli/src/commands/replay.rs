//! `xplore replay`: recomputes the rewards, advantages and loss of a recorded step, with the recorded or with other settings, and with
//! the recorded verdicts or those of other judges.

use std::path::PathBuf;

use configs::rl::algorithm::ZeroVariance;
use configs::rl::rollout::Carry;
use configs::{RlConfig, RunConfig};
use rewards::PanelRequest;
use serde::Serialize;
use trainer::grpo::replay::{RecordedStep, Replayed, rejudge, replay};
use trainer::grpo::rewarding::apply_gate;
use trainer::grpo::rollout_file;

use xplore::reward::LazyPanel;
use xplore::{Error, parts, runtime};

/// Arguments of `xplore replay`.
#[derive(clap::Args)]
pub struct Replay {
    /// Folder of the run.
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Step to replay; every log.rollouts_every-th step is recorded.
    #[arg(long)]
    step: u64,
    /// Override a value of the recorded configuration, under reward or algorithm, and with --rejudge of the judges; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Load the judges of the changed configuration and ask them, in place of the recorded verdicts: other judges, wordings or gates,
    /// and terms that ask the judges.
    #[arg(long)]
    rejudge: bool,
    /// Print a JSON object instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Answer {
    step: u64,
    reward: f64,
    credited: f64,
    zero_variance: usize,
    groups: usize,
    advantages: Vec<Vec<f64>>,
    updates: Vec<OfUpdate>,
}

#[derive(Serialize)]
struct OfUpdate {
    responses: usize,
    tokens: f64,
    recorded_loss: f64,
    loss: f64,
    clip_high: f64,
    clip_low: f64,
    clip_dual: f64,
    kl_reference: f64,
}

/// Runs the command.
pub fn run(asked: &Replay) -> Result<(), Error> {
    let path = rollout_file(&asked.run, asked.step, "safetensors");
    let mut step = RecordedStep::read(&path)?;
    let recorded: RlConfig = configs::parse(&path, &step.config, &[])?;
    let config: RlConfig = configs::parse(&path, &step.config, &asked.set)?;
    replayable(&recorded, &config, asked.rejudge)?;
    let composition = parts::composition(&config.reward, &rewards::Registry::default())?;
    let found = if asked.rejudge {
        runtime::init(config.threads)?;
        if config.reward.gate != recorded.reward.gate {
            apply_gate(&mut step.groups, config.reward.gate);
        }
        let panel = LazyPanel::new(&config);
        rejudge(&step, &config, &composition, &|requests: &[PanelRequest]| panel.ask(requests))?
    } else {
        replay(&step, &config, &composition)?
    };
    let answer = answer(&step, &found);
    if asked.json {
        println!("{}", serde_json::to_string(&answer).map_err(|e| Error::data(e.to_string()))?);
    } else {
        print(&answer);
    }
    Ok(())
}

/// Returns an error for settings under which the run would have had other samples or other mini-batches, or that need verdicts which
/// were not recorded, unless the step is judged again.
fn replayable(recorded: &RlConfig, asked: &RlConfig, rejudges: bool) -> Result<(), Error> {
    let carries_best = recorded.rollout.carry == Carry::Best && recorded.rollout.stages > 1;
    let mut same = recorded.clone();
    same.reward = asked.reward.clone();
    // The targets are those that were drawn in the run.
    same.reward.targets_per_stage = recorded.reward.targets_per_stage;
    same.reward.transfer_per_stage = recorded.reward.transfer_per_stage;
    if rejudges && !carries_best {
        same.judge = asked.judge.clone();
        same.judges.clone_from(&asked.judges);
        (same.panel, same.panel_temperature) = (asked.panel, asked.panel_temperature);
        same.judge_cache.clone_from(&asked.judge_cache);
        // A gate decides which samples are carried if malformed ones are not.
        if !recorded.rollout.carry_malformed && recorded.rollout.stages > 1 {
            same.reward.gate = recorded.reward.gate;
        }
    } else {
        // The judges were not asked about responses that failed the gate.
        same.reward.gate = recorded.reward.gate;
    }
    same.rollout.carry_malformed = asked.rollout.carry_malformed;
    let (old, new) = (&recorded.algorithm, &asked.algorithm);
    same.algorithm = new.clone();
    same.algorithm.num_minibatches = old.num_minibatches;
    same.algorithm.minibatches = old.minibatches;
    same.algorithm.published_ranks = old.published_ranks;
    same.algorithm.num_iterations = old.num_iterations;
    same.algorithm.kl.reference = old.kl.reference.clone();
    // Samples that the run excluded have no log-probabilities, and users that refilling would add were never sampled.
    let leaves_out = old.zero_variance != ZeroVariance::Keep;
    if leaves_out && new.zero_variance != ZeroVariance::Drop || new.zero_variance == ZeroVariance::Refill {
        same.algorithm.zero_variance = old.zero_variance;
    }
    same.algorithm.mask_truncated |= old.mask_truncated;
    if carries_best {
        same.reward.terms.clone_from(&recorded.reward.terms);
        same.reward.malformed = recorded.reward.malformed;
    }
    if same == *asked {
        return Ok(());
    }
    let (same, asked) = (same.resolved()?, asked.resolved()?);
    let mut differ = same.lines().zip(asked.lines()).filter(|(a, b)| a != b);
    let which = differ.next().map_or_else(String::new, |(_, b)| format!(" (`{b}`)"));
    Err(Error::usage(format!(
        "a replay can change reward.* (not targets_per_stage or transfer_per_stage, not gate without --rejudge, and not terms or \
         malformed if the run carried the best summary), with --rejudge the judges (unless the run carried the best summary), \
         algorithm.* (not num_minibatches, minibatches, published_ranks, num_iterations or kl.reference, and it cannot \
         include samples that the run excluded) and rollout.carry_malformed (for credit only); any other change{which} \
         would have led to other samples or updates"
    )))
}

fn answer(step: &RecordedStep, found: &Replayed) -> Answer {
    let mean = |rows: Vec<f64>| rows.iter().sum::<f64>() / rows.len() as f64;
    let own = found.groups.iter().flat_map(|g| &g.samples).map(|s| s.reward.total).collect();
    let updates = step.updates.iter().zip(&found.updates).map(|(recorded, (responses, sums))| OfUpdate {
        responses: *responses,
        tokens: sums.tokens,
        recorded_loss: recorded.loss,
        loss: sums.loss,
        clip_high: sums.high / sums.tokens,
        clip_low: sums.low / sums.tokens,
        clip_dual: sums.dual / sums.tokens,
        kl_reference: sums.kl_reference / sums.tokens,
    });
    Answer {
        step: step.step,
        reward: mean(own),
        credited: mean(found.advantages.rewards.concat()),
        zero_variance: found.advantages.num_zero_variance(),
        groups: found.groups.len(),
        advantages: found.advantages.advantages.clone(),
        updates: updates.collect(),
    }
}

fn print(answer: &Answer) {
    println!(
        "step {}: {} groups, {} with zero variance; reward {:.4}, credited {:.4}",
        answer.step, answer.groups, answer.zero_variance, answer.reward, answer.credited
    );
    println!("update  tokens   recorded loss          loss  clip high   low  dual  KL to reference");
    for (i, u) in answer.updates.iter().enumerate() {
        println!(
            "{:6} {:7} {:15.8} {:13.8} {:8.2} % {:3.1} % {:2.1} % {:12.6}",
            i + 1,
            u.tokens,
            u.recorded_loss,
            u.loss,
            100.0 * u.clip_high,
            100.0 * u.clip_low,
            100.0 * u.clip_dual,
            u.kl_reference
        );
    }
    if answer.updates.len() > 1 {
        println!(
            "(losses use the recorded log-probabilities; other settings would have changed those of later updates)"
        );
    }
}
