//! The folder of a run beside the published recipe.

use std::fs;
use std::path::Path;

use chat::prompt_manifest::PromptManifest;
use configs::published::{self, RecipeStage};
use configs::{EvalConfig, RlConfig, SftConfig};
use lm::pretrained;
use report::{PromptSetId, PromptUse};
use trainer::checkpoints;

use super::hashes::{Found, Hasher};
use super::record::{FileHash, FileRole, RunCertificate, SettingComparison};
use super::settings::{self, Reasons};
use crate::error::Error;
use crate::wording;

const CONFIG: &str = "config.toml";

/// Returns whether the folder holds the configuration of a run.
pub(super) fn has_config(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// Returns the hash of the running program, by the name of its file: where it is installed says nothing about it.
pub(super) fn program(hasher: &mut Hasher, skipped: &mut Vec<String>) -> Option<FileHash> {
    let mut out = Found { folder: "xplore".into(), files: Vec::new(), skipped };
    match std::env::current_exe() {
        Ok(path) => hasher.file(FileRole::Program, &path, &mut out),
        Err(e) => out.skip(FileRole::Program, "this program", &e.to_string()),
    }
    let program = out.files.pop()?;
    let name = Path::new(&program.path).file_name().map(|name| name.to_string_lossy().into_owned());
    Some(FileHash { path: name.unwrap_or_default(), ..program })
}

/// Compares a run with the published recipe, and hashes its files.
pub(super) fn certify(
    folder: &Path,
    reasons: &Reasons,
    hasher: &mut Hasher,
    skipped: &mut Vec<String>,
) -> Result<RunCertificate, Error> {
    let file = folder.join(CONFIG);
    let text = fs::read_to_string(&file).map_err(|e| {
        let what = format!("{}: not a run folder: cannot read {CONFIG}: {e}", folder.display());
        Error::data(format!("{what}; pass the folder of an SFT, RL or evaluation run (runs/NAME)"))
    })?;
    let stage = published::stage_of(&text).ok_or_else(|| {
        let expected = "expected the resolved configuration of an SFT, RL or evaluation run";
        Error::data(format!("{}: {expected}; other runs have no published counterpart", file.display()))
    })?;
    let mut run = CertifiedRun {
        found: Found { folder: folder.display().to_string(), files: Vec::new(), skipped },
        hasher,
        prompts: Vec::new(),
    };
    run.hasher.file(FileRole::Config, &file, &mut run.found);
    let settings = match stage {
        RecipeStage::Sft => run.sft(folder, &configs::load(&file, &[])?, reasons)?,
        RecipeStage::Rl => run.rl(folder, &configs::load(&file, &[])?, reasons)?,
        RecipeStage::Eval => run.eval(folder, &configs::load(&file, &[])?, reasons)?,
    };
    if stage != RecipeStage::Eval {
        run.checkpoint(folder)?;
    }
    let CertifiedRun { found, prompts, .. } = run;
    let Found { folder: name, files, .. } = found;
    Ok(RunCertificate { folder: name, stage, last_step: last_step(folder), files, prompts, settings })
}

/// A run whose files are hashed.
struct CertifiedRun<'a, 'b> {
    found: Found<'a>,
    hasher: &'b mut Hasher,
    prompts: Vec<PromptUse>,
}

impl CertifiedRun<'_, '_> {
    fn sft(&mut self, folder: &Path, config: &SftConfig, reasons: &Reasons) -> Result<Vec<SettingComparison>, Error> {
        let (hasher, found) = (&mut *self.hasher, &mut self.found);
        hasher.rows(FileRole::Data, &config.data.train, found);
        for set in &config.data.mix {
            hasher.rows(FileRole::Data, &set.path, found);
        }
        hasher.rows(FileRole::Validation, &config.data.validation, found);
        match &config.model.path {
            Some(path) => hasher.model(FileRole::Model, path, found),
            None => found.skip(FileRole::Model, "model.shape", "training starts from random weights"),
        }
        self.prompts = prompt_sets(folder, || wording::of_sft(config, None), found)?;
        settings::compare(RecipeStage::Sft, config, reasons)
    }

    fn rl(&mut self, folder: &Path, config: &RlConfig, reasons: &Reasons) -> Result<Vec<SettingComparison>, Error> {
        let (hasher, found) = (&mut *self.hasher, &mut self.found);
        hasher.rows(FileRole::Data, &config.data.train, found);
        hasher.model(FileRole::Model, &config.model.path, found);
        for (_, judge) in config.panel_judges() {
            hasher.judge(&judge.judge, found);
        }
        self.prompts = prompt_sets(folder, || wording::of_rl(config, None), found)?;
        settings::compare(RecipeStage::Rl, config, reasons)
    }

    fn eval(&mut self, folder: &Path, config: &EvalConfig, reasons: &Reasons) -> Result<Vec<SettingComparison>, Error> {
        self.hasher.rows(FileRole::Users, &config.users, &mut self.found);
        for entry in &config.models {
            self.hasher.model(FileRole::Model, &entry.model.path, &mut self.found);
        }
        for entry in &config.judges {
            self.hasher.judge(&entry.judge, &mut self.found);
        }
        self.prompts = prompt_sets(folder, || wording::of_eval(config), &mut self.found)?;
        settings::compare(RecipeStage::Eval, config, reasons)
    }

    /// Hashes the files of the newest checkpoint, and the prompt set that it carries.
    fn checkpoint(&mut self, folder: &Path) -> Result<(), Error> {
        let Some(newest) = checkpoints::newest(&folder.join("checkpoints"))? else {
            self.found.skip(FileRole::Checkpoint, "checkpoints", "the run has no checkpoint");
            return Ok(());
        };
        let newest = newest.display().to_string();
        self.hasher.model(FileRole::Checkpoint, &newest, &mut self.found);
        if let Some(carried) = pretrained::prompts(&newest)? {
            let (set, trained) = (carried.set().manifest(), carried.trained());
            let id = |of: &PromptManifest| PromptSetId { name: of.name.clone(), hash: of.hash.clone() };
            self.prompts.push(PromptUse {
                key: "checkpoint".into(),
                named: false,
                differ: set.differing(trained, None),
                used: id(&set),
                trained: Some(id(trained)),
                model: newest,
            });
        }
        Ok(())
    }
}

/// Returns the prompt sets that the run recorded, or else those of its configuration.
fn prompt_sets(
    folder: &Path,
    now: impl FnOnce() -> Result<Vec<PromptUse>, Error>,
    found: &mut Found<'_>,
) -> Result<Vec<PromptUse>, Error> {
    let path = folder.join(wording::FILE);
    if path.is_file() {
        let at = |e: String| Error::data(format!("{}: {e}; restore the file that the run wrote", path.display()));
        let text = fs::read_to_string(&path).map_err(|e| at(e.to_string()))?;
        return serde_json::from_str(&text).map_err(|e| at(e.to_string()));
    }
    Ok(now().unwrap_or_else(|e| {
        found.skipped.push(format!("{}: wording not hashed: {e}", found.folder));
        Vec::new()
    }))
}

/// Returns the last step in metrics.jsonl.
fn last_step(folder: &Path) -> Option<u64> {
    let text = fs::read_to_string(folder.join("metrics.jsonl")).ok()?;
    let steps = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["step"].as_u64());
    steps.max()
}
