//! Rollout: n summaries per prompt; some are carried into the prompts of the next stage.

use chat::{Interaction, PromptSet, Question, Sampling, reasoning};
use configs::rl::rollout::PromptOverflow;
use configs::rl::{RlConfig, RolloutConfig};
use lm::LocalModel;
use lm::generate::Request;
use rewards::credit::carried;
use rewards::{Composition, Draw, Parent, Response, Reward, Verdict};

use super::curriculum_sampler::CurriculumUser;
use super::generate_on_ranks::generate_on_ranks;
use super::group::{Group, GroupInput, Sample};
use super::rewarding::{AskFn, JudgeFn, set_rewards};
use super::stages::Stage;
use crate::{ParallelContext, TrainError};

/// The inputs of a rollout besides the model.
#[derive(Clone, Copy)]
pub struct Rollouts<'a> {
    /// The policy's prompts.
    pub prompts: &'a PromptSet,
    /// The judge of responses.
    pub judging: &'a JudgeFn<'a>,
    /// The judge of questions from reward terms.
    pub asking: &'a AskFn<'a>,
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
            self.sample((model, context), &wanted, groups, (step, stage))?;
            times.rollout += begin.elapsed().as_secs_f64();
            let begin = std::time::Instant::now();
            for (group, WantedGroup { of, .. }) in groups[before..].iter_mut().zip(&wanted) {
                group.input.targets = self.targets(of, (step, stage)).into_iter().cloned().collect();
            }
            term_metrics.extend(self.judge(context, &mut groups[before..], step)?);
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

    /// Samples the groups of one stage.
    fn sample(
        &self,
        (model, context): (&LocalModel, &ParallelContext),
        wanted: &[WantedGroup<'_, '_>],
        groups: &mut Vec<Group>,
        (step, stage): (u64, usize),
    ) -> Result<(), TrainError> {
        let config = &self.config.rollout;
        let mut requests = Vec::with_capacity(wanted.len());
        for WantedGroup { user, of, parent } in wanted {
            let past = parent.map(|p| past_summary(groups, p));
            let prompt = self.prompt(model, past, of.stages[stage], &of.row.uid)?;
            let draw = Draw::new(self.config.seed).text("rollout").with(step).text(&of.row.uid).with(*user as u64);
            let (group, sample) = parent.map_or((0, 0), |p| (p.group as u64, p.sample as u64));
            let draw = draw.with(stage as u64).with(group).with(sample);
            let seeds = (0..config.num_generations_of(stage) as u64).map(|i| draw.with(i).bits()).collect();
            requests.push(Request { prompt, seeds, sampling: sampling(config), top_logprobs: 0 });
        }
        let generated = generate_on_ranks(model, context, &requests)?;
        for ((WantedGroup { user, of, parent }, request), outputs) in wanted.iter().zip(requests).zip(generated) {
            let samples = outputs.into_iter().map(|g| {
                Ok(Sample {
                    text: model.tokenizer.decode(&g.ids)?,
                    truncated: g.finish == chat::FinishReason::Length,
                    ids: g.ids,
                    rollout: g.logprobs,
                    old: Vec::new(),
                    reference: Vec::new(),
                    p_chosen: None,
                    no_answer: 0.0,
                    reward: Reward { total: 0.0, scores: Vec::new(), well_formed: false },
                })
            });
            let group = Group {
                user: *user,
                uid: of.row.uid.clone(),
                stage,
                continues: stage + 1 < config.stages,
                parent: *parent,
                prompt: request.prompt,
                samples: samples.collect::<Result<_, TrainError>>()?,
                carried: Vec::new(),
                input: GroupInput {
                    history: of.stages[stage].window.to_vec(),
                    past_summary: parent.map(|p| past_summary(groups, p).to_owned()),
                    targets: Vec::new(),
                },
            };
            groups.push(group);
        }
        Ok(())
    }

    /// Returns the prompt of one group, at most `max_prompt_tokens` long.
    ///
    /// # Errors
    /// If it does not render, or does not fit and may not be truncated.
    pub fn prompt(
        &self,
        model: &LocalModel,
        past: Option<&str>,
        stage: Stage<'_>,
        uid: &str,
    ) -> Result<Vec<u32>, TrainError> {
        let config = &self.config.rollout;
        let mut window = stage.window;
        loop {
            let mut ids = model.tokenizer.encode_chat(&self.prompts.summarize(past, window)?, None)?;
            let over = ids.len().saturating_sub(config.max_prompt_tokens);
            match config.prompt_overflow {
                _ if over == 0 => return Ok(ids),
                PromptOverflow::CutLeft => {
                    ids.drain(..over);
                    return Ok(ids);
                }
                PromptOverflow::DropOldest if window.len() > 1 => window = &window[1..],
                overflow => {
                    let others = if overflow == PromptOverflow::Error { "cut_left or drop_oldest" } else { "cut_left" };
                    return Err(TrainError::Data(format!(
                        "user {uid}: the prompt has {} tokens with {} interactions, more than \
                         rollout.max_prompt_tokens ({}); raise it, or set rollout.prompt_overflow to {others}",
                        ids.len(),
                        window.len(),
                        config.max_prompt_tokens
                    )));
                }
            }
        }
    }

    /// Returns the targets that a user's summaries of a stage are judged by: the target of the stage first.
    fn targets<'p>(&self, of: &CurriculumUser<'p>, (step, stage): (u64, usize)) -> Vec<&'p Interaction> {
        let draw = Draw::new(self.config.seed).text("further targets").with(step).text(&of.row.uid).with(stage as u64);
        let mut further: Vec<&Interaction> = of.row.targets.iter().collect();
        let count = (self.config.reward.targets_per_stage - 1).min(further.len());
        let drawn = (0..count).map(|i| further.swap_remove(draw.with(i as u64).below(further.len())));
        std::iter::once(of.stages[stage].target).chain(drawn).collect()
    }

    /// Judges the samples of one stage, and composes their rewards; the ranks divide the samples, and each makes one call.
    /// Returns the metrics of the reward terms.
    fn judge(
        &self,
        context: &ParallelContext,
        groups: &mut [Group],
        step: u64,
    ) -> Result<Vec<(String, f64)>, TrainError> {
        let mut responses: Vec<Response<'_>> = Vec::new();
        for group in &*groups {
            for Sample { text, ids, .. } in &group.samples {
                let of = |target| Response { text, tokens: ids.len(), target };
                responses.extend(group.input.targets.iter().map(of));
            }
        }
        let spread = context.spread(&responses.iter().map(|r| 1.0 + r.text.len() as f64).collect::<Vec<_>>());
        let own: Vec<Response<'_>> = spread[context.world.rank()].iter().map(|&i| responses[i]).collect();
        let verdicts = if own.is_empty() { Vec::new() } else { (self.judging)(&own)? };
        let mut found = context.all_gather_object("judgments", &spread, verdicts)?.into_iter();
        for group in groups.iter_mut() {
            for sample in &mut group.samples {
                // The format gate depends only on the text, so either all targets of a sample are judged or none.
                let told: Vec<Option<Verdict>> = found.by_ref().take(group.input.targets.len()).collect();
                let told: Option<Vec<Verdict>> = told.into_iter().collect();
                let mean = |of: fn(&Verdict) -> f64| {
                    told.as_ref().map(|told| told.iter().map(of).sum::<f64>() / told.len() as f64)
                };
                sample.p_chosen = mean(|v| v.p_chosen);
                sample.no_answer = mean(|v| f64::from(u8::from(v.malformed))).unwrap_or(0.0);
            }
        }
        set_rewards(groups, self.composition, (step, self.config), &|questions| self.ask(context, questions))
    }

    /// Asks the judge the questions of reward terms; the ranks divide them.
    fn ask(&self, context: &ParallelContext, questions: &[Question]) -> Result<Vec<Verdict>, TrainError> {
        if questions.is_empty() {
            return Ok(Vec::new());
        }
        let spread = context.spread(&questions.iter().map(|q| 1.0 + q.preference.len() as f64).collect::<Vec<_>>());
        let own: Vec<Question> = spread[context.world.rank()].iter().map(|&i| questions[i].clone()).collect();
        let own = if own.is_empty() { Vec::new() } else { (self.asking)(&own)? };
        context.all_gather_object("verdicts for reward terms", &spread, own)
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
