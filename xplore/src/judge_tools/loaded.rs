//! Judges with their models and prompt sets.

use std::rc::Rc;

use chat::{Completer, PromptSet};
use configs::judge::{ItemOrders, JudgePrices};
use evals::MeteredJudge;
use rewards::{Judge, JudgeSettings};

use super::{JudgeSetup, announce};
use crate::error::Error;
use crate::panel::Loaded;
use crate::reporter::Reporter;
use crate::{parts, wording};

/// A judge whose model is loaded.
pub(crate) struct LoadedJudge {
    pub(crate) name: String,
    pub(crate) prompts: PromptSet,
    model: Rc<dyn Completer>,
    settings: JudgeSettings,
    prices: JudgePrices,
}

impl LoadedJudge {
    /// Returns the judge in the wording of `prompts`.
    pub(crate) fn with_prompts<'a>(&'a self, prompts: &'a PromptSet) -> Result<Judge<'a>, Error> {
        Ok(Judge::new(&*self.model, prompts, self.settings.clone())?)
    }

    /// Returns `judge`, which prompts this judge's model, with its name, its model and its prices.
    pub(crate) fn metered<'a>(&'a self, judge: &'a Judge<'a>) -> MeteredJudge<'a> {
        MeteredJudge { name: &self.name, judge, model: &*self.model, prices: self.prices }
    }
}

/// Loads the judges of `setup`, in their own wording. Judges with the same model share its weights. With `both`, they ask in both
/// orders of the items, whatever the configuration says.
pub(crate) fn load(setup: &JudgeSetup, both: bool, reporter: &dyn Reporter) -> Result<Vec<LoadedJudge>, Error> {
    announce(setup, reporter)?;
    let mut shared = Loaded::default();
    let one = |judge: &super::setup::NamedConfig| {
        let mut settings = parts::judge_settings(&judge.config, setup.seed);
        if both {
            settings.orders = ItemOrders::Both;
        }
        let model: Rc<dyn Completer> = match judge.config.endpoint.is_given() {
            true => Rc::new(parts::remote_model(&judge.config)?),
            false => shared.get(&judge.config)?,
        };
        let prompts = wording::of_judge(&judge.config)?;
        Ok(LoadedJudge { name: judge.name.clone(), prompts, model, settings, prices: judge.prices })
    };
    setup.judges.iter().map(one).collect()
}

/// Calls `f` with the judges, in their own wording.
pub(crate) fn with_judges<T>(
    loaded: &[LoadedJudge],
    f: impl FnOnce(&[MeteredJudge<'_>]) -> Result<T, Error>,
) -> Result<T, Error> {
    let judges = loaded.iter().map(|one| one.with_prompts(&one.prompts)).collect::<Result<Vec<_>, Error>>()?;
    let metered: Vec<MeteredJudge<'_>> = loaded.iter().zip(&judges).map(|(one, judge)| one.metered(judge)).collect();
    f(&metered)
}
