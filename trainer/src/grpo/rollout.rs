//! Rollout: n summaries per prompt; some are carried into the prompts of the next stage.

use chat::{Interaction, PromptSet, Question, Sampling, reasoning};
use configs::rl::rollout::{Carry, PromptOverflow};
use configs::rl::{RlConfig, RolloutConfig};
use lm::LocalModel;
use lm::generate::{Generated, Request};
use rewards::credit::carried;
use rewards::{Carried, Composition, Draw, JudgeRequest, Parent, Response, Reward, RewardResponse, Verdict};
use serde::{Deserialize, Serialize};

use super::curriculum_sampler::User;
use super::stages::Stage;
use crate::{ParallelContext, TrainError};

/// A sampled summary and its reward.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Generated tokens, including the end of the turn.
    #[serde(skip)]
    pub ids: Vec<u32>,
    /// Log-probability of each token when it was sampled (logits over temperature), nats.
    #[serde(skip)]
    pub rollout: Vec<f32>,
    /// Log-probabilities by the training code before the first update of the step; empty if not needed.
    #[serde(skip)]
    pub old: Vec<f32>,
    /// Log-probabilities under the frozen reference; empty without one.
    #[serde(skip)]
    pub reference: Vec<f32>,
    /// Decoded text of the tokens.
    pub text: String,
    /// Whether generation stopped at the length limit.
    pub truncated: bool,
    /// Probability that the judge picks the user's choice, the mean over the targets; `None` if the summary failed the format
    /// gate.
    pub p_chosen: Option<f64>,
    /// The reward of the sample itself, without credit.
    pub reward: Reward,
}

impl Sample {
    /// Returns whether the judge found the user's choice more likely.
    pub fn right(&self) -> bool {
        self.p_chosen.is_some_and(|p| p > 0.5)
    }
}

/// A group: the samples of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Index of the user in the step.
    pub user: usize,
    /// The user's uid.
    pub uid: String,
    /// Stage, from 0.
    pub stage: usize,
    /// Whether another stage follows.
    pub continues: bool,
    /// The sample whose summary is the past summary in the prompt.
    pub parent: Option<Parent>,
    /// Prompt tokens.
    #[serde(skip)]
    pub prompt: Vec<u32>,
    /// The samples of the group.
    pub samples: Vec<Sample>,
    /// Indices of the samples that became past summaries of the next stage.
    pub carried: Vec<usize>,
    /// The contents of the prompt, and the targets of the summaries.
    pub input: GroupInput,
}

/// The contents of a group's prompt and the targets of its summaries, for reward terms.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupInput {
    /// Interactions in the prompt, oldest first.
    pub history: Vec<Interaction>,
    /// Past summary in the prompt.
    pub past_summary: Option<String>,
    /// Later choices that the judge predicts from the summaries; the target of the stage first.
    pub targets: Vec<Interaction>,
}

/// Returns, for each response, the probability that the judge picks the user's choice given its summary; `None` for a response
/// that fails the format gate. The `usize` is the maximum number of tokens in a response.
pub type Judging<'a> = dyn Fn(&[Response<'_>], usize) -> Result<Vec<Option<f64>>, TrainError> + 'a;

/// Asks the run's judge; returns one verdict per question, in order.
pub type Asking<'a> = dyn Fn(&[Question]) -> Result<Vec<Verdict>, TrainError> + 'a;

/// The inputs of a rollout besides the model.
#[derive(Clone, Copy)]
pub struct Rollouts<'a> {
    /// The policy's prompts.
    pub prompts: &'a PromptSet,
    /// The judge of responses.
    pub judging: &'a Judging<'a>,
    /// The judge of questions from reward terms.
    pub asking: &'a Asking<'a>,
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
struct Wanted<'p, 'a> {
    user: usize,
    of: &'p User<'a>,
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
        users: &[User<'_>],
        (step, first): (u64, usize),
    ) -> Result<RolloutOutput, TrainError> {
        let mut output = RolloutOutput::default();
        let RolloutOutput { groups, times, term_metrics } = &mut output;
        let mut wanted: Vec<Wanted<'_, '_>> =
            users.iter().enumerate().map(|(i, of)| Wanted { user: first + i, of, parent: None }).collect();
        for stage in 0..self.config.rollout.stages {
            let begin = std::time::Instant::now();
            let before = groups.len();
            self.sample((model, context), &wanted, groups, (step, stage))?;
            times.rollout += begin.elapsed().as_secs_f64();
            let begin = std::time::Instant::now();
            for (group, Wanted { of, .. }) in groups[before..].iter_mut().zip(&wanted) {
                group.input.targets = self.targets(of, (step, stage)).into_iter().cloned().collect();
            }
            term_metrics.extend(self.judge(context, &mut groups[before..], step)?);
            times.judge += begin.elapsed().as_secs_f64();
            if stage + 1 == self.config.rollout.stages {
                break;
            }
            let of_stage: Vec<&User<'_>> = wanted.iter().map(|w| w.of).collect();
            wanted = Vec::new();
            for (index, group) in groups.iter_mut().enumerate().skip(before) {
                group.carried = self.carry(group, step);
                wanted.extend(group.carried.iter().map(|&sample| Wanted {
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
        wanted: &[Wanted<'_, '_>],
        groups: &mut Vec<Group>,
        (step, stage): (u64, usize),
    ) -> Result<(), TrainError> {
        let config = &self.config.rollout;
        let mut requests = Vec::with_capacity(wanted.len());
        for Wanted { user, of, parent } in wanted {
            let past = parent.map(|p| past_summary(groups, p));
            let prompt = self.prompt(model, past, of.stages[stage], &of.row.uid)?;
            let draw = Draw::new(self.config.seed).text("rollout").with(step).text(&of.row.uid).with(*user as u64);
            let (group, sample) = parent.map_or((0, 0), |p| (p.group as u64, p.sample as u64));
            let draw = draw.with(stage as u64).with(group).with(sample);
            let seeds = (0..config.num_generations_of(stage) as u64).map(|i| draw.with(i).bits()).collect();
            requests.push(Request { prompt, seeds, sampling: sampling(config), top_logprobs: 0 });
        }
        let generated = generated(model, context, &requests)?;
        for ((Wanted { user, of, parent }, request), outputs) in wanted.iter().zip(requests).zip(generated) {
            let samples = outputs.into_iter().map(|g| {
                Ok(Sample {
                    text: model.tokenizer.decode(&g.ids)?,
                    truncated: g.finish == chat::FinishReason::Length,
                    ids: g.ids,
                    rollout: g.logprobs,
                    old: Vec::new(),
                    reference: Vec::new(),
                    p_chosen: None,
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
                PromptOverflow::DropOldest | PromptOverflow::Error => {
                    return Err(TrainError::Data(format!(
                        "user {uid}: the prompt has {} tokens with {} interactions, more than \
                         rollout.max_prompt_tokens ({}); raise it, or let rollout.prompt_overflow cut",
                        ids.len(),
                        window.len(),
                        config.max_prompt_tokens
                    )));
                }
            }
        }
    }

    /// Returns the targets that a user's summaries of a stage are judged by: the target of the stage first.
    fn targets<'p>(&self, of: &User<'p>, (step, stage): (u64, usize)) -> Vec<&'p Interaction> {
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
        let token_limit = self.config.rollout.max_new_tokens;
        let mut responses: Vec<Response<'_>> = Vec::new();
        for group in &*groups {
            for Sample { text, ids, .. } in &group.samples {
                let of = |target| Response { text, tokens: ids.len(), target };
                responses.extend(group.input.targets.iter().map(of));
            }
        }
        let spread = context.spread(&responses.iter().map(|r| 1.0 + r.text.len() as f64).collect::<Vec<_>>());
        let own: Vec<Response<'_>> = spread[context.world.rank()].iter().map(|&i| responses[i]).collect();
        let verdicts = if own.is_empty() { Vec::new() } else { (self.judging)(&own, token_limit)? };
        let mut found = context.all_gather_object("judgements", &spread, verdicts)?.into_iter();
        for group in groups.iter_mut() {
            for sample in &mut group.samples {
                // The format gate depends only on the text, so either all targets of a sample are judged or none.
                let told: Vec<Option<f64>> = found.by_ref().take(group.input.targets.len()).collect();
                let sum: Option<f64> = told.iter().copied().sum();
                sample.p_chosen = sum.map(|sum| sum / told.len() as f64);
            }
        }
        rewarded(groups, self.composition, (step, token_limit), &|questions| self.ask(context, questions))
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
        let rule = match config.carry {
            Carry::Random => Carried::Random,
            Carry::Best => Carried::Best,
            Carry::Each => Carried::Each,
        };
        let totals: Vec<f64> = group.samples.iter().map(|s| s.reward.total).collect();
        let well_formed: Vec<bool> = group.samples.iter().map(|s| s.reward.well_formed).collect();
        let draw = Draw::new(self.config.seed).text("picked row").with(step).text(&group.uid);
        let draw = draw.with(group.user as u64).with(group.stage as u64);
        carried(rule, config.carry_malformed, &totals, &well_formed, draw)
    }
}

/// Generates the samples of all requests; the ranks divide them. With fewer requests than ranks, the samples of a request are
/// split over several ranks.
fn generated(
    model: &LocalModel,
    context: &ParallelContext,
    requests: &[Request],
) -> Result<Vec<Vec<Generated>>, TrainError> {
    if context.world.size() == 1 {
        return Ok(model.generator().generate(requests, None)?);
    }
    let pieces = if requests.is_empty() { 1 } else { context.world.size().div_ceil(requests.len()) };
    let mut parts: Vec<(usize, Request)> = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let n = request.seeds.len();
        let borders = (0..pieces.min(n)).map(|p| n * p / pieces.min(n)..n * (p + 1) / pieces.min(n));
        parts.extend(borders.map(|range| (i, Request { seeds: request.seeds[range].to_vec(), ..request.clone() })));
    }
    let cost = |(_, r): &(usize, Request)| (r.prompt.len() + r.seeds.len() * r.sampling.max_tokens) as f64;
    let spread = context.spread(&parts.iter().map(cost).collect::<Vec<_>>());
    let own: Vec<Request> = spread[context.world.rank()].iter().map(|&i| parts[i].1.clone()).collect();
    let told = model.generator().generate(&own, None)?;
    let told =
        told.into_iter().map(|outputs| outputs.into_iter().map(GatheredSample::from).collect::<Vec<_>>()).collect();
    let mut all: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
    for ((request, _), outputs) in parts.iter().zip(context.all_gather_object("rollouts", &spread, told)?) {
        all[*request].extend(outputs.into_iter().map(Generated::from));
    }
    Ok(all)
}

/// A sample as ranks exchange it.
#[derive(Serialize, Deserialize)]
struct GatheredSample {
    ids: Vec<u32>,
    logprobs: Vec<f32>,
    truncated: bool,
}

impl From<Generated> for GatheredSample {
    fn from(g: Generated) -> Self {
        let truncated = g.finish == chat::FinishReason::Length;
        Self { ids: g.ids, logprobs: g.logprobs, truncated }
    }
}

impl From<GatheredSample> for Generated {
    fn from(sample: GatheredSample) -> Self {
        let finish = if sample.truncated { chat::FinishReason::Length } else { chat::FinishReason::Stop };
        Self { ids: sample.ids, logprobs: sample.logprobs, finish, top: Vec::new() }
    }
}

/// Computes the reward of each sample, without credit. `ask` answers the questions of reward terms. Returns the metrics of the
/// terms.
///
/// # Errors
/// Those of the reward terms and of `ask`.
pub fn rewarded(
    groups: &mut [Group],
    composition: &Composition,
    (step, token_limit): (u64, usize),
    ask: &Asking<'_>,
) -> Result<Vec<(String, f64)>, TrainError> {
    fn of_group(index: usize, group: &Group, token_limit: usize) -> impl Iterator<Item = RewardResponse<'_>> {
        group.samples.iter().map(move |s| RewardResponse {
            text: &s.text,
            tokens: s.ids.len(),
            token_limit,
            stage: group.stage,
            group: index,
            uid: &group.uid,
            history: &group.input.history,
            past_summary: group.input.past_summary.as_deref(),
            targets: &group.input.targets,
            p_chosen: s.p_chosen,
        })
    }
    let responses: Vec<RewardResponse<'_>> =
        groups.iter().enumerate().flat_map(|(index, group)| of_group(index, group, token_limit)).collect();
    let requests = composition.judgements(step, &responses)?;
    let questions: Vec<Question> =
        requests.iter().flatten().map(|JudgeRequest { question, .. }| question.clone()).collect();
    let mut verdicts = ask(&questions)?.into_iter();
    let verdicts: Vec<Vec<Verdict>> = requests.iter().map(|of| verdicts.by_ref().take(of.len()).collect()).collect();
    let scored = composition.score(step, &responses, &verdicts)?;
    let mut rewards = scored.rewards.into_iter();
    for sample in groups.iter_mut().flat_map(|g| &mut g.samples) {
        sample.reward = rewards.next().expect("one reward a sample");
    }
    Ok(scored.metrics)
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
