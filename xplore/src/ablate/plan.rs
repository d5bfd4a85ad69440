//! The runs of an ablation.

use std::path::{Path, PathBuf};

use chat::digest::hex;
use configs::ablate::{START, Variant};
use configs::{AblateConfig, EvalConfig, EvalModel, ModelSource, RlConfig, RunConfig};
use rewards::Registry;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::{parts, reward_checks};

/// Name of the model of a run in its evaluation.
pub const POLICY: &str = "policy";

/// Maximum length of a folder's name that is made from the name of a variant.
const LONGEST: usize = 60;

/// A variant with a seed.
#[derive(Clone, Debug)]
pub struct PlannedRun {
    /// Name of the variant; `start` for the model before the training.
    pub variant: String,
    /// The seed.
    pub seed: u64,
    /// Folder of the ablation.
    pub root: PathBuf,
    /// Folder of the run.
    pub folder: PathBuf,
    /// Configuration of the training; `None` for the model before the training.
    pub rl: Option<RlConfig>,
    /// Configuration of the evaluation.
    pub eval: EvalConfig,
}

/// An ablation and its runs.
#[derive(Clone, Debug)]
pub struct AblatePlan {
    /// The configuration.
    pub config: AblateConfig,
    /// The variants, in the order of the report.
    pub variants: Vec<Variant>,
    /// Index of the variant that the others are compared with.
    pub baseline: usize,
    /// The runs, in the order in which they start: all variants with the first seed, then with the next one.
    pub runs: Vec<PlannedRun>,
}

impl AblatePlan {
    /// Returns the plan of `config`, which was loaded from `file`.
    ///
    /// # Errors
    /// Returns an error that names the variant and the key if a run is not valid.
    pub fn new(file: &Path, config: AblateConfig) -> Result<Self, Error> {
        let variants = config.expanded().map_err(configs::ConfigError::from)?;
        let baseline = config.baseline_index().map_err(configs::ConfigError::from)?;
        let mut runs = Vec::new();
        for &seed in &config.seeds {
            if config.start {
                runs.push(start_run(file, &config, seed)?);
            }
            for variant in &variants {
                runs.push(variant_run(file, &config, variant, seed)?);
            }
        }
        Ok(Self { config, variants, baseline, runs })
    }

    /// Checks the reward terms of all variants, which a configuration names freely.
    ///
    /// # Errors
    /// Returns an error that names the variant if a term is not in `registry`, its parameters are not valid, or it asks a judge that is
    /// not configured or cannot answer.
    pub fn check_rewards(&self, registry: &Registry) -> Result<(), Error> {
        for (variant, rl) in self.runs.iter().filter_map(|run| Some((&run.variant, run.rl.as_ref()?))) {
            parts::composition(&rl.reward, registry)
                .and_then(|composition| reward_checks::check(rl, &composition))
                .map_err(|e| Error::usage(format!("reward of the variant `{variant}`: {e}")))?;
        }
        Ok(())
    }

    /// Returns the names of what is evaluated, in the order of their indexes: the variants, then `start` if it is evaluated.
    pub fn names(&self) -> Vec<&str> {
        let variants = self.variants.iter().map(|variant| variant.name.as_str());
        variants.chain(self.config.start.then_some(START)).collect()
    }

    /// Returns the runs of the variant of index `variant` (all if `None`) with `seed` (all if `None`).
    ///
    /// # Errors
    /// Returns an error if there is no such variant or seed.
    pub fn selected(&self, variant: Option<usize>, seed: Option<u64>) -> Result<Vec<&PlannedRun>, Error> {
        let names = self.names();
        let name = match variant {
            None => None,
            Some(index) => Some(*names.get(index).ok_or_else(|| {
                Error::usage(format!("--variant {index}: expected an index from 0 to {}", names.len() - 1))
            })?),
        };
        if let Some(seed) = seed.filter(|seed| !self.config.seeds.contains(seed)) {
            return Err(Error::usage(format!("--seed {seed}: expected one of {:?}", self.config.seeds)));
        }
        let wanted =
            |run: &&PlannedRun| name.is_none_or(|name| run.variant == name) && seed.is_none_or(|seed| run.seed == seed);
        Ok(self.runs.iter().filter(wanted).collect())
    }

    /// Describes the runs, one variant per line.
    pub fn describe(&self) -> String {
        let (config, names) = (&self.config, self.names());
        let mut out = format!(
            "{} runs of {} steps: {} variants, seeds {:?}; compared with `{}`\n",
            self.variants.len() * config.seeds.len(),
            config.steps,
            self.variants.len(),
            config.seeds,
            self.variants[self.baseline].name
        );
        for (index, name) in names.iter().enumerate() {
            let set = self.variants.get(index).map_or_else(
                || "the model before the training".to_owned(),
                |variant| if variant.set.is_empty() { "the base".into() } else { variant.set.join(", ") },
            );
            out.push_str(&format!("  {index:3} {name}: {set}\n"));
        }
        out
    }
}

impl PlannedRun {
    /// Returns the names of the variant and the seed.
    pub fn label(&self) -> String {
        format!("{}, seed {}", self.variant, self.seed)
    }

    /// Returns the file with the output of the run's processes.
    pub fn log(&self) -> PathBuf {
        self.file("logs", "log")
    }

    /// Returns the file with the resolved configuration of the training (`rl`) or of the evaluation (`eval`).
    pub fn config_file(&self, kind: &str) -> PathBuf {
        self.file("configs", &format!("{kind}.toml"))
    }

    /// Returns the file that the run's process locks.
    pub fn lock_file(&self) -> PathBuf {
        self.file("locks", "lock")
    }

    /// Returns the log of the training's steps.
    pub fn metrics(&self) -> PathBuf {
        self.folder.join("metrics.jsonl")
    }

    /// Returns the resolved configurations of the training, if there is one, and of the evaluation, with their kinds.
    ///
    /// # Errors
    /// Returns an error if a value cannot be written as TOML.
    pub fn resolved(&self) -> Result<Vec<(&'static str, String)>, Error> {
        let mut texts = Vec::new();
        if let Some(rl) = &self.rl {
            texts.push(("rl", rl.resolved()?));
        }
        texts.push(("eval", self.eval.resolved()?));
        Ok(texts)
    }

    /// Returns the SHA-256 hash, in hexadecimal, of the resolved configurations.
    ///
    /// # Errors
    /// Same as [`Self::resolved`].
    pub fn hash(&self) -> Result<String, Error> {
        let mut hash = Sha256::new();
        for (kind, text) in self.resolved()? {
            hash.update(kind);
            hash.update(text);
        }
        Ok(hex(&hash.finalize()))
    }

    fn file(&self, folder: &str, ending: &str) -> PathBuf {
        self.root.join(folder).join(format!("{}-seed-{}.{ending}", slug(&self.variant), self.seed))
    }
}

/// Returns the name of a folder for a variant. Where characters are replaced or left out, a hash keeps names apart.
fn slug(name: &str) -> String {
    let keeps = |c: char| c.is_ascii_alphanumeric() || "._=-+".contains(c);
    let clean: String = name.chars().map(|c| if keeps(c) { c } else { '_' }).collect();
    if clean == name && name.len() <= LONGEST && !name.starts_with('.') {
        return clean;
    }
    let short: String = clean.trim_start_matches('.').chars().take(LONGEST).collect();
    format!("{short}-{}", &hex(&Sha256::digest(name))[..8])
}

fn place(config: &AblateConfig, variant: &str, seed: u64) -> (PathBuf, String) {
    (config.folder().join("runs").join(slug(variant)), format!("seed-{seed}"))
}

fn variant_run(file: &Path, config: &AblateConfig, variant: &Variant, seed: u64) -> Result<PlannedRun, Error> {
    let (out, name) = place(config, &variant.name, seed);
    let mut rl = config.run_config(file, variant, seed, (out.as_path(), name.as_str()))?;
    if rl.judge_cache.as_os_str().is_empty() {
        // The runs ask the same questions about the same rows.
        rl.judge_cache = config.folder().join("judge-cache");
    }
    let folder = rl.folder();
    // The checkpoint of the last step, not the newest one.
    let path = format!("{}@{}", folder.display(), config.steps);
    let model = ModelSource { path, ..rl.model.clone() };
    let eval = evaluation(file, config, seed, &folder, model)?;
    // The references are the same for every variant; `start` has them.
    let eval = EvalConfig { references: eval.references && !config.start, ..eval };
    Ok(PlannedRun { variant: variant.name.clone(), seed, root: config.folder(), folder, rl: Some(rl), eval })
}

fn start_run(file: &Path, config: &AblateConfig, seed: u64) -> Result<PlannedRun, Error> {
    let (out, name) = place(config, START, seed);
    let folder = out.join(name);
    let eval = evaluation(file, config, seed, &folder, config.base_config(seed)?.model)?;
    Ok(PlannedRun { variant: START.into(), seed, root: config.folder(), folder, rl: None, eval })
}

fn evaluation(
    file: &Path,
    config: &AblateConfig,
    seed: u64,
    folder: &Path,
    model: ModelSource,
) -> Result<EvalConfig, Error> {
    let models = vec![EvalModel { name: POLICY.into(), model }];
    Ok(EvalConfig { name: "eval".into(), out: folder.into(), models, ..config.eval_config(file, seed)? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RL: &str = "[model]\npath='p'\n[judge.model]\npath='j'\n[data]\ntrain='r-{seed}'\n";
    const EVAL: &str = "users='u'\n[[judges]]\nname='training'\njudge.model.path='j'\n[[judges]]\nname='second'\n\
                        judge.model.path='k'\n";

    const JUDGES: &str = "judges=[{name='training', judge.model.path='j'}, {name='second', judge.model.path='k'}]";

    /// Returns the plan of an ablation with this text, of a base and an evaluation beside it.
    fn plan(text: &str) -> Result<AblatePlan, String> {
        plan_of("eval='EVAL'", text)
    }

    /// Returns the same with this line for the evaluation, in which `EVAL` stands for the file.
    fn plan_of(evaluation: &str, text: &str) -> Result<AblatePlan, String> {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for seed in [3, 4] {
            let rl = RL.replace("{seed}", &seed.to_string());
            fs::write(at(&format!("rl-{seed}.toml")), rl).unwrap();
        }
        fs::write(at("eval.toml"), format!("{EVAL}[[models]]\nname='m'\nmodel.path='m'\n")).unwrap();
        let (base, eval) = (at("rl-{seed}.toml"), at("eval.toml"));
        let evaluation = evaluation.replace("EVAL", &eval.display().to_string());
        let head = format!("base='{}'\nsteps=5\nseeds=[3,4]\n{evaluation}\n", base.display());
        let file = at("ablate.toml");
        fs::write(&file, head + text).unwrap();
        let config: AblateConfig = configs::load(&file, &[]).map_err(|e| e.to_string())?;
        AblatePlan::new(&file, config).map_err(|e| e.to_string())
    }

    const VARIANTS: &str = "[[variants]]\nname='usual'\n[[variants]]\nset=['reward.carry_discount=0.0']\n";

    #[test]
    fn every_variant_runs_with_every_seed_for_equal_steps() {
        let plan = plan(VARIANTS).unwrap();
        let labels: Vec<String> = plan.runs.iter().map(PlannedRun::label).collect();
        let of_seed = |seed| ["start", "usual", "reward.carry_discount=0.0"].map(|name| format!("{name}, seed {seed}"));
        assert_eq!(labels, [of_seed(3), of_seed(4)].concat());
        let changed = plan.runs[5].rl.as_ref().unwrap();
        assert_eq!((changed.seed, changed.train.steps, changed.reward.carry_discount), (4, 5, 0.0));
        assert_eq!(changed.data.train, Path::new("r-4"), "the base of the seed");
        assert_eq!(plan.runs[4].rl.as_ref().unwrap().reward.carry_discount, 0.9);
        assert_eq!(changed.folder(), Path::new("runs/ablation/runs/reward.carry_discount=0.0/seed-4"));
        let eval = &plan.runs[5].eval;
        assert_eq!(eval.models.len(), 1);
        assert_eq!(eval.models[0].model.path, "runs/ablation/runs/reward.carry_discount=0.0/seed-4@5");
        assert_eq!((eval.seed, eval.references), (4, false));
        assert!(plan.runs[0].eval.references && plan.runs[0].eval.models[0].model.path == "p");
        assert_eq!(plan.selected(Some(2), Some(4)).unwrap()[0].label(), "start, seed 4");
        assert_eq!(plan.selected(Some(1), None).unwrap().len(), 2);
        assert!(plan.selected(Some(3), None).unwrap_err().to_string().contains("from 0 to 2"));
        assert!(plan.selected(None, Some(5)).unwrap_err().to_string().contains("[3, 4]"));
    }

    #[test]
    fn one_factor_at_a_time_runs_as_a_variant_each() {
        let factors = "[factors]\n'reward.carry_discount'=[0.9, 0.0]\n'optimizer.lr'=[0.25, 0.5]\n";
        let plan = plan(&format!("design='one_at_a_time'\n{factors}")).unwrap();
        assert_eq!(plan.names(), ["baseline", "reward.carry_discount=0.0", "optimizer.lr=0.5", "start"]);
        assert_eq!((plan.runs.len(), plan.baseline), (8, 0));
        let changed = plan.selected(Some(2), Some(3)).unwrap()[0].clone().rl.unwrap();
        assert_eq!((changed.optimizer.lr, changed.reward.carry_discount), (0.5, 0.9));
    }

    #[test]
    fn the_evaluation_may_be_a_section() {
        let section = format!("eval={{users='u-{{seed}}', settings=['full'], {JUDGES}}}");
        let plan = plan_of(&section, VARIANTS).unwrap();
        let eval = &plan.runs[5].eval;
        assert_eq!((eval.users.as_path(), eval.judges.len(), eval.seed), (Path::new("u-4"), 2, 4));
        assert_eq!(eval.models[0].model.path, "runs/ablation/runs/reward.carry_discount=0.0/seed-4@5");
        let twice = section.replace("'second'", "'second-{seed}'").replace("'training'", "'second-3'");
        let said = plan_of(&twice, VARIANTS).unwrap_err();
        assert!(said.contains("ablate.toml:4: `eval.judges[1].name` is \"second-3\""), "{said}");
    }

    #[test]
    fn models_are_evaluated_in_a_setting_with_summaries() {
        let section = format!("eval={{users='u', settings=['direct'], {JUDGES}}}");
        let said = plan_of(&section, VARIANTS).unwrap_err();
        assert!(said.contains("ablate.toml:4: `eval.settings` is [\"direct\"]"), "{said}");
        assert!(said.contains("add \"full\" or \"streaming\""), "{said}");
    }

    #[test]
    fn an_alarm_does_not_end_a_variant_early() {
        let judges = "judges=[{name='near', judge.model.path='j'}, {name='far', weight=0, judge.model.path='k'}]";
        let with = |action: &str| {
            let alarm = format!("alarm={{judge='far', action='{action}'}}");
            let set = format!("\"{judges}\", 'judge={{}}', \"{alarm}\", 'validation.every=1'");
            plan(&format!("[[variants]]\nname='x'\nset=[{set}]\n"))
        };
        let said = with("stop").unwrap_err();
        assert!(said.contains("`alarm.action` is \"stop\"; expected \"warn\""), "{said}");
        with("warn").unwrap();
    }

    #[test]
    fn the_hash_follows_the_settings() {
        let hash = |text: &str| plan(text).unwrap().runs[1].hash().unwrap();
        // The folder of the base differs from call to call, and is no setting.
        let usual = plan(VARIANTS).unwrap();
        assert_eq!(usual.runs[1].hash().unwrap(), hash(VARIANTS));
        let other = VARIANTS.replace("name='usual'", "name='usual'\nset=['optimizer.lr=1e-3']");
        assert_ne!(hash(VARIANTS), hash(&other));
    }

    #[test]
    fn an_invalid_variant_is_named_with_file_line_and_key() {
        let said = plan("[[variants]]\n[[variants]]\nname='x'\nset=['reward.carry_discont=0.0']\n").unwrap_err();
        for part in
            ["ablate.toml:6: ", "the variant `x`", "reward.carry_discont", "did you mean `reward.carry_discount`"]
        {
            assert!(said.contains(part), "{part}: {said}");
        }
        let said = plan(&format!("training_judges=['third']\n{VARIANTS}")).unwrap_err();
        assert!(
            said.contains("ablate.toml:5: `training_judges` names \"third\"") && said.contains("\"second\""),
            "{said}"
        );
        let said = plan(&format!("training_judges=['training','second']\n{VARIANTS}")).unwrap_err();
        assert!(said.contains("at least one held-out judge"), "{said}");
    }

    #[test]
    fn folders_of_different_names_differ() {
        assert_eq!(slug("no_credit"), "no_credit");
        let long = |end: &str| format!("{}{end}", "reward.carry_discount=0.0, ".repeat(4));
        assert_ne!(slug(&long("a")), slug(&long("b")));
        assert_ne!(slug("a/b"), slug("a b"));
        for name in ["..", "a/b", "../x", ""] {
            let slug = slug(name);
            assert!(!slug.contains('/') && !slug.starts_with('.'), "{slug}");
        }
    }
}
