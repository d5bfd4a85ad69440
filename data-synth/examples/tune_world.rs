//! Measures how much summaries of different completeness help the ideal judge in the built-in world. The constants of
//! the world were chosen by these figures.
//!
//! `cargo run --release -p data-synth --example tune_world [users] [key=value …]`, where the keys are those of
//! `WorldParams`.

use std::error::Error;

use chat::{Interaction, Question};
use data_synth::ideal;
use data_synth::summary::NamedPreferences;
use data_synth::tally::{Evidence, Tally};
use data_synth::teacher::{Teacher, TeacherConfig};
use data_synth::world::{LifeSpan, Population, Subject, WorldParams, random_summaries, users};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// A function from the tally of a history, past summary included, to the text of a summary.
type Reader<'a> = &'a dyn Fn(&Tally, &mut ChaCha8Rng) -> String;

fn main() -> Result<(), Box<dyn Error>> {
    let mut count = 2000;
    let mut constants = serde_json::to_value(WorldParams::default())?;
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some((key, value)) => constants[key] = serde_json::from_str(value)?,
            None => count = argument.parse()?,
        }
    }
    let world: WorldParams = serde_json::from_value(constants)?;
    let subjects = users(&world, Population::HeldOut, count, &LifeSpan::default());
    let teacher = Teacher::new(TeacherConfig::default());
    let complete = |least: i32| move |tally: &Tally, _: &mut ChaCha8Rng| tally.supported(least).text(0);
    let terse = |tally: &Tally, rng: &mut ChaCha8Rng| teacher.summarize(tally, &[], rng);

    println!("{:22} {:>9} {:>9} {:>8}", "summary", "in domain", "transfer", "entries");
    report("none", &subjects, &vec![String::new(); count]);
    report("random user", &subjects, &random_summaries(&subjects));
    let oracles: Vec<String> = subjects.iter().map(|s| s.oracle.clone()).collect();
    let readers: [(&str, Reader<'_>); 3] =
        [("terse", &terse), ("complete", &complete(1)), ("complete, 2 or more", &complete(2))];
    for (name, reader) in readers {
        for (setting, stages) in [("full", 1), ("streaming", 2)] {
            let summaries: Vec<String> = subjects.iter().enumerate().map(|(i, s)| read(s, i, stages, reader)).collect();
            report(&format!("{name}, {setting}"), &subjects, &summaries);
        }
    }
    report("oracle", &subjects, &oracles);
    Ok(())
}

/// Reads a history in `stages` parts, each with the summary of the parts before it.
fn read(subject: &Subject, number: usize, stages: usize, reader: Reader<'_>) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(number as u64);
    let part = subject.history.len().div_ceil(stages);
    subject.history.chunks(part).fold(String::new(), |past, seen| {
        let evidence = |i: &Interaction| Evidence::of_items(&i.chosen, i.rejected.as_deref().unwrap_or_default());
        let tally = Tally { past: NamedPreferences::read(&past), choices: seen.iter().map(evidence).collect() };
        reader(&tally, &mut rng)
    })
}

fn report(name: &str, subjects: &[Subject], summaries: &[String]) {
    let accuracy = |targets: fn(&Subject) -> &[Interaction]| {
        let verdicts: Vec<f64> = subjects
            .iter()
            .zip(summaries)
            .flat_map(|(s, summary)| targets(s).iter().map(move |t| (t, summary)))
            .map(|(target, summary)| {
                ideal::accuracy(&Question {
                    query: None,
                    preference: summary.clone(),
                    chosen: target.chosen.clone(),
                    rejected: target.rejected.clone().unwrap_or_default(),
                })
            })
            .collect();
        100.0 * verdicts.iter().sum::<f64>() / verdicts.len() as f64
    };
    let entries: usize = summaries.iter().map(|s| NamedPreferences::read(s).entries().count()).sum();
    println!(
        "{name:22} {:>9.1} {:>9.1} {:>8.1}",
        accuracy(|s| &s.targets),
        accuracy(|s| &s.transfer),
        entries as f64 / summaries.len() as f64
    );
}
