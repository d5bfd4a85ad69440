//! The prompt set that a model carries: the folder `prompts` inside its model folder, with the templates and manifest.json.

use std::fmt::Display;
use std::io::ErrorKind;
use std::path::Path;

use chat::PromptSet;
use chat::prompt_manifest::PromptManifest;

use crate::LmError;

const FOLDER: &str = "prompts";
const MANIFEST: &str = "manifest.json";

/// The prompt set of a model, and the hashes of the templates that the model was trained on. The two differ if the templates in the
/// model folder were edited afterwards.
#[derive(Clone, Debug)]
pub struct ModelPrompts {
    set: PromptSet,
    trained: PromptManifest,
}

impl ModelPrompts {
    /// Returns the prompts of a model that is trained on `set`.
    pub fn new(set: PromptSet) -> Self {
        let trained = set.manifest();
        Self { set, trained }
    }

    /// Reads the prompts of the model in the folder `model`; `None` if the folder holds no templates. Without a manifest, the model
    /// counts as trained on the templates as they are.
    ///
    /// # Errors
    /// [`LmError::File`] for a template or a manifest that cannot be read or is not valid.
    pub fn load(model: &Path) -> Result<Option<Self>, LmError> {
        let folder = model.join(FOLDER);
        if !has_templates(&folder) {
            return Ok(None);
        }
        let at = |path: &Path, e: &dyn Display| LmError::File { path: path.into(), message: e.to_string() };
        let sources = configs::prompts::sources(&folder.display().to_string()).map_err(|e| at(&folder, &e))?;
        let path = folder.join(MANIFEST);
        let trained: Option<PromptManifest> = match std::fs::read(&path) {
            Ok(text) => Some(serde_json::from_slice(&text).map_err(|e| {
                at(
                    &path,
                    &format!("{e}; expected {{name, hash, templates}}; copy the file from the original model folder"),
                )
            })?),
            Err(e) if e.kind() == ErrorKind::NotFound => None,
            Err(e) => return Err(at(&path, &e)),
        };
        let name = trained.as_ref().map_or_else(|| folder.display().to_string(), |manifest| manifest.name.clone());
        let set = PromptSet::new(&name, &sources).map_err(|e| at(&folder, &e))?;
        let trained = trained.unwrap_or_else(|| set.manifest());
        Ok(Some(Self { set, trained }))
    }

    /// Writes the templates and the manifest into the folder `model`.
    ///
    /// # Errors
    /// [`LmError::Write`] if a file cannot be written.
    pub fn save(&self, model: &Path) -> Result<(), LmError> {
        let folder = model.join(FOLDER);
        let write = |path: &Path, text: &str| std::fs::write(path, text).map_err(|e| cannot(path, &e));
        std::fs::create_dir_all(&folder).map_err(|e| cannot(&folder, &e))?;
        for (name, text) in self.set.sources() {
            write(&folder.join(name), text)?;
        }
        let path = folder.join(MANIFEST);
        let manifest = serde_json::to_string_pretty(&self.trained).map_err(|e| cannot(&path, &e))?;
        write(&path, &(manifest + "\n"))
    }

    /// Returns the templates as they are in the model folder.
    pub fn set(&self) -> &PromptSet {
        &self.set
    }

    /// Returns the same set as [`Self::set`], by value.
    pub fn into_set(self) -> PromptSet {
        self.set
    }

    /// Returns the hashes of the templates that the model was trained on.
    pub fn trained(&self) -> &PromptManifest {
        &self.trained
    }
}

fn cannot(path: &Path, error: &dyn Display) -> LmError {
    LmError::Write { path: path.into(), message: error.to_string() }
}

fn has_templates(folder: &Path) -> bool {
    let mut entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.any(|entry| entry.file_name().to_string_lossy().ends_with(".j2"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact() -> PromptSet {
        PromptSet::new("compact", &configs::prompts::sources("compact").unwrap()).unwrap()
    }

    #[test]
    fn a_model_folder_gives_back_its_set_and_its_hash() {
        let model = tempfile::tempdir().unwrap();
        assert!(ModelPrompts::load(model.path()).unwrap().is_none());
        ModelPrompts::new(compact()).save(model.path()).unwrap();
        let back = ModelPrompts::load(model.path()).unwrap().unwrap();
        assert_eq!(back.set().sources(), compact().sources());
        assert_eq!((back.trained(), back.set().name()), (&compact().manifest(), "compact"));
        let text = std::fs::read_to_string(model.path().join("prompts/manifest.json")).unwrap();
        assert!(text.contains(&compact().hash()), "{text}");
    }

    #[test]
    fn templates_that_were_edited_do_not_change_what_the_model_was_trained_on() {
        let model = tempfile::tempdir().unwrap();
        ModelPrompts::new(compact()).save(model.path()).unwrap();
        std::fs::write(model.path().join("prompts/summarize.j2"), "Summarize this.").unwrap();
        let edited = ModelPrompts::load(model.path()).unwrap().unwrap();
        assert_eq!(edited.set().manifest().differing(edited.trained(), None), ["summarize.j2"]);
        // A copy keeps both.
        let copy = tempfile::tempdir().unwrap();
        edited.save(copy.path()).unwrap();
        let copy = ModelPrompts::load(copy.path()).unwrap().unwrap();
        assert_eq!((copy.set().sources(), copy.trained()), (edited.set().sources(), edited.trained()));
        // Templates that a user adds to a model without a manifest are its own.
        std::fs::remove_file(model.path().join("prompts/manifest.json")).unwrap();
        let own = ModelPrompts::load(model.path()).unwrap().unwrap();
        assert_eq!(own.trained(), &own.set().manifest());
    }

    #[test]
    fn damaged_files_are_named() {
        let model = tempfile::tempdir().unwrap();
        ModelPrompts::new(compact()).save(model.path()).unwrap();
        std::fs::write(model.path().join("prompts/manifest.json"), "{}").unwrap();
        let error = ModelPrompts::load(model.path()).unwrap_err().to_string();
        assert!(error.contains("prompts/manifest.json: missing field `name`"), "{error}");
        std::fs::write(model.path().join("prompts/summarize.j2"), "{% if %}").unwrap();
        std::fs::remove_file(model.path().join("prompts/manifest.json")).unwrap();
        let error = ModelPrompts::load(model.path()).unwrap_err().to_string();
        assert!(error.contains("summarize.j2"), "{error}");
    }
}
