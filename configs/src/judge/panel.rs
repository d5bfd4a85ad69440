//! Several judges of one run, and how their verdicts are combined.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::JudgeConfig;
use crate::check::{CheckResult, Under, ensure, given, not_negative, positive};

/// How the panel combines the probabilities p_i that its judges, of weight w_i, assign to the user's choice.
///
/// Mean, minimum and softmin are the ensembles of reward models of Coste et al. (arXiv 2310.02743) and their smooth version, the
/// Boltzmann operator of Asadi and Littman (arXiv 1612.05628). The vote is that of a panel of judges by Verga et al.
/// (arXiv 2404.18796).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PanelRule {
    /// Σ w_i p_i / Σ w_i.
    #[default]
    Mean,
    /// The smallest p_i: a summary is worth what the judge that it convinces least says.
    Min,
    /// The weight of the judges with p_i > 0.5, plus half the weight of those with p_i = 0.5, over Σ w_i.
    Vote,
    /// Σ v_i p_i / Σ v_i with v_i = w_i exp(−p_i / τ), where τ is `panel_temperature`: the minimum for a small τ, the mean for a
    /// large one.
    Softmin,
}

/// Prices of a judge, per million tokens, in any currency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JudgePrices {
    /// Price of a million prompt tokens. Default: 0.
    pub prompt: f64,
    /// Price of a million generated tokens. Default: 0.
    pub completion: f64,
}

impl JudgePrices {
    /// Returns whether a price is given.
    pub fn are_given(&self) -> bool {
        self.prompt > 0.0 || self.completion > 0.0
    }

    pub(crate) fn check(&self) -> CheckResult {
        not_negative("prompt", self.prompt)?;
        not_negative("completion", self.completion)
    }
}

/// A judge of a run with several judges.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RlJudge {
    /// Name of the judge in metrics and in the parameters of reward terms. Required.
    pub name: String,
    /// The judge's model and its settings.
    pub judge: JudgeConfig,
    /// Weight of the judge in the panel. A judge with weight 0 is not part of the panel; reward terms can ask it by its name.
    /// Default: 1.
    pub weight: f64,
    /// Tasks of the choices on which the judge takes part in the panel, as in the rows' `task`. Empty (the default): all choices,
    /// also those without a task.
    pub tasks: Vec<String>,
    /// Prices, for the metric `judge/NAME/cost`. Default: none.
    pub prices: JudgePrices,
}

impl Default for RlJudge {
    fn default() -> Self {
        Self {
            name: String::new(),
            judge: JudgeConfig::default(),
            weight: 1.0,
            tasks: Vec::new(),
            prices: JudgePrices::default(),
        }
    }
}

impl RlJudge {
    /// Returns whether the judge takes part in the panel for a choice of `task`.
    pub fn serves(&self, task: Option<&str>) -> bool {
        serves(self.weight, &self.tasks, task)
    }
}

/// Returns whether a judge of this weight that is restricted to `tasks` takes part in the panel for a choice of `task`.
pub fn serves(weight: f64, tasks: &[String], task: Option<&str>) -> bool {
    let among = |task: &str| tasks.iter().any(|own| own == task);
    weight > 0.0 && (tasks.is_empty() || task.is_some_and(among))
}

/// The keys of a run that concern its judges together.
pub(crate) struct PanelCheck<'a> {
    pub judge: &'a JudgeConfig,
    pub judges: &'a [RlJudge],
    pub panel: PanelRule,
    pub temperature: f64,
}

impl PanelCheck<'_> {
    pub(crate) fn check(&self) -> CheckResult {
        if self.judges.is_empty() {
            self.judge.check().under("judge")?;
        } else {
            let alone = *self.judge == JudgeConfig::default();
            let expected = "either [judge], the short form of a single judge, or [[judges]]; move its keys to an entry of [[judges]]";
            ensure(alone, "judge", "given together with [[judges]]", expected)?;
        }
        let mut names = HashSet::new();
        for (index, judge) in self.judges.iter().enumerate() {
            check_judge(judge, &mut names).under(format!("judges[{index}]"))?;
        }
        let members = self.judges.iter().filter(|judge| judge.weight > 0.0).count();
        let some = self.judges.is_empty() || members > 0;
        ensure(some, "judges", "without a judge of the panel", "at least one judge with a weight above 0")?;
        let several = self.panel == PanelRule::Mean || members > 1;
        let found = format!("\"{}\" with a single judge", self.panel.name());
        ensure(several, "panel", found, "several [[judges]] with a weight above 0, or \"mean\"")?;
        positive("panel_temperature", self.temperature)?;
        let softmin = self.panel == PanelRule::Softmin || self.temperature == DEFAULT_PANEL_TEMPERATURE;
        let expected = "panel = \"softmin\", which alone uses it";
        ensure(
            softmin,
            "panel_temperature",
            format!("{} with panel = \"{}\"", self.temperature, self.panel.name()),
            expected,
        )
    }
}

/// Default of `panel_temperature`.
pub(crate) const DEFAULT_PANEL_TEMPERATURE: f64 = 0.1;

impl PanelRule {
    /// Returns the name of the rule in a configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Min => "min",
            Self::Vote => "vote",
            Self::Softmin => "softmin",
        }
    }
}

fn check_judge<'a>(judge: &'a RlJudge, names: &mut HashSet<&'a str>) -> CheckResult {
    given(!judge.name.is_empty(), "name", "a name, for metrics and for reward terms")?;
    // The name is a part of the keys of metrics.
    let plain = judge.name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c));
    ensure(plain, "name", format!("\"{}\"", judge.name), "letters, digits, -, _ and . only")?;
    let used = format!("\"{}\", which is already used", judge.name);
    ensure(names.insert(&judge.name), "name", used, "a unique name")?;
    not_negative("weight", judge.weight)?;
    let served = judge.tasks.iter().all(|task| !task.is_empty());
    ensure(served, "tasks", "with an empty name", "names of tasks, or [] for all choices")?;
    let meant = judge.weight > 0.0 || judge.tasks.is_empty();
    ensure(meant, "tasks", "given with weight 0", "a weight above 0: tasks restrict the part of a judge in the panel")?;
    judge.prices.check().under("prices")?;
    judge.judge.check().under("judge")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_serves_its_tasks_unless_it_has_no_weight() {
        let of_shop = RlJudge { tasks: vec!["shop".into()], ..RlJudge::default() };
        assert_eq!([Some("shop"), Some("news"), None].map(|task| of_shop.serves(task)), [true, false, false]);
        let any = RlJudge::default();
        assert!(any.serves(Some("shop")) && any.serves(None));
        assert!(!RlJudge { weight: 0.0, ..any }.serves(None));
    }
}
