//! The teacher of the built-in world: a program that replaces the large language model of real runs.
//!
//! It answers the prompts of the synthesis like any [`Completer`], and uses only what those prompts contain: it finds
//! the items in the text, reads their words, and counts. Its reasoning is correct and complete. Its summaries are
//! correct but terse: each supported preference is named with a fixed probability, independently of the others, and
//! occasionally one that the evidence does not support. Reinforcement learning can improve on that.

use chat::completer::CompleterError;
use chat::{Completer, Completion, CompletionRequest, FinishReason, Role, reasoning};
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::lexicon::{Value, mentions};
use crate::summary::{NamedPreferences, WORDING_COUNT};
use crate::synthesis::PREFERENCE_SEPARATOR;
use crate::tally::{Evidence, Tally};

/// How terse and how inaccurate the teacher is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TeacherConfig {
    /// The probability that a supported preference is named.
    pub name_supported: f64,
    /// The same probability for a preference that the later choice is about.
    pub name_relevant: f64,
    /// The mean probability that a preference of the candidates is named in their merge. Each merge samples its own
    /// probability from the widest uniform distribution with this mean, so that some merges are terser than others.
    pub name_merged: f64,
    /// The probability that one unsupported preference is named.
    pub name_unsupported: f64,
}

impl Default for TeacherConfig {
    fn default() -> Self {
        Self { name_supported: 0.25, name_relevant: 0.9, name_merged: 0.2, name_unsupported: 0.1 }
    }
}

/// The teacher of the built-in world.
#[derive(Clone, Debug, Default)]
pub struct Teacher {
    config: TeacherConfig,
}

impl Teacher {
    /// Creates a teacher with the given configuration.
    pub fn new(config: TeacherConfig) -> Self {
        Self { config }
    }

    /// Returns the terse summary of a tally; `relevant` values are more likely to be named. Never empty if anything is
    /// supported.
    pub fn summarize(&self, tally: &Tally, relevant: &[Value], rng: &mut ChaCha8Rng) -> String {
        let c = &self.config;
        let named_with = |value| if relevant.contains(&value) { c.name_relevant } else { c.name_supported };
        self.terse(&tally.supported(1), named_with, rng).text(rng.random_range(0..WORDING_COUNT))
    }

    /// Names each supported preference with its own probability, and sometimes one that is not supported.
    fn terse(
        &self,
        supported: &NamedPreferences,
        named_with: impl Fn(Value) -> f64,
        rng: &mut ChaCha8Rng,
    ) -> NamedPreferences {
        let mut named: Vec<(Value, i32)> =
            supported.entries().filter(|&(value, _)| rng.random_bool(named_with(value))).collect();
        if named.is_empty() {
            named.extend(supported.entries().choose(rng));
        }
        if rng.random_bool(self.config.name_unsupported) {
            let unsupported = Value::all().filter(|&v| supported.sign(v) == 0).choose(rng);
            let sign = if rng.random_bool(0.5) { 1 } else { -1 };
            named.extend(unsupported.map(|v| (v, sign)));
        }
        NamedPreferences::of_signs(named)
    }

    fn answer(&self, prompt: &str, rng: &mut ChaCha8Rng) -> Result<String, String> {
        if prompt.starts_with(MERGE) {
            let (reasoning, union) = read_candidates(prompt)?;
            let mean = self.config.name_merged;
            let completeness = rng.random_range((2.0 * mean - 1.0).max(0.0)..=(2.0 * mean).min(1.0));
            let summary = self.terse(&union, |_| completeness, rng).text(rng.random_range(0..WORDING_COUNT));
            return Ok(format!("{reasoning} {PREFERENCE_SEPARATOR} {summary}"));
        }
        let (tally, relevant) = read_choices(prompt)?;
        Ok(reasoning::join(&tally.text(), &self.summarize(&tally, &relevant, rng)))
    }
}

const MERGE: &str = "merge:";
const PAST: &str = "past:";
const LATER: &str = "later:";

/// Parses a prompt of the compact `summarize` or `teach` template: the evidence, and the values that the later choice
/// shows.
///
/// # Errors
/// Returns what the prompt lacks, if it has another format.
pub fn read_choices(prompt: &str) -> Result<(Tally, Vec<Value>), String> {
    let past = prompt.strip_prefix(PAST).ok_or("expected a prompt of the set `compact`, starting with `past:`")?;
    let (shown, later) = past.split_once(LATER).unwrap_or((past, ""));
    let mut lines = shown.lines();
    let past = NamedPreferences::read(lines.next().unwrap_or_default());
    let mut choices: Vec<(&str, &str)> = Vec::new();
    for line in lines.filter(|line| !line.trim().is_empty()) {
        if let Some((_, chosen)) = line.split_once(" + ") {
            choices.push((chosen, ""));
        } else if let (Some((_, item)), Some((_, rejected))) = (line.split_once(" - "), choices.last_mut()) {
            *rejected = item;
        } else {
            return Err(format!("no chosen or rejected item in the line `{line}`"));
        }
    }
    let choices = choices.into_iter().map(|(chosen, rejected)| Evidence::of_items(chosen, rejected)).collect();
    Ok((Tally { past, choices }, mentions(later)))
}

/// Parses a prompt of the compact `merge` template: the first candidate's reasoning (all candidates count the same
/// choices), and everything that the candidates name, with the majority's sign where they disagree.
fn read_candidates(prompt: &str) -> Result<(String, NamedPreferences), String> {
    let after = |label: &'static str| prompt.lines().filter_map(move |l| l.strip_prefix(label)).map(str::trim);
    let reasoning = after("reasoning:").next().ok_or("no candidate in the merge prompt")?;
    let mut votes = Tally::default();
    for summary in after("summary:").map(NamedPreferences::read) {
        votes.choices.push(Evidence { plus: summary.likes, minus: summary.avoids });
    }
    Ok((reasoning.to_owned(), votes.supported(1)))
}

impl Completer for Teacher {
    fn complete(&self, requests: &[CompletionRequest]) -> Result<Vec<Completion>, CompleterError> {
        let answer = |(index, request): (usize, &CompletionRequest)| {
            let refuse = |message: String| CompleterError::Request { index, message };
            let last = request.messages.last().filter(|m| m.role == Role::User);
            let prompt = last.ok_or_else(|| refuse("the teacher answers a user's turn only".into()))?;
            if request.top_logprobs > 0 {
                return Err(refuse("the teacher is a program and has no token log-probabilities".into()));
            }
            let mut rng = ChaCha8Rng::seed_from_u64(request.seed);
            let text = self.answer(prompt.content.trim(), &mut rng).map_err(refuse)?;
            Ok(Completion { text, tokens: Vec::new(), finish: FinishReason::Stop })
        };
        requests.iter().enumerate().map(answer).collect()
    }

    fn name(&self) -> &str {
        "world-teacher"
    }
}

#[cfg(test)]
mod tests {
    use chat::prompts::Candidate;
    use chat::{Interaction, Message, Sampling};

    use super::*;
    use crate::testing;

    fn ask(config: TeacherConfig, messages: Vec<Message>, seed: u64) -> Result<String, CompleterError> {
        let request = CompletionRequest { seed, ..CompletionRequest::new(messages, Sampling::greedy(64)) };
        Ok(Teacher::new(config).complete(&[request])?.remove(0).text)
    }

    fn choices() -> Vec<Interaction> {
        let choice = |chosen: &str, rejected: &str| Interaction {
            query: Some("help with taxes".into()),
            chosen: chosen.into(),
            rejected: Some(rejected.into()),
            ..Interaction::default()
        };
        vec![choice("a witty brief note", "a frank note of lengthy length"), choice("the witty note", "a solemn note")]
    }

    const TALKATIVE: TeacherConfig =
        TeacherConfig { name_supported: 1.0, name_relevant: 1.0, name_merged: 1.0, name_unsupported: 0.0 };

    #[test]
    fn reasoning_is_complete_and_read_from_the_prompt() {
        let messages = testing::compact()
            .teach(Some("They avoid data."), &choices(), Some("help with lunch"), "a kind note", "a dry note")
            .unwrap();
        let text = ask(TALKATIVE, messages, 1).unwrap();
        let parts = reasoning::split(&text).unwrap();
        assert_eq!(
            parts.reasoning,
            "for past one funny short three funny against past data two blunt long four serious \
             net serious - funny + blunt - short + long - data -"
        );
        let all = NamedPreferences::read("They like funny, short. They avoid serious, blunt, long, data.");
        assert_eq!(NamedPreferences::read(parts.summary), all);
    }

    #[test]
    fn summaries_are_terse_by_the_stated_probabilities() {
        let config = TeacherConfig { name_supported: 0.3, name_relevant: 0.8, name_merged: 0.3, name_unsupported: 0.0 };
        let messages = testing::compact().teach(None, &choices(), None, "a witty note", "a dry note").unwrap();
        let (mut relevant, mut other) = (0, 0);
        for seed in 0..1000 {
            let text = ask(config.clone(), messages.clone(), seed).unwrap();
            let summary = NamedPreferences::read(reasoning::split(&text).unwrap().summary);
            relevant += usize::from(summary.sign(Value::of_word("funny").unwrap()) == 1);
            other += usize::from(summary.sign(Value::of_word("blunt").unwrap()) == -1);
        }
        // Five standard errors of 1000 samples at 0.8 and 0.3. A value named so that the summary is not empty adds at
        // most 0.01.
        assert!((736..=874).contains(&relevant) && (228..=382).contains(&other), "{relevant} {other}");
    }

    #[test]
    fn merging_takes_the_union_and_keeps_the_reasoning() {
        let candidate = |p: &str| Candidate { reasoning: "+ funny ;".into(), preference: p.into() };
        let candidates = [
            candidate("They like funny."),
            candidate("Prefers short. Dislikes data."),
            candidate("Rejects funny, data."),
        ];
        let messages = testing::compact().merge(None, &candidates).unwrap();
        let text = ask(TALKATIVE, messages, 3).unwrap();
        let (reasoning, summary) = text.split_once(PREFERENCE_SEPARATOR).unwrap();
        assert_eq!(reasoning.trim(), "+ funny ;");
        assert_eq!(NamedPreferences::read(summary), NamedPreferences::read("They like short. They avoid data."));
    }

    #[test]
    fn merges_are_terser_and_fuller_than_one_probability_would_make_them() {
        let names = "They like science, funny, warm, short, detailed, story. They avoid health, long, data, luxury.";
        let candidates = [Candidate { reasoning: "+ funny ;".into(), preference: names.into() }];
        let messages = testing::compact().merge(None, &candidates).unwrap();
        let named = |name_merged: f64| -> Vec<f64> {
            let config = TeacherConfig { name_merged, ..TALKATIVE };
            let count = |seed| {
                let text = ask(config.clone(), messages.clone(), seed).unwrap();
                NamedPreferences::read(text.split_once(PREFERENCE_SEPARATOR).unwrap().1).entries().count() as f64
            };
            (0..1000).map(count).collect()
        };
        for (probability, half_width) in [(0.4, 0.4), (0.7, 0.3)] {
            let counts = named(probability);
            let mean = counts.iter().sum::<f64>() / 1000.0;
            let variance = counts.iter().map(|n| (n - mean) * (n - mean)).sum::<f64>() / 999.0;
            // Of ten names, the mean is 10 p and the variance 10 E[q (1 - q)] + 100 Var[q] with q uniform around p. A
            // single probability would give 10 p (1 - p) = 2.4 and 2.1. Bounds are five standard errors (of the
            // variance: at most 0.4).
            let spread = half_width * half_width / 3.0;
            let expected = 10.0 * (probability * (1.0 - probability) - spread) + 100.0 * spread;
            assert!((mean - 10.0 * probability).abs() < 5.0 * (expected / 1000.0_f64).sqrt(), "{mean}");
            assert!((variance - expected).abs() < 2.0, "{variance}, expected {expected}");
        }
        assert!(named(1.0).iter().all(|&n| n == 10.0));
    }

    #[test]
    fn foreign_prompts_are_refused_by_number() {
        let error = ask(TALKATIVE, vec![Message::user("Summarise this, please.")], 0).unwrap_err();
        assert!(error.to_string().contains("request 0") && error.to_string().contains("compact"), "{error}");
    }
}
