//! Resolution of models and data files to local paths. Files on the Hugging Face hub are downloaded once and then read from the
//! Hugging Face cache.
//!
//! A model is named as `Qwen/Qwen3-8B`, a file as `hf://datasets/owner/name/rows.jsonl`. `hf://datasets/owner/name` refers to the
//! training files of a data set. `owner/name@revision` selects a branch, tag, or commit. A path that exists never uses the network.
//! The folder of a run stands for one of its checkpoints ([`run_folder`]).

mod dataset;
pub mod run_folder;

use std::path::{Path, PathBuf};

use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

pub use dataset::{dataset, files_of_rows};

/// An error of resolving a model or a file.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The model is neither a folder nor a hub id.
    #[error("`{given}`: no such folder, and not a hub id (owner/name or owner/name@revision)")]
    NoSuchPlace {
        /// The model, as given.
        given: String,
    },
    /// The model names a run that does not exist, or that does not have the checkpoint.
    #[error("`{given}`: {problem}")]
    NoCheckpoint {
        /// The model, as given.
        given: String,
        /// What is missing, what exists, and the fix.
        problem: String,
    },
    /// The name does not refer to a file on the hub.
    #[error(
        "`{given}`: not a file on the hub; expected hf://datasets/owner/name/path/of/file or \
         hf://datasets/owner/name@revision/…"
    )]
    NotAFile {
        /// The file, as given.
        given: String,
    },
    /// The model or file is not in the cache, and offline mode is on.
    #[error(
        "`{given}` is not in the cache {}, and HF_HUB_OFFLINE is set; download it first or use a local folder",
        cache.display()
    )]
    NotCached {
        /// The model or file, as given.
        given: String,
        /// The cache that was searched.
        cache: PathBuf,
    },
    /// The repository has no weights in a supported format.
    #[error(
        "`{given}` has no {missing} on the hub; use a repository with config.json, tokenizer.json and *.safetensors"
    )]
    NotAModel {
        /// The model, as given.
        given: String,
        /// The missing file.
        missing: &'static str,
    },
    /// The data set has no files of rows.
    #[error(
        "`{given}` has no training files (.jsonl, .ndjson, .json, .parquet); found: {there}; name a file \
         explicitly, as {given}/path/of/file"
    )]
    NoRows {
        /// The data set, as given.
        given: String,
        /// The files found.
        there: String,
    },
    /// The hub, or the connection to it, failed.
    #[error("cannot download `{given}` from {endpoint}: {cause}")]
    Network {
        /// The model or file, as given.
        given: String,
        /// Address of the hub.
        endpoint: String,
        /// Message of the failure, and the fix.
        cause: String,
    },
}

/// The advice for a hub that does not answer.
const NO_ANSWER: &str = "; check the network, or set HF_HUB_OFFLINE=1 to use cached files";

impl HubError {
    /// Returns whether the hub did not answer, or was not asked because offline mode is on.
    pub fn is_offline(&self) -> bool {
        match self {
            Self::NotCached { .. } => true,
            Self::Network { cause, .. } => cause.ends_with(NO_ANSWER),
            _ => false,
        }
    }
}

/// Settings of the access to the hub.
#[derive(Clone, Debug)]
pub struct HubSettings {
    /// Address of the hub.
    pub endpoint: String,
    /// Folder of the cache, which contains the `models--owner--name` folders.
    pub cache: PathBuf,
    /// Access token for private and gated repositories.
    pub token: Option<String>,
    /// Whether to read only from the cache.
    pub offline: bool,
    /// Whether to show a progress bar for each file.
    pub progress: bool,
}

impl HubSettings {
    /// Returns the settings from the same environment variables that Hugging Face's tools read: HF_ENDPOINT, HF_HUB_CACHE, HF_HOME,
    /// HF_TOKEN (or the token that `hf auth login` stored), HF_HUB_OFFLINE.
    pub fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let cache = variable("HF_HUB_CACHE").map_or_else(Cache::from_env, |folder| Cache::new(folder.into()));
        let off = |value: &str| ["0", "false", "no", "off"].contains(&value.to_lowercase().as_str());
        Self {
            endpoint: variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: variable("HF_TOKEN").or_else(|| Cache::from_env().token()),
            cache: cache.path().clone(),
            offline: variable("HF_HUB_OFFLINE").is_some_and(|value| !off(&value)),
            progress: true,
        }
    }
}

/// Returns the folder of a model: the checkpoint that [`run_folder::resolve`] selects if `given` names a run, `given` itself if it
/// exists, otherwise the snapshot of that id in the cache, which is downloaded if necessary.
///
/// # Errors
/// See [`HubError`].
pub fn model(given: &str, settings: &HubSettings) -> Result<PathBuf, HubError> {
    if let Some(checkpoint) = run_folder::resolve(given)? {
        return Ok(checkpoint);
    }
    if Path::new(given).exists() {
        return Ok(given.into());
    }
    let Some((id, revision)) = parse(given) else { return Err(HubError::NoSuchPlace { given: given.into() }) };
    let repo = Repo::with_revision(id.into(), RepoType::Model, revision.into());
    if settings.offline {
        let cached = Cache::new(settings.cache.clone()).repo(repo).get("config.json");
        let folder = cached.and_then(|file| file.parent().map(Path::to_owned));
        return folder.ok_or_else(|| HubError::NotCached { given: given.into(), cache: settings.cache.clone() });
    }
    download(given, &repo, settings, &["config.json", "tokenizer.json", "*.safetensors"], is_part_of_a_model)
}

/// Returns the folder of a model like [`model`], but downloads only the configuration and the tokenizer, not the weights.
///
/// # Errors
/// See [`HubError`].
pub fn description(given: &str, settings: &HubSettings) -> Result<PathBuf, HubError> {
    if let Some(checkpoint) = run_folder::resolve(given)? {
        return Ok(checkpoint);
    }
    if Path::new(given).exists() || settings.offline {
        return model(given, settings);
    }
    let Some((id, revision)) = parse(given) else { return Err(HubError::NoSuchPlace { given: given.into() }) };
    let repo = Repo::with_revision(id.into(), RepoType::Model, revision.into());
    let wanted = |name: &str| is_part_of_a_model(name) && !name.ends_with(".safetensors");
    download(given, &repo, settings, &["config.json", "tokenizer.json"], wanted)
}

/// Parses `owner/name` or `owner/name@revision` into id and revision.
fn parse(given: &str) -> Option<(&str, &str)> {
    let (id, revision) = given.split_once('@').unwrap_or((given, "main"));
    let word = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(known)
    };
    let (owner, name) = id.split_once('/')?;
    (word(owner) && word(name) && !revision.is_empty()).then_some((id, revision))
}

/// Returns the path of a data file: `given` itself unless it begins with `hf://`, otherwise that file in the cache, which is
/// downloaded if necessary.
///
/// # Errors
/// See [`HubError`].
pub fn data(given: &Path, settings: &HubSettings) -> Result<PathBuf, HubError> {
    let text = given.to_string_lossy();
    let Some(place) = text.strip_prefix("hf://") else { return Ok(given.into()) };
    let (id, revision, file) = place
        .strip_prefix("datasets/")
        .and_then(parse_file)
        .ok_or_else(|| HubError::NotAFile { given: text.to_string() })?;
    let repo = Repo::with_revision(id.into(), RepoType::Dataset, revision.into());
    if settings.offline {
        let cached = Cache::new(settings.cache.clone()).repo(repo).get(file);
        return cached.ok_or_else(|| HubError::NotCached { given: text.to_string(), cache: settings.cache.clone() });
    }
    let network = network(&text, settings);
    api(settings).map_err(&network)?.repo(repo).get(file).map_err(&network)
}

/// Parses `owner/name/path` or `owner/name@revision/path` into id, revision, and path.
fn parse_file(place: &str) -> Option<(&str, &str, &str)> {
    let (owner, rest) = place.split_once('/')?;
    let (name, file) = rest.split_once('/')?;
    let (id, revision) = parse(&place[..owner.len() + 1 + name.len()])?;
    (!file.is_empty()).then_some((id, revision, file))
}

fn network<'a>(given: &'a str, settings: &'a HubSettings) -> impl Fn(ApiError) -> HubError + 'a {
    |error| HubError::Network { given: given.into(), endpoint: settings.endpoint.clone(), cause: in_words(&error) }
}

fn api(settings: &HubSettings) -> Result<Api, ApiError> {
    ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
        .with_endpoint(settings.endpoint.clone())
        .with_token(settings.token.clone())
        .with_progress(settings.progress)
        .with_retries(5)
        .build()
}

fn download(
    given: &str,
    repo: &Repo,
    settings: &HubSettings,
    needed: &[&'static str],
    wanted: impl Fn(&str) -> bool,
) -> Result<PathBuf, HubError> {
    let network = network(given, settings);
    let remote = api(settings).map_err(&network)?.repo(repo.clone());
    let files: Vec<String> = remote.info().map_err(&network)?.siblings.into_iter().map(|s| s.rfilename).collect();
    let wanted: Vec<&String> = files.iter().filter(|name| wanted(name)).collect();
    for &missing in needed {
        if !wanted.iter().any(|name| name.ends_with(missing.trim_start_matches('*'))) {
            return Err(HubError::NotAModel { given: given.into(), missing });
        }
    }
    let mut folder = None;
    for name in wanted {
        let path = remote.get(name).map_err(&network)?;
        folder = path.parent().map(Path::to_owned);
    }
    folder.ok_or_else(|| HubError::NotAModel { given: given.into(), missing: "config.json" })
}

/// Returns whether a file belongs to a model folder. Only files at the top level of the repository do; weights in other formats are
/// skipped.
fn is_part_of_a_model(name: &str) -> bool {
    let weights = name.ends_with(".safetensors") && !name.starts_with("consolidated");
    !name.contains('/') && (weights || name.ends_with(".json") || name.ends_with(".jinja"))
}

fn in_words(error: &ApiError) -> String {
    let text = error.to_string();
    // The address in the text may contain the same digits, for example as its port.
    let status = |code: &str| text.contains(&format!("status code {code}"));
    let advice = match () {
        () if status("401") || status("403") => {
            "; the repository is private or gated: accept its terms on its page and set HF_TOKEN"
        }
        () if status("404") => "; check the spelling of the id and the revision",
        _ => NO_ANSWER,
    };
    text + advice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_paths() {
        assert_eq!(parse("Qwen/Qwen3-0.6B"), Some(("Qwen/Qwen3-0.6B", "main")));
        assert_eq!(parse("a/b@refs/pr/3"), Some(("a/b", "refs/pr/3")));
        for path in ["model", "./a/b", "../b", "/a/b", "a/b/c", "a/", "/b", "a b/c", "a/b@", "runs/x/", "~/m"] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn files_are_told_from_repositories() {
        assert_eq!(parse_file("a/b/c.jsonl"), Some(("a/b", "main", "c.jsonl")));
        assert_eq!(parse_file("a/b@v2/c/d.jsonl"), Some(("a/b", "v2", "c/d.jsonl")));
        for place in ["a/b", "a/b/", "a//c", "a/b@/c", "/b/c"] {
            assert_eq!(parse_file(place), None, "{place}");
        }
    }
}
