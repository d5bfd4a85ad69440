//! Rollout: n summaries per prompt; some are carried into the prompts of the next stage.

use chat::{HistoryItems, Interaction, PromptSet, Sampling, reasoning};
use configs::rl::rollout::PromptOverflow;
use configs::rl::{RlConfig, RolloutConfig};
use lm::LocalModel;
use lm::generate::{Generated, Request};
use rewards::credit::carried;
use rewards::{Composition, Draw, ExternalScores, JudgeStats, PanelRequest, PanelVerdict, Parent, Reward, gate};

use super::curriculum_sampler::CurriculumUser;
use super::generate_on_ranks::{GeneratedOnRanks, HandOver, generate_on_ranks};
use super::group::{Group, GroupInput, Sample};
use super::rewarding::{self, AskFn, GateFn, StageRequests, StatsFn, SubmitFn, costs, set_rewards_with};
use super::stages::Stage;
use crate::{ParallelContext, TrainError};

/// The inputs of a rollout besides the model.
#[derive(Clone, Copy)]
pub struct Rollouts<'a> {
    /// The policy's prompts.
    pub prompts: &'a PromptSet,
    /// The judges.
    pub ask: &'a AskFn<'a>,
    /// Judges that answer while further summaries are generated; `None` if all judges work on this thread.
    pub submit: Option<&'a SubmitFn<'a>>,
    /// What the judges did, for the metrics of a step.
    pub stats: Option<&'a StatsFn<'a>>,
    /// Whether a response is well-formed. `None` in runs, for the format gate of the configuration; tests replace the gate because an
    /// untrained policy writes no tags.
    pub gate: Option<&'a GateFn<'a>>,
    /// The reward.
    pub composition: &'a Composition,
    /// The configuration of the run.
    pub config: &'a RlConfig,
}

/// Time of a rollout by phase, seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct PhaseTimes {
    /// Building prompts and sampling.
    pub rollout: f64,
    /// Judging.
    pub judge: f64,
}

/// The output of a rollout.
#[derive(Clone, Debug, Default)]
pub struct RolloutOutput {
    /// The groups, ordered by stage, parents before their children.
    pub groups: Vec<Group>,
    /// Seconds by phase.
    pub times: PhaseTimes,
    /// Metrics of the reward terms, once per stage.
    pub term_metrics: Vec<(String, f64)>,
}

/// A group to sample: its user, its parent, and the stages it reads.
struct WantedGroup<'p, 'a> {
    user: usize,
    of: &'p CurriculumUser<'a>,
    parent: Option<Parent>,
}

impl Rollouts<'_> {
    /// Rolls out all stages for `users`, whose indices in the step begin at `first`; the ranks of `context` divide the work.
    /// Groups are ordered by stage, parents before their children, and parents are indices into the result.
    ///
    /// # Errors
    /// If a prompt does not render or fit, or generation or the judge fails.
    pub fn roll_out(
        &self,
        (model, context): (&LocalModel, &ParallelContext),
        users: &[CurriculumUser<'_>],
        (step, first): (u64, usize),
    ) -> Result<RolloutOutput, TrainError> {
        let mut output = RolloutOutput::default();
        let RolloutOutput { groups, times, term_metrics } = &mut output;
        let mut wanted: Vec<WantedGroup<'_, '_>> =
            users.iter().enumerate().map(|(i, of)| WantedGroup { user: first + i, of, parent: None }).collect();
        for stage in 0..self.config.rollout.stages {
            let begin = std::time::Instant::now();
            let before = groups.len();
            let ranks = self.sample((model, context), &wanted, groups, (step, stage))?;
            times.rollout += begin.elapsed().as_secs_f64();
            let begin = std::time::Instant::now();
            let ask = |asked: &StageRequests| self.ask(context, asked, &ranks);
            let (stage_groups, at) = (&mut groups[before..], (step, self.config));
            let of_terms = rewarding::judge(stage_groups, self.composition, at, &ask)?;
            let external = self.ask_external(context, stage_groups, step)?;
            term_metrics.extend(set_rewards_with(stage_groups, self.composition, at, &of_terms, &external)?);
            times.judge += begin.elapsed().as_secs_f64();
            if stage + 1 == self.config.rollout.stages {
                break;
            }
            let of_stage: Vec<&CurriculumUser<'_>> = wanted.iter().map(|w| w.of).collect();
            wanted = Vec::new();
            for (index, group) in groups.iter_mut().enumerate().skip(before) {
                group.carried = self.carry(group, step);
                wanted.extend(group.carried.iter().map(|&sample| WantedGroup {
                    user: group.user,
                    of: of_stage[index - before],
                    parent: Some(Parent { group: index, sample }),
                }));
            }
        }
        Ok(output)
    }

    /// Samples the groups of one stage. Returns the rank that generated each sample.
    fn sample(
        &self,
        (model, context): (&LocalModel, &ParallelContext),
        wanted: &[WantedGroup<'_, '_>],
        groups: &mut Vec<Group>,
        (step, stage): (u64, usize),
    ) -> Result<Vec<usize>, TrainError> {
        let config = &self.config.rollout;
        let mut requests = Vec::with_capacity(wanted.len());
        let mut sampled = Vec::with_capacity(wanted.len());
        for WantedGroup { user, of, parent } in wanted {
            let past = parent.map(|p| past_summary(groups, p));
            let (prompt, shown) = self.prompt(model, past, of.stages[stage], &of.row.uid)?;
            let draw = Draw::new(self.config.seed).text("rollout").with(step).text(&of.row.uid).with(*user as u64);
            let (group, sample) = parent.map_or((0, 0), |p| (p.group as u64, p.sample as u64));
            let draw = draw.with(stage as u64).with(group).with(sample);
            let seeds = (0..config.num_generations_of(stage) as u64).map(|i| draw.with(i).bits()).collect();
            requests.push(Request { prompt: prompt.clone(), seeds, sampling: sampling(config), top_logprobs: 0 });
            sampled.push(Group {
                user: *user,
                uid: of.row.uid.clone(),
                stage,
                continues: stage + 1 < config.stages,
                parent: *parent,
                prompt,
                samples: Vec::new(),
                carried: Vec::new(),
                input: self.input(of, shown, parent.map(|p| (&groups[..], p)), (step, stage)),
            });
        }
        let mut failed = None;
        let mut hand_over = |index: usize, outputs: &[Generated]| {
            if failed.is_none() {
                failed = self.submit(model, &mut sampled[index], outputs, step).err();
            }
        };
        let hand_over = self.submit.is_some().then_some(&mut hand_over as &mut HandOver<'_>);
        let GeneratedOnRanks { samples, ranks } = generate_on_ranks(model, context, &requests, hand_over)?;
        if let Some(error) = failed {
            return Err(error);
        }
        for (group, outputs) in sampled.iter_mut().zip(samples) {
            // A group that was handed over has its samples, unless another rank generated some of them.
            if group.samples.len() != outputs.len() {
                group.samples =
                    outputs.into_iter().map(|g| self.finished(model, g)).collect::<Result<_, TrainError>>()?;
            }
        }
        groups.append(&mut sampled);
        Ok(ranks)
    }

    /// Returns what the prompt of a group contains, which `shown` is of the user's history, and what its summaries are judged by.
    fn input(
        &self,
        of: &CurriculumUser<'_>,
        shown: HistoryItems<'_>,
        parent: Option<(&[Group], Parent)>,
        (step, stage): (u64, usize),
    ) -> GroupInput {
        let draw =
            |purpose: &str| Draw::new(self.config.seed).text(purpose).with(step).text(&of.row.uid).with(stage as u64);
        let config = &self.config.reward;
        let further = drawn(of.row.targets.iter().collect(), config.targets_per_stage - 1, draw("further targets"));
        // A judge compares two items.
        let transfer = of.row.transfer.iter().filter(|target| target.rejected.is_some()).collect();
        let transfer = drawn(transfer, config.transfer_per_stage, draw("transfer targets"));
        GroupInput {
            history: of.stages[stage].window.interactions().to_vec(),
            messages: shown.messages().to_vec(),
            past_summary: parent.map(|(groups, p)| past_summary(groups, p).to_owned()),
            targets: std::iter::once(of.stages[stage].target).chain(further).cloned().collect(),
            transfer: transfer.into_iter().cloned().collect(),
            past_targets: parent.map_or_else(Vec::new, |(groups, p)| groups[p.group].input.targets.clone()),
            reference: of.row.reference_of(stage).map(str::to_owned),
        }
    }

    /// Returns a sample that is not judged yet.
    fn finished(&self, model: &LocalModel, generated: Generated) -> Result<Sample, TrainError> {
        let text = model.tokenizer.decode(&generated.ids)?;
        let well_formed = match self.gate {
            Some(gate) => gate(&text),
            None => gate::split(self.config.reward.gate, &text).is_some(),
        };
        Ok(Sample {
            text,
            truncated: generated.finish == chat::FinishReason::Length,
            ids: generated.ids,
            rollout: generated.logprobs,
            old: Vec::new(),
            reference: Vec::new(),
            p_chosen: None,
            verdicts: Vec::new(),
            no_answer: 0.0,
            reward: Reward { total: 0.0, scores: Vec::new(), parts: Vec::new(), well_formed },
        })
    }

    /// Makes `outputs` the samples of `group`, and sends the requests about them to judges that answer meanwhile. The verdicts do not
    /// depend on it.
    fn submit(
        &self,
        model: &LocalModel,
        group: &mut Group,
        outputs: &[Generated],
        step: u64,
    ) -> Result<(), TrainError> {
        let Some(submit) = self.submit else { return Ok(()) };
        group.samples = outputs.iter().map(|g| self.finished(model, g.clone())).collect::<Result<_, TrainError>>()?;
        let asked = StageRequests::of(std::slice::from_ref(&*group), self.composition, (step, self.config))?;
        submit(&asked.requests)
    }

    /// Returns the prompt of one group, at most `max_prompt_tokens` long, and the part of the stage's window that it was rendered
    /// with.
    ///
    /// # Errors
    /// If it does not render, or does not fit and may not be truncated.
    pub fn prompt<'h>(
        &self,
        model: &LocalModel,
        past: Option<&str>,
        stage: Stage<'h>,
        uid: &str,
    ) -> Result<(Vec<u32>, HistoryItems<'h>), TrainError> {
        let (whole, most) = (stage.window, self.config.rollout.max_prompt_tokens);
        let encoded = |window: HistoryItems<'_>| -> Result<Vec<u32>, TrainError> {
            Ok(model.tokenizer.encode_chat(&self.prompts.summarize(past, window)?, None)?)
        };
        let mut ids = encoded(whole)?;
        let over = ids.len().saturating_sub(most);
        if over == 0 {
            return Ok((ids, whole));
        }
        let (mut tokens, mut shortest) = (ids.len(), whole);
        let others = match self.config.rollout.prompt_overflow {
            PromptOverflow::CutLeft => {
                ids.drain(..over);
                return Ok((ids, whole));
            }
            PromptOverflow::Error => "cut_left or drop_oldest",
            PromptOverflow::DropOldest => {
                // A prompt with more items is longer, so the most that fit are found by bisection: a conversation may have thousands.
                let (mut fitting, mut low, mut high) = (None, 1_usize, whole.len());
                while low < high {
                    let middle = low.midpoint(high);
                    let window = whole.latest(middle);
                    let ids = encoded(window)?;
                    if ids.len() <= most {
                        (fitting, low) = (Some((ids, window)), middle + 1);
                    } else {
                        (tokens, shortest, high) = (ids.len(), window, middle);
                    }
                }
                if let Some(fitting) = fitting {
                    return Ok(fitting);
                }
                "cut_left"
            }
        };
        Err(TrainError::Data(format!(
            "user {uid}: the prompt has {tokens} tokens with {} {}, more than rollout.max_prompt_tokens ({most}); raise it, or set \
             rollout.prompt_overflow to {others}",
            shortest.len(),
            shortest.noun()
        )))
    }

    /// Asks the judges the requests of a stage; the ranks divide them, and each makes one call. `ranks` is the rank that generated
    /// each sample.
    fn ask(
        &self,
        context: &ParallelContext,
        asked: &StageRequests,
        ranks: &[usize],
    ) -> Result<Vec<PanelVerdict>, TrainError> {
        self.ask_spread(context, "verdicts", &asked.requests, || match self.submit {
            // A rank has sent the requests about the samples that it generated.
            Some(_) => {
                let mut own = vec![Vec::new(); context.world.size()];
                asked.samples.iter().enumerate().for_each(|(request, sample)| own[ranks[*sample]].push(request));
                own
            }
            None => context.spread(&asked.costs()),
        })
    }

    /// Asks the judges further requests, which no rank has sent; the ranks divide them.
    ///
    /// # Errors
    /// If a judge fails or a rank is lost.
    pub fn ask_on_ranks(
        &self,
        context: &ParallelContext,
        requests: &[PanelRequest],
    ) -> Result<Vec<PanelVerdict>, TrainError> {
        self.ask_spread(context, "verdicts of further requests", requests, || context.spread(&costs(requests)))
    }

    /// Asks the judges; each rank asks those of `requests` that `spread` assigns to it. `what` names the collective.
    fn ask_spread(
        &self,
        context: &ParallelContext,
        what: &str,
        requests: &[PanelRequest],
        spread: impl FnOnce() -> Vec<Vec<usize>>,
    ) -> Result<Vec<PanelVerdict>, TrainError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        if context.world.size() == 1 {
            return (self.ask)(requests);
        }
        let spread = spread();
        let own: Vec<PanelRequest> = spread[context.world.rank()].iter().map(|&i| requests[i].clone()).collect();
        let own = if own.is_empty() { Vec::new() } else { (self.ask)(&own)? };
        context.all_gather_object(what, &spread, own)
    }

    /// Asks the programs and endpoints that compute reward terms. Only rank 0 asks: asked twice, they may answer differently, but
    /// every rank must compute with the same scores.
    fn ask_external(
        &self,
        context: &ParallelContext,
        groups: &[Group],
        step: u64,
    ) -> Result<Vec<ExternalScores>, TrainError> {
        if self.composition.external().next().is_none() {
            return Ok(Vec::new());
        }
        context.on_rank_zero("the scores of external reward terms", || {
            let responses = rewarding::responses(groups, self.config, true);
            Ok(self.composition.ask_external(step, &responses)?)
        })
    }

    /// Returns what the judges of all ranks did since the last call. The seconds are those of the busiest rank.
    ///
    /// # Errors
    /// If a rank is lost.
    pub fn judge_stats(&self, context: &ParallelContext) -> Result<Vec<JudgeStats>, TrainError> {
        let Some(stats) = self.stats else { return Ok(Vec::new()) };
        let every_rank: Vec<Vec<usize>> = (0..context.world.size()).map(|rank| vec![rank]).collect();
        let mut of_ranks = context.all_gather_object("judge statistics", &every_rank, vec![stats()])?.into_iter();
        let mut all = of_ranks.next().unwrap_or_default();
        for (judge, own) in of_ranks.flat_map(|of_rank: Vec<JudgeStats>| of_rank.into_iter().enumerate()) {
            let sum = &mut all[judge];
            (sum.requests, sum.hits) = (sum.requests + own.requests, sum.hits + own.hits);
            (sum.tokens, sum.seconds) = (sum.tokens + own.tokens, sum.seconds.max(own.seconds));
            sum.cost = sum.cost.zip(own.cost).map(|(sum, own)| sum + own);
        }
        Ok(all)
    }

    fn carry(&self, group: &Group, step: u64) -> Vec<usize> {
        let config = &self.config.rollout;
        let totals: Vec<f64> = group.samples.iter().map(|s| s.reward.total).collect();
        let well_formed: Vec<bool> = group.samples.iter().map(|s| s.reward.well_formed).collect();
        let draw = Draw::new(self.config.seed).text("picked row").with(step).text(&group.uid);
        let draw = draw.with(group.user as u64).with(group.stage as u64);
        carried(config.carry, config.carry_malformed, &totals, &well_formed, draw)
    }
}

/// Returns `count` of `choices`, drawn without replacement; all of them, in another order, if there are fewer.
fn drawn(mut choices: Vec<&Interaction>, count: usize, draw: Draw) -> Vec<&Interaction> {
    let count = count.min(choices.len());
    (0..count).map(|i| choices.swap_remove(draw.with(i as u64).below(choices.len()))).collect()
}

/// Returns the summary that a group's prompt receives from its parent.
fn past_summary(groups: &[Group], parent: Parent) -> &str {
    reasoning::summary_leniently(&groups[parent.group].samples[parent.sample].text)
}

fn sampling(config: &RolloutConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        ..Sampling::all(config.max_new_tokens)
    }
}
