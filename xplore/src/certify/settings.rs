//! The settings of a run beside the published ones.

use std::collections::BTreeMap;

use configs::RunConfig;
use configs::published::{self, Agreement, Comparison, RecipeStage};

use super::record::{Counts, RunCertificate, SettingComparison};
use crate::error::Error;

/// Reasons for settings that differ, by key.
pub(super) struct Reasons(BTreeMap<String, String>);

impl Reasons {
    /// Parses `KEY=REASON`.
    pub(super) fn parse(given: &[String]) -> Result<Self, Error> {
        let mut reasons = BTreeMap::new();
        for text in given {
            let wrong = |problem: &str| Error::usage(format!("--explain {text}: {problem}"));
            let (key, reason) = text
                .split_once('=')
                .map(|(key, reason)| (key.trim(), reason.trim()))
                .filter(|(_, reason)| !reason.is_empty())
                .ok_or_else(|| wrong("expected KEY=REASON, for example train.epochs=shortened for a rehearsal"))?;
            if !published::recipe().settings.iter().any(|setting| setting.key == key) {
                return Err(wrong(&format!("`{key}` is no published setting; use a key that the certificate lists")));
            }
            reasons.insert(key.to_owned(), reason.to_owned());
        }
        Ok(Self(reasons))
    }

    /// Checks that every reason explains a setting of a run.
    pub(super) fn check_used(&self, runs: &[RunCertificate]) -> Result<(), Error> {
        let settings = || runs.iter().flat_map(|run| &run.settings);
        let unused = |key: &&String| !settings().any(|found| found.key == **key && found.agreement != Agreement::Same);
        self.0.keys().find(unused).map_or(Ok(()), |key| {
            Err(Error::usage(format!("--explain {key}: this setting is as published in every run; remove the reason")))
        })
    }
}

/// Compares the configuration of a run with the published settings of its stage.
pub(super) fn compare<T: RunConfig>(
    stage: RecipeStage,
    config: &T,
    reasons: &Reasons,
) -> Result<Vec<SettingComparison>, Error> {
    let found = published::compare(stage, config)?;
    Ok(found.into_iter().map(|comparison| with_reason(comparison, reasons)).collect())
}

fn with_reason(found: Comparison, reasons: &Reasons) -> SettingComparison {
    let Comparison { setting, ours, agreement } = found;
    let given = reasons.0.get(&setting.key).cloned();
    let reason = match agreement {
        Agreement::Same => None,
        Agreement::PresetDeviation => given.or_else(|| Some(setting.deviation.clone())),
        Agreement::OtherLocation | Agreement::Different => given,
    };
    SettingComparison {
        key: setting.key.clone(),
        name: setting.name.clone(),
        published: published::shown(setting.value.as_ref()),
        source: setting.source,
        ours: published::shown(ours.as_ref()),
        agreement,
        reason,
        why: setting.why.clone(),
    }
}

/// Counts the settings of all runs.
pub(super) fn count(runs: &[RunCertificate]) -> Counts {
    let mut counts = Counts::default();
    for found in runs.iter().flat_map(|run| &run.settings) {
        match (found.agreement, &found.reason) {
            (Agreement::Same, _) => counts.same += 1,
            (Agreement::OtherLocation, None) => counts.other_location += 1,
            (_, Some(_)) => counts.explained += 1,
            (_, None) => counts.unexplained += 1,
        }
    }
    counts
}
