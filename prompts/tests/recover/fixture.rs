//! Rows of templates that the tests know and the program does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use chat::{Interaction, Message, PromptSet};
use prompts::recover::{self, RecoverError, Recovered};
use serde_json::{Value as Json, json};

pub const NOUNS: [&str; 20] = [
    "kettle", "lantern", "sonata", "harbor", "compass", "orchard", "violin", "tram", "glacier", "pepper", "atlas",
    "quartz", "saddle", "meadow", "puppet", "cellar", "engine", "walnut", "ribbon", "canyon",
];

const ADJECTIVES: [&str; 15] = [
    "quiet", "bold", "rusty", "amber", "brisk", "hollow", "tender", "vivid", "plain", "gentle", "narrow", "sunny",
    "crisp", "dusty", "royal",
];

/// A source of random numbers that are the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn one_of<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        texts[self.below(texts.len() as u64) as usize]
    }

    pub fn noun(&mut self) -> &'static str {
        self.one_of(&NOUNS)
    }

    fn adjective(&mut self) -> &'static str {
        self.one_of(&ADJECTIVES)
    }

    /// Returns an item; some end with a period or a number, or hold the syntax of templates.
    pub fn item(&mut self) -> String {
        let (kind, adjective, noun, other, number) =
            (self.below(4), self.adjective(), self.noun(), self.noun(), self.below(99));
        match kind {
            0 => format!("A {adjective} {noun}"),
            1 => format!("{noun} with {adjective} {other}"),
            2 => format!("{adjective} {noun} in {number} parts."),
            _ => format!("{noun}: {{{{ {other} }}}}"),
        }
    }

    fn query(&mut self) -> String {
        let (kind, adjective, noun, number) = (self.below(3), self.adjective(), self.noun(), self.below(9));
        match kind {
            0 => format!("What about a {noun}?"),
            1 => format!("Something {adjective} please"),
            _ => format!("{noun} for {number}"),
        }
    }

    pub fn past(&mut self) -> String {
        let (kind, adjective, noun, other) = (self.below(3), self.adjective(), self.noun(), self.noun());
        match kind {
            0 => format!("The user likes {adjective} things.\r\n- {noun}\n- {other}"),
            1 => format!("Prefers {noun} over {other}; avoids {adjective} ones."),
            _ => format!("Drawn to the {adjective}"),
        }
    }

    pub fn interactions(&mut self, number: u64) -> Vec<Interaction> {
        (0..number)
            .map(|_| Interaction {
                query: Some(self.query()),
                chosen: self.item(),
                rejected: Some(self.item()),
                ..Interaction::default()
            })
            .collect()
    }
}

/// Returns a set with the templates `summarize.j2` and, if given, `summarize.system.j2`.
pub fn set(user: &str, system: Option<&str>) -> PromptSet {
    let mut sources = BTreeMap::from([("summarize.j2".to_string(), user.to_string())]);
    sources.extend(system.map(|text| ("summarize.system.j2".to_string(), text.to_string())));
    PromptSet::new("unknown", &sources).unwrap()
}

/// Past summaries and interactions of users, half of them without a past summary.
pub fn users(seed: u64, number: usize) -> Vec<(Option<String>, Vec<Interaction>)> {
    let mut random = Random(seed);
    (0..number)
        .map(|user| {
            let past = (user % 2 == 1).then(|| random.past());
            let count = 1 + random.below(6);
            (past, random.interactions(count))
        })
        .collect()
}

pub fn sft_row(prompt: &[Message]) -> Json {
    json!({ "prompt": prompt, "completion": [{ "role": "assistant", "content": "<think>\nr\n</think>\n\ns" }] })
}

/// Recovers the templates of rows, with examples.
pub fn recover(rows: &[Json], examples: &[Json]) -> Result<Recovered, RecoverError> {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, rows: &[Json]| -> PathBuf {
        let path = folder.path().join(name);
        fs::write(&path, rows.iter().map(|row| format!("{row}\n")).collect::<String>()).unwrap();
        path
    };
    let mut samples = recover::read(&write("rows.jsonl", rows))?;
    if !examples.is_empty() {
        recover::read_examples(&write("examples.jsonl", examples), &mut samples)?;
    }
    recover::recover(&samples)
}

/// Compares recovered templates with the true ones on users that no row has.
pub fn assert_same(recovered: &Recovered, truth: &PromptSet, lacks_query: bool) {
    let set = PromptSet::new("recovered", &recovered.templates).unwrap();
    for (past, mut interactions) in users(77, 20) {
        if lacks_query {
            interactions.iter_mut().step_by(2).for_each(|item| item.query = None);
        }
        let expected = truth.summarize(past.as_deref(), &interactions).unwrap();
        assert_eq!(set.summarize(past.as_deref(), &interactions).unwrap(), expected, "{:#?}", recovered.templates);
    }
}
