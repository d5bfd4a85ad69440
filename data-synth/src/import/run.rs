//! The whole import: from files to histories and a data card.

use std::fs;
use std::io;
use std::path::Path;

use configs::synth::ImportConfig;
use rayon::iter::{IntoParallelIterator, ParallelIterator};

use crate::import::card::{DataCard, InputFile};
use crate::import::collector::{Collector, Finished};
use crate::import::error::ImportError;
use crate::import::output::Output;
use crate::import::{Format, Options, Source, check};

/// Imports the files of a configuration: reads them, groups their choices by user, draws rejected items, splits the users, and writes
/// `train.jsonl`, `test.jsonl` (rows of [`chat::History`], in the order of the users' first appearance) and `card.json` into
/// `folder`. `progress` receives the bytes read so far and all bytes, and returns whether the import shall end.
///
/// # Errors
/// [`ImportError`] for an unknown format, a key that the format does not use, a file that is missing, the first malformed row (unless
/// they are skipped), a key without an effect, files without a user to keep, a folder that cannot be written, and an end that
/// `progress` asked for. The files in `folder` then stay as they were. Only if they cannot be replaced, after all rows are written,
/// may they be those of different imports; `card.json` is missing then.
pub fn import(
    config: &ImportConfig,
    seed: u64,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64) -> bool,
) -> Result<DataCard, ImportError> {
    let format = check(config)?;
    let options = Options::new(config, format, seed);
    let [train, test, path] = ["train.jsonl", "test.jsonl", "card.json"].map(|name| folder.join(name));
    let mut outcome = None;
    let written = files::replace(&train, |train| {
        files::replace(&test, |test| {
            let output = Output::new(folder, train, test);
            let read = read(format, config, &options, Collector::new(&options, output, progress));
            let card = read.and_then(|finished| card(&options, finished));
            let complete = card.is_ok();
            outcome = Some(card);
            // Two files with a card between them belong to the same import.
            if complete { remove(&path) } else { Err(io::Error::other("the import failed")) }
        })
    });
    let card = match (outcome, written) {
        (Some(Err(error)), _) => return Err(error),
        (_, Err(source)) => return Err(ImportError::unwritten(folder, source)),
        (Some(Ok(card)), Ok(())) => card,
        (None, Ok(())) => return Err(ImportError::unwritten(folder, io::Error::other("nothing was written"))),
    };
    files::replace(&path, |out| {
        serde_json::to_writer_pretty(&mut *out, &card)?;
        out.write_all(b"\n")
    })
    .map_err(|source| ImportError::unwritten(&path, source))?;
    Ok(card)
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn read(
    format: &Format,
    config: &ImportConfig,
    options: &Options,
    mut collector: Collector<'_>,
) -> Result<Finished, ImportError> {
    (format.read)(&Source { paths: &config.input, options }, &mut collector)?;
    collector.check_used(config)?;
    collector.finish()
}

fn card(options: &Options, finished: Finished) -> Result<DataCard, ImportError> {
    let inputs = finished.files.into_par_iter().map(|path| hashed(&path)).collect::<Result<Vec<_>, _>>()?;
    let mut card = DataCard {
        format: options.format.into(),
        seed: options.seed,
        inputs,
        // Strings, numbers and lists of them are always JSON.
        options: serde_json::to_value(options).unwrap_or_default(),
        items: finished.items,
        dropped: finished.ledger.dropped.into_iter().map(|(reason, count)| (reason.to_owned(), count)).collect(),
        bad_rows: finished.ledger.bad_rows,
        bad_row_examples: finished.ledger.examples,
        ..DataCard::default()
    };
    finished.tally.fill(&mut card);
    Ok(card)
}

fn hashed(path: &Path) -> Result<InputFile, ImportError> {
    let (bytes, sha256) = files::sha256(path).map_err(|source| ImportError::unread(path, source))?;
    Ok(InputFile { path: path.into(), bytes, sha256 })
}

#[cfg(test)]
mod tests {
    use configs::synth::WorldImport;

    use super::*;

    #[test]
    fn an_import_that_shall_end_leaves_the_files_as_they_were() {
        let place = tempfile::tempdir().unwrap();
        let world = WorldImport { users: 3, ..WorldImport::default() };
        let config = ImportConfig { format: "world".into(), world, ..ImportConfig::default() };
        import(&config, 1, place.path(), &mut |_, _| false).unwrap();
        let read =
            || ["train.jsonl", "test.jsonl", "card.json"].map(|name| std::fs::read(place.path().join(name)).unwrap());
        let before = read();
        let ended = import(&config, 2, place.path(), &mut |_, _| true).unwrap_err();
        assert!(matches!(ended, ImportError::Interrupted), "{ended}");
        assert_eq!(read(), before);
        import(&config, 2, place.path(), &mut |_, _| false).unwrap();
        assert_ne!(read(), before);
    }

    #[test]
    fn files_that_cannot_be_replaced_have_no_card() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let world = WorldImport { users: 3, ..WorldImport::default() };
        let config = ImportConfig { format: "world".into(), world, ..ImportConfig::default() };
        import(&config, 1, place.path(), &mut |_, _| false).unwrap();
        std::fs::remove_file(at("train.jsonl")).unwrap();
        std::fs::create_dir_all(at("train.jsonl")).unwrap();
        let error = import(&config, 2, place.path(), &mut |_, _| false).unwrap_err().to_string();
        assert!(error.contains("cannot write "), "{error}");
        assert!(at("test.jsonl").is_file() && !at("card.json").exists());
    }

    #[test]
    fn a_file_that_the_format_does_not_read_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        std::fs::write(at("movies.csv"), "movieId,title,genres\n1,A,x\n2,B,x\n").unwrap();
        for name in ["ratings.csv", "rating_2.csv"] {
            std::fs::write(at(name), "userId,movieId,rating,timestamp\n1,1,5,5\n").unwrap();
        }
        let import = |names: &[&str]| {
            let input = names.iter().map(|&name| at(name)).collect();
            let config =
                ImportConfig { format: "movielens".into(), min_history: Some(1), input, ..ImportConfig::default() };
            import(&config, 1, &at("out"), &mut |_, _| false)
        };
        assert_eq!(import(&["movies.csv", "ratings.csv"]).unwrap().inputs.len(), 2);
        let error = import(&["movies.csv", "ratings.csv", "rating_2.csv"]).unwrap_err().to_string();
        assert!(
            error.contains("rating_2.csv: expected a name of the files that format \"movielens\" reads"),
            "{error}"
        );
        // In a folder, other files may be beside those of the format.
        assert_eq!(import(&["."]).unwrap().inputs.len(), 2);
    }
}
