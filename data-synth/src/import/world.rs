//! The users of the built-in world. The quickstart takes its users from here too.

use chat::History;
use configs::synth::{WorldImport, WorldPopulation};

use super::rows::{READY, UNUSED_BY_PAIRS};
use super::{Collector, Format, ImportError, Source};
use crate::world::{LifeSpan, Population, Subject, WorldParams, users};

/// The format `world`.
pub const FORMAT: Format = Format {
    name: "world",
    about: "users of the built-in world, generated from the seed; reads no file",
    defaults: READY,
    unused: UNUSED_BY_PAIRS,
    read,
};

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    source.plan(&[], collector)?;
    subjects(&source.options.world, source.options.seed).iter().try_for_each(|s| collector.history(history(s)))
}

/// Samples the users that `config` describes, in the world of `seed`.
pub fn subjects(config: &WorldImport, seed: u64) -> Vec<Subject> {
    let population = match config.population {
        WorldPopulation::Synthesis => Population::Synthesis,
        WorldPopulation::Reinforcement => Population::Reinforcement,
        WorldPopulation::HeldOut => Population::HeldOut,
    };
    let span = LifeSpan {
        least_interactions: config.least_interactions,
        most_interactions: config.most_interactions,
        targets: config.targets,
        transfer_targets: config.transfer_targets,
    };
    users(&WorldParams { seed, ..WorldParams::default() }, population, config.users, &span)
}

/// Returns the history of a user with the later choices, which no stage reads.
pub fn history(subject: &Subject) -> History {
    History { targets: subject.targets.clone(), ..subject.history() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chat::jsonl;
    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::import;

    #[test]
    fn the_users_are_those_of_the_world() {
        let (least_interactions, most_interactions) = (3, 5);
        let mut life = WorldImport {
            users: 12,
            least_interactions,
            most_interactions,
            targets: 2,
            transfer_targets: 1,
            ..WorldImport::default()
        };
        let place = tempfile::tempdir().unwrap();
        let imported = |life: &WorldImport, seed: u64| -> BTreeMap<String, History> {
            let config = ImportConfig {
                format: "world".into(),
                world: life.clone(),
                test_share: 0.5,
                ..ImportConfig::default()
            };
            let card = import(&config, seed, place.path(), &mut |_, _| false).unwrap();
            let rows = |file: &str| jsonl::read::<History>(&place.path().join(file)).unwrap();
            let (train, test) = (rows("train.jsonl"), rows("test.jsonl"));
            assert_eq!((card.users.train, card.users.test), (train.len() as u64, test.len() as u64));
            train.into_iter().chain(test).map(|row| (row.uid.clone(), row)).collect()
        };
        let world = WorldParams { seed: 7, ..WorldParams::default() };
        let span = LifeSpan { least_interactions, most_interactions, targets: 2, transfer_targets: 1 };
        for (asked, population) in [
            (WorldPopulation::Synthesis, Population::Synthesis),
            (WorldPopulation::Reinforcement, Population::Reinforcement),
            (WorldPopulation::HeldOut, Population::HeldOut),
        ] {
            life.population = asked;
            let found = imported(&life, 7);
            let expected = users(&world, population, 12, &span);
            assert_eq!(found.len(), 12);
            for subject in &expected {
                let row = &found[&subject.uid];
                assert_eq!((&row.interactions, &row.targets), (&subject.history, &subject.targets));
                assert_eq!((&row.transfer, row.messages.len()), (&subject.transfer, 0));
            }
        }
        assert_ne!(imported(&life, 7), imported(&life, 8));
    }
}
