//! SHA-256 hashes of files.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use configs::judge::JudgeConfig;
use hub::HubSettings;
use lm::{LmError, lora_files};

use super::record::{FileHash, FileRole};

/// The files of a model folder that determine its function.
const MODEL_FILES: [&str; 7] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "adapter_config.json",
    "special_tokens_map.json",
];

/// Hashes files, each only once.
#[derive(Default)]
pub(super) struct Hasher {
    known: HashMap<PathBuf, (u64, String)>,
}

impl Hasher {
    fn hash(&mut self, path: &Path) -> io::Result<(u64, String)> {
        let whole = fs::canonicalize(path)?;
        if let Some(found) = self.known.get(&whole) {
            return Ok(found.clone());
        }
        let hash = files::sha256(&whole)?;
        Ok(self.known.entry(whole).or_insert(hash).clone())
    }

    /// Adds the hash of a file; a file that cannot be read is skipped.
    pub(super) fn file(&mut self, role: FileRole, path: &Path, out: &mut Found<'_>) {
        match self.hash(path) {
            Ok((bytes, sha256)) => out.files.push(FileHash { role, path: path.display().to_string(), bytes, sha256 }),
            Err(e) => out.skip(role, &path.display().to_string(), &e.to_string()),
        }
    }

    /// Adds the hashes of a file of rows, of the files in a folder, or of a data set in the hub's cache.
    pub(super) fn rows(&mut self, role: FileRole, given: &Path, out: &mut Found<'_>) {
        if given.as_os_str().is_empty() {
            return;
        }
        let found = if given.is_dir() { hub::files_of_rows(given) } else { hub::dataset(given, &offline()) };
        match found {
            Ok(files) => files.iter().for_each(|file| self.file(role, file, out)),
            Err(e) => out.skip(role, &given.display().to_string(), &e.to_string()),
        }
    }

    /// Adds the hashes of a model in a folder, in a run, or in the hub's cache; for an adapter, also those of its base model.
    pub(super) fn model(&mut self, role: FileRole, given: &str, out: &mut Found<'_>) {
        let of_folder = |folder: PathBuf| model_files(&folder).map_err(|e| format!("{}: {e}", folder.display()));
        let folders = model_folders(given, &offline()).map_err(|e| e.to_string());
        let listed = folders.and_then(|folders| {
            let files = folders.into_iter().map(of_folder).collect::<Result<Vec<_>, String>>()?;
            Ok(files.concat())
        });
        match listed {
            Ok(files) if files.is_empty() => out.skip(role, given, "the folder has no model files"),
            Ok(files) => files.iter().for_each(|file| self.file(role, file, out)),
            Err(e) => out.skip(role, given, &e),
        }
    }

    /// Adds the hashes of a judge's model; a judge behind an endpoint is skipped.
    pub(super) fn judge(&mut self, judge: &JudgeConfig, out: &mut Found<'_>) {
        if judge.endpoint.is_given() {
            let why = "a server's weights cannot be read from here";
            return out.skip(FileRole::Judge, &judge.endpoint.url, why);
        }
        self.model(FileRole::Judge, &judge.model.path, out);
    }
}

/// The hashes found in a run, and what was skipped.
pub(super) struct Found<'a> {
    /// The folder of the run, for messages.
    pub folder: String,
    /// The hashes.
    pub files: Vec<FileHash>,
    /// What was skipped.
    pub skipped: &'a mut Vec<String>,
}

impl Found<'_> {
    /// Records what was skipped, and why.
    pub(super) fn skip(&mut self, role: FileRole, what: &str, why: &str) {
        // Errors of the hub name the place already.
        let place = if why.contains(what) { String::new() } else { format!("{what}: ") };
        self.skipped.push(format!("{}: {} not hashed: {place}{why}", self.folder, role.label()));
    }
}

/// Returns the settings of the hub's cache, without the network.
fn offline() -> HubSettings {
    HubSettings { offline: true, ..HubSettings::from_environment() }
}

/// Returns the folder of a model, and for a PEFT adapter that of its base model after it.
///
/// # Errors
/// If the model, or the base model of an adapter, is not available.
pub(crate) fn model_folders(given: &str, settings: &HubSettings) -> Result<Vec<PathBuf>, LmError> {
    let folder = hub::model(given, settings)?;
    if !lora_files::is_adapter(&folder) {
        return Ok(vec![folder]);
    }
    let base = hub::model(&lora_files::read_config(&folder)?.base, settings)?;
    Ok(vec![folder, base])
}

/// Returns the files of a model folder that determine its function, sorted.
pub(crate) fn model_files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".safetensors") || MODEL_FILES.contains(&name.as_str()) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_coreutils_and_missing_files_are_skipped() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        // printf hello | sha256sum
        const HELLO: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for name in ["model/config.json", "model/model.safetensors", "model/README.md", "rows/a.jsonl"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "hello").unwrap();
        }
        let (mut hasher, mut skipped) = (Hasher::default(), Vec::new());
        let mut found = Found { folder: "run".into(), files: Vec::new(), skipped: &mut skipped };
        hasher.model(FileRole::Model, at("model").to_str().unwrap(), &mut found);
        hasher.rows(FileRole::Data, &at("rows"), &mut found);
        hasher.rows(FileRole::Validation, Path::new(""), &mut found);
        hasher.rows(FileRole::Data, &at("gone.jsonl"), &mut found);
        hasher.model(FileRole::Judge, at("gone").to_str().unwrap(), &mut found);
        assert_eq!(found.files.len(), 3, "{:?}", found.files);
        assert!(found.files.iter().all(|file| (file.bytes, file.sha256.as_str()) == (5, HELLO)));
        assert!(found.files[0].path.ends_with("model/config.json") && found.files[2].role == FileRole::Data);
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        assert!(skipped[0].starts_with("run: data not hashed: ") && skipped[0].contains("gone.jsonl: "), "{skipped:?}");
        assert!(skipped[1].starts_with("run: judge not hashed: "), "{skipped:?}");
    }

    #[test]
    fn an_adapter_has_the_files_of_its_base_model() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["base/config.json", "base/model.safetensors", "adapter/adapter_model.safetensors"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), "").unwrap();
        }
        let base = at("base").display().to_string();
        let config = serde_json::json!({"base_model_name_or_path": base, "r": 4, "lora_alpha": 8});
        fs::write(at("adapter/adapter_config.json"), config.to_string()).unwrap();
        let mut skipped = Vec::new();
        let mut found = Found { folder: "run".into(), files: Vec::new(), skipped: &mut skipped };
        Hasher::default().model(FileRole::Model, at("adapter").to_str().unwrap(), &mut found);
        let names: Vec<&str> = found.files.iter().map(|file| file.path.rsplit('/').next().unwrap()).collect();
        let expected = ["adapter_config.json", "adapter_model.safetensors", "config.json", "model.safetensors"];
        assert_eq!(names, expected);
        fs::remove_dir_all(at("base")).unwrap();
        Hasher::default().model(FileRole::Judge, at("adapter").to_str().unwrap(), &mut found);
        assert_eq!((found.files.len(), skipped.len()), (4, 1));
    }
}
