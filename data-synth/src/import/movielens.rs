//! MovieLens: movies and ratings, as CSV (`ratings.csv`, `movies.csv`) or with `::` between fields (`ratings.dat`, `movies.dat`).
//!
//! As published, every rating is a choice, whatever its value.

use std::path::{Path, PathBuf};

use configs::synth::{Duplicates, ImportOrder, NegativePolicy};

use crate::import::collector::{Choice, Collector};
use crate::import::delimited::{self, Record, Records};
use crate::import::error::{BadRow, ImportError, number, rating as stars};
use crate::import::items::ItemTable;
use crate::import::lines::{self, Lines};
use crate::import::{Format, FormatDefaults, Source, folder};

/// The format `movielens`.
pub(super) const FORMAT: Format = Format {
    name: "movielens",
    about: "MovieLens: a folder with ratings.csv and movies.csv, or ratings.dat and movies.dat",
    defaults: FormatDefaults {
        min_history: 17,
        order: ImportOrder::Time,
        duplicates: Duplicates::Keep,
        negatives: NegativePolicy::GlobalUnseen,
        replacement: true,
    },
    unused: &["message_users"],
    read,
};

const EXPECTED: &str = "ratings.csv and movies.csv, or ratings.dat and movies.dat, in a folder or as files";
const DOMAIN: &str = "movies";
const UNKNOWN: &str = "ratings of movies without metadata";
const MOVIE: [&str; 3] = ["movieId", "title", "genres"];
const RATING: [&str; 4] = ["userId", "movieId", "rating", "timestamp"];

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let files = |begin| folder::required(source.paths, begin, &["csv", "dat"], EXPECTED);
    let (movies, ratings) = (files("movies")?, files("ratings")?);
    source.plan(&[movies.as_slice(), ratings.as_slice()].concat(), collector)?;
    for path in movies {
        rows(&path, MOVIE, collector, |collector, path, line, fields| movie(path, line, fields, &mut collector.items))?;
    }
    for path in ratings {
        rows(&path, RATING, collector, |collector, path, line, fields| rating(path, line, fields, collector))?;
    }
    Ok(())
}

/// Calls `row` with the line and the fields of each row, in the order of `names`.
fn rows<const N: usize>(
    path: &Path,
    names: [&str; N],
    collector: &mut Collector<'_>,
    mut row: impl FnMut(&mut Collector<'_>, &Path, u64, [&str; N]) -> Result<(), ImportError>,
) -> Result<(), ImportError> {
    if folder::name_of(path).1 == "dat" {
        // The files of 1M are in Latin-1, those of 10M in UTF-8.
        return lines::for_each(Lines::open(path)?.or_latin1(), collector, |collector, line| {
            let found: Vec<&str> = line.text.split("::").collect();
            match <[&str; N]>::try_from(found) {
                Ok(fields) => row(collector, path, line.number, fields),
                Err(found) => {
                    let message =
                        format!("has {} fields separated by `::`; expected {N}: {}", found.len(), names.join(", "));
                    Err(ImportError::BadRow(BadRow::new(path, line.number, "", message)))
                }
            }
        });
    }
    let mut columns: Option<([usize; N], usize)> = None;
    delimited::for_each(Records::new(Lines::open(path)?, b',', true), collector, |collector, path, record| {
        let Some((positions, count)) = columns else {
            columns = Some((header(path, &record, names)?, record.len()));
            return Ok(());
        };
        record.expect(count, path)?;
        let fields = positions.map(|position| record.get(position).unwrap_or_default());
        row(collector, path, record.line, fields)
    })
}

fn header<const N: usize>(path: &Path, record: &Record<'_>, names: [&str; N]) -> Result<[usize; N], ImportError> {
    record.positions(names).ok_or_else(|| {
        let expected = format!("a first line with the names {}", names.join(", "));
        ImportError::Missing { path: PathBuf::from(path), expected }
    })
}

fn movie(path: &Path, line: u64, [id, title, genres]: [&str; 3], items: &mut ItemTable) -> Result<(), ImportError> {
    if id.is_empty() {
        let message = "is empty; expected the id of a movie";
        return Err(ImportError::BadRow(BadRow::new(path, line, MOVIE[0], message)));
    }
    items.insert(id, &format!("Title: {title}, Genres: {genres}"), Some(DOMAIN));
    Ok(())
}

fn rating(
    path: &Path,
    line: u64,
    [user, movie, rating, time]: [&str; 4],
    collector: &mut Collector<'_>,
) -> Result<(), ImportError> {
    if user.is_empty() {
        let message = "is empty; expected the id of a user";
        return Err(ImportError::BadRow(BadRow::new(path, line, RATING[0], message)));
    }
    let (rating, time) = (stars(path, line, RATING[2], rating)?, number(path, line, RATING[3], time)?);
    match collector.items.get(movie) {
        Some(item) => {
            let choice = Choice { item, time: Some(time), rating: Some(rating), query: None, unclicked: &[] };
            collector.choice(user, choice)
        }
        None => {
            collector.dropped(UNKNOWN, 1);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use configs::synth::ImportConfig;

    use super::*;
    use crate::import::testing::{Imported, import_files, texts};

    const MOVIES: &str = "\u{feff}movieId,title,genres\r\n\
                          1,Toy Story (1995),Adventure|Animation\r\n\
                          11,\"American President, The (1995)\",Comedy|Drama\r\n\
                          3,\"A \"\"quoted\"\" one\",(no genres listed)\r\n\
                          4,Four,Drama\r\n";

    fn config() -> ImportConfig {
        ImportConfig { format: "movielens".into(), min_history: Some(1), test_share: 0.0, ..ImportConfig::default() }
    }

    fn of_ratings(ratings: &str, config: &ImportConfig, seed: u64) -> Result<Imported, String> {
        import_files(&[("movies.csv", MOVIES.as_bytes()), ("ratings.csv", ratings.as_bytes())], config, seed)
    }

    #[test]
    fn csv_is_read_with_a_mark_and_windows_line_ends() {
        let ratings =
            "userId,movieId,rating,timestamp\r\n1,11,1.0,30\r\n1,3,4.5,20\r\n2,1,5,1\r\n1,99,4,1\r\n1,1,0.5,20";
        let imported = of_ratings(ratings, &config(), 1).unwrap();
        // Of the same time, the order of the file.
        let expected = [
            "Title: A \"quoted\" one, Genres: (no genres listed)",
            "Title: Toy Story (1995), Genres: Adventure|Animation",
            "Title: American President, The (1995), Genres: Comedy|Drama",
        ];
        assert_eq!(texts(&imported.train[0].interactions), expected);
        // The user rated all but one, which is therefore rejected each time.
        let rejected: BTreeSet<_> = imported.train[0].interactions.iter().map(|i| i.rejected.as_deref()).collect();
        assert_eq!(rejected, BTreeSet::from([Some("Title: Four, Genres: Drama")]));
        assert_eq!(imported.card.dropped, BTreeMap::from([(UNKNOWN.to_owned(), 1)]));
        assert_eq!((imported.card.items, imported.card.users.train, imported.card.inputs.len()), (4, 2, 2));
        // The SHA-256 of the file, by sha256sum.
        let movies = &imported.card.inputs[0];
        let expected = "bd664fef11dea641d2b579d52750cc3833797c7e7ac2de7984826dc5fafd7100";
        assert_eq!((movies.bytes, movies.sha256.as_str()), (MOVIES.len() as u64, expected));
        assert!(movies.path.ends_with("movies.csv"));
    }

    #[test]
    fn dat_is_read_in_latin1() {
        let movies: &[u8] = b"1::Toy Story (1995)::Animation|Children's\n2::Am\xe9lie::Comedy\n3::Third::Drama\n";
        let ratings: &[u8] = b"1::2::5::978300760\n1::1::3::978302109\n";
        let imported = import_files(&[("movies.dat", movies), ("ratings.dat", ratings)], &config(), 1).unwrap();
        let expected = ["Title: Am\u{e9}lie, Genres: Comedy", "Title: Toy Story (1995), Genres: Animation|Children's"];
        assert_eq!(texts(&imported.train[0].interactions), expected);
        let error = import_files(&[("movies.dat", movies), ("ratings.dat", b"1::2::5\n".as_slice())], &config(), 1)
            .unwrap_err();
        assert!(
            error.contains("ratings.dat:1: has 3 fields separated by `::`; expected 4: userId, movieId"),
            "{error}"
        );
    }

    #[test]
    fn malformed_rows_are_named_or_counted() {
        let header = "userId,movieId,rating,timestamp\n";
        for (bad, words) in [
            ("1,1,good,5\n", "ratings.csv:3: field `rating` is `good`; expected a number"),
            ("1,1,4,yesterday\n", "ratings.csv:3: field `timestamp` is `yesterday`"),
            (",1,4,5\n", "ratings.csv:3: field `userId` is empty"),
            ("1,1,4", "ratings.csv:3: has 3 fields; expected 4 (the last line of the file has no line end"),
        ] {
            let ratings = format!("{header}1,4,3,9\n{bad}");
            let error = of_ratings(&ratings, &config(), 1).unwrap_err();
            assert!(error.contains(words), "{error}");
            let imported = of_ratings(&ratings, &ImportConfig { skip_bad: true, ..config() }, 1).unwrap();
            assert_eq!((imported.card.bad_rows.values().sum::<u64>(), imported.train.len()), (1, 1));
        }
        let error = of_ratings("user,movie\n1,1\n", &config(), 1).unwrap_err();
        assert!(error.contains("expected a first line with the names userId, movieId, rating, timestamp"), "{error}");
    }

    #[test]
    fn a_key_without_an_effect_is_an_error() {
        let ratings = "userId,movieId,rating,timestamp\n1,4,3,9\n";
        let config = ImportConfig { negatives: Some(NegativePolicy::InSession), ..config() };
        let error = of_ratings(ratings, &config, 1).unwrap_err();
        assert!(error.contains("import.negatives has no effect: the files have no sessions"), "{error}");
    }

    #[test]
    fn a_query_is_set_where_there_is_none() {
        let ratings = "userId,movieId,rating,timestamp\n1,4,3,9\n";
        let query =
            |config: &ImportConfig| of_ratings(ratings, config, 1).unwrap().train[0].interactions[0].query.clone();
        assert_eq!(query(&config()), None);
        assert_eq!(query(&ImportConfig { query: "A film?".into(), ..config() }).as_deref(), Some("A film?"));
    }

    /// Returns the ratings of users, each of two of the movies 1, 3 and 4.
    fn ratings_of(users: impl Iterator<Item = u32>) -> String {
        let rows = users.map(|user| {
            format!("{user},{},4,1\n{user},{},4,2\n", [1, 3, 4][user as usize % 3], [3, 4, 1][user as usize % 3])
        });
        std::iter::once("userId,movieId,rating,timestamp\n".to_owned()).chain(rows).collect()
    }

    #[test]
    fn a_user_does_not_depend_on_others_or_on_the_order_of_the_file() {
        let split = ImportConfig { test_share: 0.3, ..config() };
        let all = of_ratings(&ratings_of(0..40), &split, 9).unwrap();
        let backward = of_ratings(&ratings_of((0..40).rev()), &split, 9).unwrap();
        let some = of_ratings(&ratings_of((0..40).filter(|user| user % 4 == 1)), &split, 9).unwrap();
        let by_id = |imported: &Imported| -> BTreeMap<String, (bool, String)> {
            let row =
                |test| move |user: &chat::History| (user.uid.clone(), (test, serde_json::to_string(user).unwrap()));
            imported.train.iter().map(row(false)).chain(imported.test.iter().map(row(true))).collect()
        };
        assert_eq!(by_id(&all), by_id(&backward));
        assert!(by_id(&some).into_iter().all(|(uid, row)| by_id(&all)[&uid] == row));
        assert_eq!((all.train.len() + all.test.len(), some.train.len() + some.test.len()), (40, 10));
        assert!(!all.test.is_empty() && !all.train.is_empty());
        // No user is in both sets.
        assert_eq!(by_id(&all).len(), 40);

        let reseeded = of_ratings(&ratings_of(0..40), &split, 10).unwrap();
        assert_ne!(by_id(&all), by_id(&reseeded));
    }
}
