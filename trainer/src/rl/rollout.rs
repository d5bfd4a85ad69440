//! Rolling out: n summaries a prompt; some of them carried into the prompts of the next stage.

use chat::{Interaction, PromptSet, Sampling, reasoning};
use configs::rl::rollout::{Carry, PromptOverflow};
use configs::rl::{RlConfig, RolloutConfig};
use lm::LocalModel;
use lm::generate::{Generated, Request};
use rewards::credit::carried;
use rewards::{Carried, Composition, Draw, Judged, Parent, Response, Reward};
use serde::{Deserialize, Serialize};

use super::people::Person;
use super::stages::Stage;
use crate::{Team, TrainError};

/// One sampled summary, and what became of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// New tokens, end of turn included.
    #[serde(skip)]
    pub ids: Vec<u32>,
    /// Log-probability of each when it was sampled (logits over temperature), nats.
    #[serde(skip)]
    pub rollout: Vec<f32>,
    /// The same by the training code before the step's first update; empty where nothing needs it.
    #[serde(skip)]
    pub old: Vec<f32>,
    /// The same under the frozen reference; empty where there is none.
    #[serde(skip)]
    pub reference: Vec<f32>,
    /// Their text.
    pub text: String,
    /// Whether the length limit cut it.
    pub truncated: bool,
    /// Probability that the judge picks the person's choice, the mean over the choices it was asked about; `None` if the
    /// format gate kept it from the judge.
    pub p_chosen: Option<f64>,
    /// Its own reward.
    pub reward: Reward,
}

impl Sample {
    /// Whether the judge found the person's choice the likelier one.
    pub fn right(&self) -> bool {
        self.p_chosen.is_some_and(|p| p > 0.5)
    }
}

/// A group: the samples of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Index of the person in the step.
    pub person: usize,
    /// Their name.
    pub uid: String,
    /// Stage, from 0.
    pub stage: usize,
    /// Whether a stage follows.
    pub continues: bool,
    /// The sample whose summary the prompt gives as past summary.
    pub parent: Option<Parent>,
    /// Prompt tokens.
    #[serde(skip)]
    pub prompt: Vec<u32>,
    /// The samples.
    pub samples: Vec<Sample>,
    /// Which of them became past summaries of the next stage.
    pub carried: Vec<usize>,
}

/// Says of each response how likely the judge is to pick the person's choice with its summary; `None` for a response that
/// fails the format gate. The number is the most tokens a response may have.
pub type Judging<'a> = dyn Fn(&[Response<'_>], usize) -> Result<Vec<Option<f64>>, TrainError> + 'a;

/// What a rollout needs beside the model.
#[derive(Clone, Copy)]
pub struct Rollouts<'a> {
    /// The policy's prompts.
    pub prompts: &'a PromptSet,
    /// The judge.
    pub judging: &'a Judging<'a>,
    /// The reward.
    pub composition: &'a Composition,
    /// Everything else.
    pub config: &'a RlConfig,
}

/// Where the time of a rollout went, seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// Prompts and sampling.
    pub rollout: f64,
    /// Judging.
    pub judge: f64,
}

/// A group that is to be sampled: its person, its parent, and what it reads.
struct Wanted<'p, 'a> {
    person: usize,
    of: &'p Person<'a>,
    parent: Option<Parent>,
}

impl Rollouts<'_> {
    /// Rolls out, each rank of `team` some of it, all stages for `people`, whose indices in the step begin at `first`; groups come ordered by stage, parents
    /// before their children, indices of parents as in the result.
    ///
    /// # Errors
    /// If a prompt does not render or fit, generation fails or the judge does.
    pub fn roll_out(
        &self,
        (model, team): (&LocalModel, &Team),
        people: &[Person<'_>],
        (step, first): (u64, usize),
        spent: &mut Spent,
    ) -> Result<Vec<Group>, TrainError> {
        let mut groups: Vec<Group> = Vec::new();
        let mut wanted: Vec<Wanted<'_, '_>> =
            people.iter().enumerate().map(|(i, of)| Wanted { person: first + i, of, parent: None }).collect();
        for stage in 0..self.config.rollout.stages {
            let begin = std::time::Instant::now();
            let before = groups.len();
            self.sample((model, team), &wanted, &mut groups, (step, stage))?;
            spent.rollout += begin.elapsed().as_secs_f64();
            let begin = std::time::Instant::now();
            let targets: Vec<Vec<&Interaction>> = wanted.iter().map(|w| self.targets(w.of, (step, stage))).collect();
            self.judge(team, &mut groups[before..], &targets)?;
            spent.judge += begin.elapsed().as_secs_f64();
            if stage + 1 == self.config.rollout.stages {
                break;
            }
            let of_stage: Vec<&Person<'_>> = wanted.iter().map(|w| w.of).collect();
            wanted = Vec::new();
            for (index, group) in groups.iter_mut().enumerate().skip(before) {
                group.carried = self.carry(group, step);
                wanted.extend(group.carried.iter().map(|&sample| Wanted {
                    person: group.person,
                    of: of_stage[index - before],
                    parent: Some(Parent { group: index, sample }),
                }));
            }
        }
        Ok(groups)
    }

    /// Samples one stage's groups.
    fn sample(
        &self,
        (model, team): (&LocalModel, &Team),
        wanted: &[Wanted<'_, '_>],
        groups: &mut Vec<Group>,
        (step, stage): (u64, usize),
    ) -> Result<(), TrainError> {
        let config = &self.config.rollout;
        let mut requests = Vec::with_capacity(wanted.len());
        for Wanted { person, of, parent } in wanted {
            let past = parent.map(|p| reasoning::summary_leniently(&groups[p.group].samples[p.sample].text));
            let prompt = self.prompt(model, past, of.stages[stage], &of.row.uid)?;
            let draw = Draw::new(self.config.seed).text("rollout").with(step).text(&of.row.uid).with(*person as u64);
            let (group, sample) = parent.map_or((0, 0), |p| (p.group as u64, p.sample as u64));
            let draw = draw.with(stage as u64).with(group).with(sample);
            let seeds = (0..config.samples_of(stage) as u64).map(|i| draw.with(i).bits()).collect();
            requests.push(Request { prompt, seeds, sampling: sampling(config), top_logprobs: 0 });
        }
        let generated = generated(model, team, &requests)?;
        for ((Wanted { person, of, parent }, request), outputs) in wanted.iter().zip(requests).zip(generated) {
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
            groups.push(Group {
                person: *person,
                uid: of.row.uid.clone(),
                stage,
                continues: stage + 1 < config.stages,
                parent: *parent,
                prompt: request.prompt,
                samples: samples.collect::<Result<_, TrainError>>()?,
                carried: Vec::new(),
            });
        }
        Ok(())
    }

    /// The prompt of one group, within `max_prompt_tokens`.
    ///
    /// # Errors
    /// If it does not render, or does not fit and may not be cut.
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
                        "person {uid}: the prompt has {} tokens with {} interactions, more than \
                         rollout.max_prompt_tokens ({}); raise it, or let rollout.prompt_overflow cut",
                        ids.len(),
                        window.len(),
                        config.max_prompt_tokens
                    )));
                }
            }
        }
    }

    /// The choices by which the summaries of a person's stage are judged: its own target first.
    fn targets<'p>(&self, of: &Person<'p>, (step, stage): (u64, usize)) -> Vec<&'p Interaction> {
        let draw = Draw::new(self.config.seed).text("further targets").with(step).text(&of.row.uid).with(stage as u64);
        let mut further: Vec<&Interaction> = of.row.targets.iter().collect();
        let count = (self.config.reward.targets_per_stage - 1).min(further.len());
        let drawn = (0..count).map(|i| further.swap_remove(draw.with(i as u64).below(further.len())));
        std::iter::once(of.stages[stage].target).chain(drawn).collect()
    }

    /// Judges the samples of one stage, each rank some of them in one call, and composes their rewards. `targets`: those of each
    /// group.
    fn judge(&self, team: &Team, groups: &mut [Group], targets: &[Vec<&Interaction>]) -> Result<(), TrainError> {
        let token_limit = self.config.rollout.max_new_tokens;
        let mut responses: Vec<Response<'_>> = Vec::new();
        for (group, targets) in groups.iter().zip(targets) {
            for Sample { text, ids, .. } in &group.samples {
                responses.extend(targets.iter().map(|target| Response { text, tokens: ids.len(), target }));
            }
        }
        let spread = team.spread(&responses.iter().map(|r| 1.0 + r.text.len() as f64).collect::<Vec<_>>());
        let own: Vec<Response<'_>> = spread[team.world.rank()].iter().map(|&i| responses[i]).collect();
        let told = if own.is_empty() { Vec::new() } else { (self.judging)(&own, token_limit)? };
        // As bits, because JSON knows no infinities.
        let told = told.into_iter().map(|p| p.map(f64::to_bits)).collect();
        let mut found = team.together("judgements", &spread, told)?.into_iter().map(|p| p.map(f64::from_bits));
        for (group, targets) in groups.iter_mut().zip(targets) {
            for sample in &mut group.samples {
                // The gate looks at the text alone, so that it keeps all of them from the judge or none.
                let told: Vec<Option<f64>> = found.by_ref().take(targets.len()).collect();
                let sum: Option<f64> = told.iter().copied().sum();
                sample.p_chosen = sum.map(|sum| sum / told.len() as f64);
            }
        }
        rewarded(groups, self.composition, token_limit);
        Ok(())
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
        let draw = draw.with(group.person as u64).with(group.stage as u64);
        carried(rule, config.carry_malformed, &totals, &well_formed, draw)
    }
}

/// Answers all requests, each rank some of them. Where there are fewer requests than ranks, the samples of a request are
/// split over several.
fn generated(model: &LocalModel, team: &Team, requests: &[Request]) -> Result<Vec<Vec<Generated>>, TrainError> {
    if team.world.size() == 1 {
        return Ok(model.generator().generate(requests, None)?);
    }
    let pieces = if requests.is_empty() { 1 } else { team.world.size().div_ceil(requests.len()) };
    let mut parts: Vec<(usize, Request)> = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        let n = request.seeds.len();
        let borders = (0..pieces.min(n)).map(|p| n * p / pieces.min(n)..n * (p + 1) / pieces.min(n));
        parts.extend(borders.map(|range| (i, Request { seeds: request.seeds[range].to_vec(), ..request.clone() })));
    }
    let cost = |(_, r): &(usize, Request)| (r.prompt.len() + r.seeds.len() * r.sampling.max_tokens) as f64;
    let spread = team.spread(&parts.iter().map(cost).collect::<Vec<_>>());
    let own: Vec<Request> = spread[team.world.rank()].iter().map(|&i| parts[i].1.clone()).collect();
    let told = model.generator().generate(&own, None)?;
    let told = told.into_iter().map(|outputs| outputs.into_iter().map(Told::from).collect::<Vec<_>>()).collect();
    let mut all: Vec<Vec<Generated>> = requests.iter().map(|_| Vec::new()).collect();
    for ((request, _), outputs) in parts.iter().zip(team.together("rollouts", &spread, told)?) {
        all[*request].extend(outputs.into_iter().map(Generated::from));
    }
    Ok(all)
}

/// A sample, as one rank tells the others: log-probabilities as bits, because JSON knows no infinities.
#[derive(Serialize, Deserialize)]
struct Told {
    ids: Vec<u32>,
    logprobs: Vec<u32>,
    cut: bool,
}

impl From<Generated> for Told {
    fn from(g: Generated) -> Self {
        let logprobs = g.logprobs.iter().map(|x| x.to_bits()).collect();
        Self { ids: g.ids, logprobs, cut: g.finish == chat::FinishReason::Length }
    }
}

impl From<Told> for Generated {
    fn from(told: Told) -> Self {
        let finish = if told.cut { chat::FinishReason::Length } else { chat::FinishReason::Stop };
        let logprobs = told.logprobs.into_iter().map(f32::from_bits).collect();
        Self { ids: told.ids, logprobs, finish, top: Vec::new() }
    }
}

/// Works out each sample's own reward from what the judge said.
pub fn rewarded(groups: &mut [Group], composition: &Composition, token_limit: usize) {
    let samples = || groups.iter().flat_map(|g| &g.samples);
    let judged: Vec<Judged<'_>> =
        samples().map(|s| Judged { text: &s.text, tokens: s.ids.len(), token_limit, p_chosen: s.p_chosen }).collect();
    let mut rewards = composition.score(&judged).into_iter();
    for sample in groups.iter_mut().flat_map(|g| &mut g.samples) {
        sample.reward = rewards.next().expect("one reward a sample");
    }
}

fn sampling(config: &RolloutConfig) -> Sampling {
    Sampling {
        temperature: config.temperature,
        top_k: config.top_k,
        top_p: config.top_p,
        ..Sampling::all(config.max_new_tokens)
    }
}
