//! Stamps: what a finished step was made from, and what it wrote.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use configs::SynthStep;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{StepContext, inputs, models, outputs};
use crate::error::Error;
use crate::parts;

/// Name of the file in the folder of a step. It is written last, and atomically.
pub const FILE: &str = "stamp.json";

/// The version of the steps' outputs. Another version makes all stamps void.
const VERSION: u32 = 1;

/// What stands for the hash of a file that does not exist.
const MISSING: &str = "missing";

/// What a finished step was made from, and what it wrote. Paths in the pipeline's folder are relative to it, so that the folder can be
/// moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Version of the outputs.
    pub version: u32,
    /// SHA-256 hash of `text`.
    pub config: String,
    /// The part of the configuration that the outputs depend on, as TOML.
    pub text: String,
    /// SHA-256 hashes of the files and folders that the step read.
    pub inputs: BTreeMap<String, String>,
    /// SHA-256 hashes of what tells the models and prompt sets of the step apart.
    pub models: BTreeMap<String, String>,
    /// SHA-256 hashes of the files that the step wrote, except a report of times and costs.
    pub outputs: BTreeMap<String, String>,
}

impl Stamp {
    /// Returns the stamp of a step that begins: it has no outputs yet.
    ///
    /// # Errors
    /// Returns an error if an input cannot be read.
    pub(super) fn begin(context: &StepContext<'_>, step: SynthStep, hashes: &mut Hashes) -> Result<Self, Error> {
        let text = context.config.step_text(step)?;
        Ok(Self {
            version: VERSION,
            config: sha256(text.as_bytes()),
            text,
            inputs: hashes.of(&inputs(context, step))?,
            models: models::identities(context.config, step),
            outputs: BTreeMap::new(),
        })
    }

    /// Returns the stamp of a step that has ended.
    ///
    /// # Errors
    /// Returns an error if an output cannot be read.
    pub(super) fn finish(
        mut self,
        context: &StepContext<'_>,
        step: SynthStep,
        hashes: &mut Hashes,
    ) -> Result<Self, Error> {
        // The step may have downloaded a model. One that was there may have changed since: the step used it as it was.
        for (role, identity) in models::identities(context.config, step) {
            self.models.entry(role).or_insert(identity);
        }
        self.outputs = hashes.of(&outputs(context, step))?;
        Ok(self)
    }

    /// Returns whether this stamp has what a step that begins now would have, and the outputs are still those that it wrote. A model
    /// that is no longer on this machine counts as the same.
    pub(super) fn holds(&self, begun: &Self, context: &StepContext<'_>, step: SynthStep, hashes: &mut Hashes) -> bool {
        (self.version, &self.config, &self.text, &self.inputs)
            == (begun.version, &begun.config, &begun.text, &begun.inputs)
            && begun.models.iter().all(|(role, identity)| self.models.get(role) == Some(identity))
            && !self.outputs.values().any(|hash| hash == MISSING)
            && hashes.of(&outputs(context, step)).is_ok_and(|now| now == self.outputs)
    }

    /// Reads the stamp in the folder of a step. Returns `None` if the step is not finished, or was finished by another version of
    /// Xplore.
    ///
    /// # Errors
    /// Returns an error if the file exists but cannot be read.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(FILE);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(serde_json::from_str(&text).ok()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(unreadable(&path, &e)),
        }
    }

    /// Writes the stamp to the folder of a step.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(super) fn write(&self, folder: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).expect("strings and maps of strings always serialize");
        parts::write(&folder.join(FILE), &(text + "\n"))
    }

    /// Removes the stamp from the folder of a step, if there is one.
    ///
    /// # Errors
    /// Returns an error if the file cannot be removed.
    pub(super) fn remove(folder: &Path) -> Result<(), Error> {
        let path = folder.join(FILE);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::environment(format!("{}: cannot remove: {e}; fix permissions", path.display())))
            }
            _ => Ok(()),
        }
    }

    /// Returns a hash of the stamp, by which a dataset card names the outputs. It leaves out the models, whose identities depend on
    /// when their files were written.
    pub fn id(&self) -> String {
        let named = (self.version, &self.config, &self.inputs, &self.outputs);
        sha256(serde_json::to_string(&named).expect("strings and maps of strings always serialize").as_bytes())
    }
}

/// Returns the SHA-256 hash of `bytes` in hexadecimal.
pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hashes of the files of a pipeline. A file is read once, unless its length or modification time changes.
pub(super) struct Hashes {
    /// The folder of the pipeline, as its files are named.
    folder: PathBuf,
    known: HashMap<PathBuf, (u64, SystemTime, String)>,
}

impl Hashes {
    /// Returns the hashes, none of them known, of the pipeline in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), known: HashMap::new() }
    }

    /// Returns the hash of each path, by its name: relative to the folder of the pipeline if it is inside.
    fn of(&mut self, paths: &[PathBuf]) -> Result<BTreeMap<String, String>, Error> {
        let mut found = BTreeMap::new();
        for path in paths {
            let name = path.strip_prefix(&self.folder).unwrap_or(path).display().to_string();
            found.insert(name, self.hash(path).map_err(|e| unreadable(path, &e))?);
        }
        Ok(found)
    }

    /// Returns the hash of a file, or of the names and hashes of all files in a folder, except those of the pipeline. A file on the
    /// hub has that of its name, a stamp its id.
    fn hash(&mut self, path: &Path) -> io::Result<String> {
        let name = path.to_string_lossy();
        if name.starts_with("hf://") {
            return Ok(sha256(name.as_bytes()));
        }
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(MISSING.into()),
            Err(e) => return Err(e),
            Ok(found) if !found.is_dir() => return self.file(path, &found),
            Ok(_) => {}
        }
        let mut entries =
            fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
        entries.sort();
        let (mut whole, own) = (String::new(), fs::canonicalize(&self.folder).ok());
        for entry in entries {
            // The pipeline may lie among its raw files. What it writes there is no input.
            if own.is_some() && fs::canonicalize(&entry).ok() == own {
                continue;
            }
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            whole += &format!("{}  {name}\n", self.hash(&entry)?);
        }
        Ok(sha256(whole.as_bytes()))
    }

    fn file(&mut self, path: &Path, found: &Metadata) -> io::Result<String> {
        if path.file_name().is_some_and(|name| name == FILE)
            && let Ok(stamp) = serde_json::from_slice::<Stamp>(&fs::read(path)?)
        {
            return Ok(stamp.id());
        }
        let (bytes, modified) = (found.len(), found.modified()?);
        if let Some((known_bytes, known_modified, hash)) = self.known.get(path)
            && (*known_bytes, *known_modified) == (bytes, modified)
        {
            return Ok(hash.clone());
        }
        let (_, hash) = files::sha256(path)?;
        self.known.insert(path.into(), (bytes, modified, hash.clone()));
        Ok(hash)
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Error {
    Error::data(format!("{}: cannot read: {error}; fix permissions, or name another file", path.display()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use configs::SynthConfig;

    use super::*;
    use crate::reporter::Silent;

    #[test]
    fn a_stamp_holds_until_its_section_an_input_or_an_output_changes() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for name in ["raw/behaviors.tsv", "import/train.jsonl", "import/test.jsonl", "import/card.json"] {
            fs::create_dir_all(at(name).parent().unwrap()).unwrap();
            fs::write(at(name), name).unwrap();
        }
        let text = format!("steps = ['import']\nimport = {{ format = 'mind', input = ['{}'] }}", at("raw").display());
        let config = |set: &[&str]| -> SynthConfig {
            configs::parse("synth.toml", &text, &set.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap()
        };
        let holds = |config: &SynthConfig| {
            let context = StepContext { config, folder: place.path(), input: None, reporter: &Silent };
            let mut hashes = Hashes::new(place.path());
            let begun = Stamp::begin(&context, SynthStep::Import, &mut hashes).unwrap();
            let stamp = Stamp::read(&at("import")).unwrap();
            stamp.is_some_and(|stamp| stamp.holds(&begun, &context, SynthStep::Import, &mut hashes))
        };
        assert!(!holds(&config(&[])));
        let plain = config(&[]);
        let context = StepContext { config: &plain, folder: place.path(), input: None, reporter: &Silent };
        let mut hashes = Hashes::new(place.path());
        let begun = Stamp::begin(&context, SynthStep::Import, &mut hashes).unwrap();
        begun.finish(&context, SynthStep::Import, &mut hashes).unwrap().write(&at("import")).unwrap();
        assert!(holds(&config(&[])));
        // Sections of other steps and the speed do not matter.
        assert!(holds(&config(&["prune.thresholds.most_signal=0.1", "threads=3"])));
        assert!(!holds(&config(&["import.min_history=3"])));
        assert!(!holds(&config(&["seed=3"])));
        for name in ["raw/behaviors.tsv", "import/test.jsonl"] {
            fs::write(at(name), "other").unwrap();
            assert!(!holds(&config(&[])), "{name}");
            fs::write(at(name), name).unwrap();
            assert!(holds(&config(&[])), "{name}");
        }
        fs::write(at("raw/news.tsv"), "a new file").unwrap();
        assert!(!holds(&config(&[])));
        fs::remove_file(at("raw/news.tsv")).unwrap();
        fs::remove_file(at("import/card.json")).unwrap();
        assert!(!holds(&config(&[])));
        Stamp::remove(&at("import")).unwrap();
        Stamp::remove(&at("import")).unwrap();
        assert_eq!(Stamp::read(&at("import")).unwrap(), None);
    }

    #[test]
    fn a_moved_folder_keeps_its_stamps() {
        let place = tempfile::tempdir().unwrap();
        let (first, second) = (place.path().join("first"), place.path().join("second"));
        for folder in [&first, &second] {
            fs::create_dir_all(folder.join("prune")).unwrap();
            fs::write(folder.join("prune/rl.jsonl"), "rows").unwrap();
        }
        let of = |folder: &Path| Hashes::new(folder).of(&[folder.join("prune/rl.jsonl"), folder.join("gone")]).unwrap();
        assert_eq!(of(&first), of(&second));
        assert_eq!(of(&first)["gone"], MISSING);
    }

    #[test]
    fn a_pipeline_among_its_raw_files_is_no_input() {
        let place = tempfile::tempdir().unwrap();
        let (raw, folder) = (place.path().to_owned(), place.path().join("runs/news"));
        fs::create_dir_all(folder.join("import")).unwrap();
        fs::write(raw.join("behaviors.tsv"), "rows").unwrap();
        let hash = || Hashes::new(&folder).of(std::slice::from_ref(&raw)).unwrap();
        let before = hash();
        fs::write(folder.join("import/train.jsonl"), "histories").unwrap();
        assert_eq!(hash(), before);
        fs::write(raw.join("runs/other.tsv"), "rows").unwrap();
        assert_ne!(hash(), before);
    }

    #[test]
    fn a_file_is_hashed_again_only_if_it_changed() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("rows.jsonl");
        let written = |text: &str, seconds: u64| {
            fs::write(&path, text).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
        };
        let mut hashes = Hashes::new(place.path());
        let mut hash = || hashes.hash(&path).unwrap();
        written("first", 1);
        let first = hash();
        written("other", 1);
        assert_eq!(hash(), first);
        written("other", 2);
        let other = hash();
        written("longer", 2);
        assert!(other != first && hash() != other);
    }

    #[test]
    fn a_step_used_the_models_that_were_there_when_it_began() {
        let place = fixtures::policy::model_and_rows();
        let model = place.path().join("model");
        let text = format!(
            "steps = ['prune']\n[prune]\nby = 'policy'\npolicy.model.path = '{0}'\n[verifier]\nmodel.path = '{0}'\n",
            model.display()
        );
        let config: SynthConfig = configs::parse("synth.toml", &text, &[]).unwrap();
        let context = StepContext { config: &config, folder: place.path(), input: None, reporter: &Silent };
        let mut hashes = Hashes::new(place.path());
        let mut begun = Stamp::begin(&context, SynthStep::Prune, &mut hashes).unwrap();
        assert!(begun.models.contains_key("policy") && begun.models.contains_key("verifier"));
        begun.models.remove("verifier");
        begun.models.insert("policy".into(), "as it was".into());
        for file in outputs(&context, SynthStep::Prune) {
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, "rows").unwrap();
        }
        let stamp = begun.clone().finish(&context, SynthStep::Prune, &mut hashes).unwrap();
        assert_eq!(stamp.models["policy"], "as it was");
        assert!(stamp.models.contains_key("verifier"));
        let mut holds = |begun: &Stamp| stamp.holds(begun, &context, SynthStep::Prune, &mut hashes);
        assert!(holds(&begun));
        begun.models.insert("policy".into(), "newer".into());
        assert!(!holds(&begun));
        // A model that was deleted changes nothing that was made with it.
        begun.models.clear();
        assert!(holds(&begun));
    }

    #[test]
    fn the_id_of_a_stamp_depends_on_what_was_read_and_written() {
        let map = |name: &str, hash: &str| BTreeMap::from([(name.to_owned(), hash.to_owned())]);
        let stamp = Stamp {
            version: VERSION,
            config: "c".into(),
            text: String::new(),
            inputs: map("scored.jsonl", "1"),
            models: map("policy", "2"),
            outputs: map("rl.jsonl", "3"),
        };
        let place = tempfile::tempdir().unwrap();
        let hash = |stamp: &Stamp| {
            stamp.write(place.path()).unwrap();
            Hashes::new(place.path()).of(&[place.path().join(FILE)]).unwrap()[FILE].clone()
        };
        assert_eq!(hash(&stamp), stamp.id());
        assert_eq!(hash(&Stamp { models: map("policy", "other"), ..stamp.clone() }), stamp.id());
        assert_ne!(hash(&Stamp { outputs: map("rl.jsonl", "other"), ..stamp.clone() }), stamp.id());
        assert_ne!(hash(&Stamp { inputs: map("scored.jsonl", "other"), ..stamp.clone() }), stamp.id());
    }
}
