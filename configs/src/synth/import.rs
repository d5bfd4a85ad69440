//! The import of raw files as histories.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::check::{CheckResult, Under, at_least, below_one, ensure, given};

/// The default of `hard_candidates`.
const HARD_CANDIDATES: usize = 100;

/// The format whose columns `[import.columns]` maps.
const GENERIC: &str = "generic";
/// The format of the built-in world.
const WORLD: &str = "world";
/// The only format with quoted fields that the released reader changes.
const MIND: &str = "mind";

/// The order of a user's interactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportOrder {
    /// By time; interactions of the same time stay in the order of the file.
    Time,
    /// As in the file.
    File,
}

/// What happens to an interaction that a user has already had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// It is kept.
    Keep,
    /// It is dropped if query, chosen and rejected item are equal. Where negatives are drawn, query and chosen item.
    Interactions,
    /// It is dropped if the chosen item is equal.
    Items,
}

/// How the rejected item of a choice is drawn where the source has only positives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NegativePolicy {
    /// Uniformly from the items that the user never chose.
    GlobalUnseen,
    /// Uniformly from the items that were shown beside the choice and not chosen. A choice without such items draws as
    /// `global_unseen`.
    InSession,
    /// From the items that the user never chose and that were chosen about as often as the chosen item.
    Popularity,
    /// Of `hard_candidates` items that the user never chose, the one whose text is most similar to that of the chosen item.
    Hard,
}

/// How the fields of a tab-separated file are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quotes {
    /// As the released reader does: a field that begins with a quotation mark loses its quotation marks and may contain tabs, and
    /// `NA`, `None`, `null` and the like are missing values.
    #[default]
    Published,
    /// Every field is the text between two tabs.
    Plain,
}

/// The users of a format whose histories are messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageUsers {
    /// One user for each question, with a single target, as published.
    #[default]
    Question,
    /// One user for each user of the source, with all questions as targets.
    User,
}

/// The raw files and how they become histories. A key that is not set has the published value of the format.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportConfig {
    /// Format of the files, such as mind or generic; `xplore synth import --help` lists all. Required.
    pub format: String,
    /// Files, or the folder that contains them under their original names. Required, except for format world.
    pub input: Vec<PathBuf>,
    /// Whether malformed rows are counted and left out. Default: false, which ends the import at the first one.
    pub skip_bad: bool,
    /// Minimum number of interactions, or of messages, of a user. Default: the format's.
    pub min_history: Option<usize>,
    /// Order of a user's interactions: time or file. Default: the format's.
    pub order: Option<ImportOrder>,
    /// What happens to repeated interactions: keep, interactions or items. Default: the format's.
    pub duplicates: Option<Duplicates>,
    /// Minimum rating of a positive; interactions with a lower one are left out. Default: none, as published.
    pub rating_threshold: Option<f64>,
    /// How rejected items are drawn where the source has only positives: global_unseen, in_session, popularity or hard. Default: the
    /// format's.
    pub negatives: Option<NegativePolicy>,
    /// Whether an item may be the rejected one of several choices of a user. Default: the format's.
    pub replacement: Option<bool>,
    /// Number of items from which `hard` takes the most similar one. Default: 100.
    pub hard_candidates: usize,
    /// Query of choices that have none. Empty (the default): they stay without.
    pub query: String,
    /// Number of choices of each other domain to keep as transfer targets. The history of a user is then that of the domain with
    /// most interactions. Default: 0, which keeps all domains in the history.
    pub transfer_targets: usize,
    /// Fraction of the users in the test set, sampled with the seed by user id. Default: 0.2.
    pub test_share: f64,
    /// Whether tags and entities of HTML in items are replaced by text. Default: false.
    pub strip_html: bool,
    /// How the fields of MIND's files are read: published or plain. Default: published.
    pub quotes: Quotes,
    /// The users of a format whose histories are messages: question or user. Pruning and synthesis need several targets for a user.
    /// Default: question, as published.
    pub message_users: MessageUsers,
    /// The columns of format generic.
    pub columns: ColumnsConfig,
    /// The users of format world.
    pub world: WorldImport,
}

impl Default for ImportConfig {
    fn default() -> Self {
        Self {
            format: String::new(),
            input: Vec::new(),
            skip_bad: false,
            min_history: None,
            order: None,
            duplicates: None,
            rating_threshold: None,
            negatives: None,
            replacement: None,
            hard_candidates: HARD_CANDIDATES,
            query: String::new(),
            transfer_targets: 0,
            test_share: 0.2,
            strip_html: false,
            quotes: Quotes::default(),
            message_users: MessageUsers::default(),
            columns: ColumnsConfig::default(),
            world: WorldImport::default(),
        }
    }
}

/// Names of the columns, or fields, of format generic. An empty name says that the data have no such column. The files are JSON
/// lines, CSV or Parquet, by their extension. Each row is a choice between two items (`chosen` and `rejected`), or a positive (`item`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnsConfig {
    /// Id of the user. Default: user.
    pub user: String,
    /// Query of the choice. Default: none.
    pub query: String,
    /// Text of the item that the user chose. Set either this or `item`.
    pub chosen: String,
    /// Text of the item that the user rejected. Default: none, which leaves choices without one.
    pub rejected: String,
    /// Id of the item that the user chose. Its text is in `text`, or in the file `items`.
    pub item: String,
    /// Text of `item`, if the rows hold it. Default: none.
    pub text: String,
    /// Rating of the item, for `import.rating_threshold`. Default: none.
    pub rating: String,
    /// Time of the choice: a number, or a date in ISO 8601. Default: none.
    pub time: String,
    /// Domain of the choice, if the rows hold it. Default: none.
    pub domain: String,
    /// Task of the choice, beside `chosen`. Default: none.
    pub task: String,
    /// File of the items. Empty (the default): the rows hold their texts.
    pub items: PathBuf,
    /// Id of an item in `items`. Default: id.
    pub item_id: String,
    /// Text of an item in `items`. Default: text.
    pub item_text: String,
    /// Domain of an item in `items`. Default: none.
    pub item_domain: String,
    /// Separator of the fields of a text file, one character. Empty (the default): a comma for .csv, a tab for .tsv.
    pub delimiter: String,
}

impl Default for ColumnsConfig {
    fn default() -> Self {
        Self {
            user: "user".into(),
            query: String::new(),
            chosen: String::new(),
            rejected: String::new(),
            item: String::new(),
            text: String::new(),
            rating: String::new(),
            time: String::new(),
            domain: String::new(),
            task: String::new(),
            items: PathBuf::new(),
            item_id: "id".into(),
            item_text: "text".into(),
            item_domain: String::new(),
            delimiter: String::new(),
        }
    }
}

/// A group of users of the built-in world; no two groups share users.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorldPopulation {
    /// The users of the quickstart's SFT rows.
    #[default]
    Synthesis,
    /// The users of the quickstart's RL rows.
    Reinforcement,
    /// The users of the quickstart's evaluation.
    HeldOut,
}

/// The users of the built-in world to generate. The world's seed is that of the pipeline.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorldImport {
    /// The group of users: synthesis, reinforcement or held_out. Default: synthesis.
    pub population: WorldPopulation,
    /// Number of users. Default: 400.
    pub users: usize,
    /// Minimum number of interactions of a user. Default: 9.
    pub least_interactions: usize,
    /// Maximum number of interactions of a user. Default: 18.
    pub most_interactions: usize,
    /// Number of later choices of each user, which no stage reads (`targets` of the RL rows). Default: 0.
    pub targets: usize,
    /// Number of transfer targets of each user in each other domain. Default: 0.
    pub transfer_targets: usize,
}

impl Default for WorldImport {
    fn default() -> Self {
        Self {
            population: WorldPopulation::default(),
            users: 400,
            least_interactions: 9,
            most_interactions: 18,
            targets: 0,
            transfer_targets: 0,
        }
    }
}

impl ImportConfig {
    pub(super) fn check(&self) -> CheckResult {
        self.min_history.map_or(Ok(()), |least| at_least("min_history", least, 1))?;
        let finite = self.rating_threshold.is_none_or(f64::is_finite);
        let found = self.rating_threshold.unwrap_or_default();
        ensure(finite, "rating_threshold", found, "a finite number")?;
        at_least("hard_candidates", self.hard_candidates, 1)?;
        let used = self.negatives == Some(NegativePolicy::Hard) || self.hard_candidates == HARD_CANDIDATES;
        ensure(used, "hard_candidates", self.hard_candidates, "negatives = \"hard\", which alone uses it")?;
        below_one("test_share", self.test_share)?;
        let only = |used: bool, key: &str, format: &str| {
            let found = format!("set for format \"{}\"", self.format);
            ensure(used || self.format == format, key, found, &format!("format = \"{format}\", which alone uses it"))
        };
        only(self.quotes == Quotes::Published, "quotes", MIND)?;
        only(self.columns == ColumnsConfig::default(), "columns", GENERIC)?;
        only(self.world == WorldImport::default(), "world", WORLD)?;
        self.columns.check().under("columns")?;
        self.world.check().under("world")
    }

    pub(super) fn check_required(&self) -> CheckResult {
        given(!self.format.is_empty(), "format", "the format of the files, such as \"mind\" or \"generic\"")?;
        let generated = self.format == WORLD;
        given(generated || !self.input.is_empty(), "input", "a list of files, or of folders with the original files")?;
        if self.format == GENERIC { self.columns.check_required().under("columns") } else { Ok(()) }
    }
}

impl ColumnsConfig {
    fn check(&self) -> CheckResult {
        let one = self.delimiter.len() <= 1;
        ensure(one, "delimiter", format!("\"{}\"", self.delimiter), "a single ASCII character, or empty")?;
        for (key, column) in [("rejected", &self.rejected), ("task", &self.task)] {
            let beside = column.is_empty() || !self.chosen.is_empty();
            ensure(beside, key, format!("\"{column}\""), "a column `chosen` beside it")?;
        }
        let items = self.items.display().to_string();
        for (key, column) in [("text", &self.text), ("items", &items), ("rating", &self.rating)] {
            let beside = column.is_empty() || !self.item.is_empty();
            ensure(beside, key, format!("\"{column}\""), "a column `item` beside it")?;
        }
        let plain = Self::default();
        let of_items = [
            ("item_id", &self.item_id, &plain.item_id),
            ("item_text", &self.item_text, &plain.item_text),
            ("item_domain", &self.item_domain, &plain.item_domain),
        ];
        for (key, column, default) in of_items {
            let used = column == default || !items.is_empty();
            ensure(used, key, format!("\"{column}\""), "the file `items`, whose column this is")?;
        }
        let one = items.is_empty() || self.domain.is_empty();
        ensure(one, "domain", format!("\"{}\"", self.domain), "`item_domain`, the column of the file `items`")
    }

    fn check_required(&self) -> CheckResult {
        given(!self.user.is_empty(), "user", "the column with the id of the user")?;
        let (chosen, item) = (!self.chosen.is_empty(), !self.item.is_empty());
        given(chosen || item, "chosen", "the column with the text of the chosen item, or `item`, that with its id")?;
        ensure(!(chosen && item), "item", format!("\"{}\"", self.item), "either `item` or `chosen`, not both")?;
        let (text, items) = (!self.text.is_empty(), !self.items.as_os_str().is_empty());
        let texts = chosen || text || items;
        given(texts, "items", "the file of the items, or `text`, the column with the text of the item")?;
        ensure(!(text && items), "text", format!("\"{}\"", self.text), "either `text` or `items`, not both")?;
        if items {
            given(!self.item_id.is_empty(), "item_id", "the column with the id of an item")?;
            given(!self.item_text.is_empty(), "item_text", "the column with the text of an item")?;
        }
        Ok(())
    }
}

impl WorldImport {
    fn check(&self) -> CheckResult {
        at_least("users", self.users, 1)?;
        at_least("least_interactions", self.least_interactions, 1)?;
        let expected = format!("at least least_interactions ({})", self.least_interactions);
        let enough = self.most_interactions >= self.least_interactions;
        ensure(enough, "most_interactions", self.most_interactions, &expected)
    }
}
