//! Checks of a reward against the rest of its run: the judges that terms ask, and terms that cannot have an effect.

use std::collections::BTreeSet;

use chat::RlRow;
use configs::rl::RewardConfig;
use configs::rl::rollout::Carry;
use configs::{RlConfig, RlJudge};
use rewards::{Composition, RowFacts, RunFacts};
use trainer::grpo::curriculum_sampler::usable;
use trainer::grpo::steps;

use crate::error::Error;

/// Checks that the judges that terms ask by name are in the configuration, and that those asked for the likelihood of a text run in
/// this process.
///
/// # Errors
/// Returns an error that names the term and the judge.
pub fn check(config: &RlConfig, composition: &Composition) -> Result<(), Error> {
    let judges = config.panel_judges();
    let names: Vec<&str> = judges.iter().map(|(_, judge)| judge.name.as_str()).collect();
    for (term, judge) in composition.judges() {
        if !names.contains(&judge) {
            return Err(Error::usage(format!(
                "reward term `{term}`: no judge is named `{judge}`; known judges: {} (a judge with weight 0 answers only terms \
                 that name it)",
                names.join(", ")
            )));
        }
    }
    for (term, asked) in composition.asking_likelihood() {
        let asks = |judge: &RlJudge| match asked {
            Some(name) => judge.name == name,
            None => judge.weight > 0.0,
        };
        if let Some((key, judge)) = judges.iter().find(|(_, judge)| asks(judge) && judge.judge.endpoint.is_given()) {
            return Err(Error::usage(format!(
                "reward term `{term}`: judge `{}` is at an endpoint ({key}.endpoint), which does not return the likelihood of a \
                 given text; name a judge in this process in the term's params, as judge = \"NAME\"",
                judge.name
            )));
        }
    }
    Ok(())
}

/// Returns warnings about terms and judges that cannot have the effect that they are configured for. `rows` are those of the run;
/// without them, only the configuration is looked at.
pub fn advice(config: &RlConfig, composition: &Composition, rows: Option<&[RlRow]>) -> Vec<String> {
    let known_steps = (config.train.steps > 0).then_some(config.train.steps as u64);
    let steps = match rows.map(|rows| usable(rows, config).len()) {
        Some(users) if users > 0 => Some(steps(config, users)),
        _ => known_steps,
    };
    let judges = config.panel_judges();
    let facts = RunFacts {
        stages: config.rollout.stages,
        // The targets of messages are not among them.
        rereads_target: config.rollout.reread_target
            && rows.is_none_or(|rows| rows.iter().any(|row| row.messages.is_empty())),
        baseline_credit: config.reward.carry_baseline > 0.0
            && config.reward.carry_discount > 0.0
            && config.rollout.carry != Carry::Each,
        panel_judges: judges.iter().filter(|(_, judge)| judge.weight > 0.0).count(),
        steps,
        rows: rows.map(|rows| facts(config, rows)),
    };
    let mut advice = composition.advice(&facts);
    let alarm = config.alarm.as_ref().map(|alarm| alarm.judge.as_str());
    let named = |judge: &RlJudge| {
        alarm == Some(judge.name.as_str()) || composition.judges().iter().any(|(_, name)| *name == judge.name)
    };
    for (_, judge) in judges.iter().filter(|(_, judge)| judge.weight == 0.0 && !named(judge)) {
        advice.push(format!(
            "judge `{}` has weight 0, and no reward term or alarm names it, so it is loaded and never asked",
            judge.name
        ));
    }
    let eps = config.reward.normalize_eps;
    if eps != RewardConfig::default().normalize_eps && !composition.normalizes() {
        advice.push(format!("reward.normalize_eps is {eps}, and no reward term has `normalize`, which alone uses it"));
    }
    advice
}

fn facts(config: &RlConfig, rows: &[RlRow]) -> RowFacts {
    let interactions = rows.iter().flat_map(|row| row.history.iter().chain(&row.stage_targets).chain(&row.targets));
    let tasks: BTreeSet<String> = interactions.filter_map(|i| i.task.clone()).collect();
    RowFacts {
        transfer: config.reward.transfer_per_stage > 0
            && rows.iter().any(|row| row.transfer.iter().any(|target| target.rejected.is_some())),
        references: rows.iter().any(|row| !row.references.is_empty()),
        tasks,
    }
}

#[cfg(test)]
mod tests {
    use chat::Interaction;
    use rewards::Registry;

    use super::*;
    use crate::parts;

    const BASE: &str = "[model]\npath='p'\n[data]\ntrain='r'\n[rollout]\nusers_per_step=2\n";
    const ONE: &str = "[judge.model]\npath='j'\n";
    const TWO: &str = "[[judges]]\nname='near'\njudge.model.path='j'\n\
                       [[judges]]\nname='far'\nweight=0\njudge.endpoint={url='http://h:1/v1', model='m'}\njudge.prompts='plain'\n";

    fn loaded(judges: &str, terms: &str, set: &[&str]) -> (RlConfig, Composition) {
        let set: Vec<String> = set.iter().map(ToString::to_string).chain([format!("reward.terms=[{terms}]")]).collect();
        let config: RlConfig = configs::parse("my.toml", &format!("{BASE}{judges}"), &set).unwrap();
        let composition = parts::composition(&config.reward, &Registry::default()).unwrap();
        (config, composition)
    }

    #[test]
    fn a_term_may_ask_only_judges_that_are_configured_and_can_answer() {
        let refused = |judges: &str, terms: &str| {
            let (config, composition) = loaded(judges, terms, &[]);
            check(&config, &composition).err().map(|e| e.to_string())
        };
        let cross = "{name='judge'}, {name='cross_judge', params={judge='far'}}";
        assert_eq!(refused(TWO, cross), None);
        let unknown = refused(ONE, cross).unwrap();
        assert!(unknown.contains("`cross_judge`: no judge is named `far`; known judges: judge"), "{unknown}");
        // The panel is the near judge; the far one has weight 0.
        assert_eq!(refused(TWO, "{name='response_likelihood'}"), None);
        let far = refused(TWO, "{name='response_likelihood', params={judge='far'}}").unwrap();
        assert!(far.contains("judge `far` is at an endpoint (judges[1].judge.endpoint)"), "{far}");
    }

    #[test]
    fn the_rows_and_the_length_of_the_run_are_part_of_the_advice() {
        let item = |task: Option<&str>| Interaction {
            chosen: "a".into(),
            rejected: Some("b".into()),
            task: task.map(str::to_owned),
            ..Interaction::default()
        };
        let row = RlRow {
            uid: "u".into(),
            history: vec![item(None), item(Some("news")), item(None), item(None)],
            mid_position: 1,
            distance_to_end: 2,
            ..RlRow::default()
        };
        let terms = "{name='judge', task_weights={news=2.0, shop=3.0}}, {name='cross_task'}, {name='teacher_similarity'}, \
                     {name='format', schedule={kind='linear', begin=4, steps=9}}";
        let said = |set: &[&str], rows: Option<&[RlRow]>| {
            let (config, composition) = loaded(ONE, terms, set);
            advice(&config, &composition, rows).join("\n")
        };
        // Without rows and a number of steps, nothing is known.
        assert_eq!(said(&[], None), "");
        let with_rows = said(&["train.epochs=9"], Some(std::slice::from_ref(&row)));
        for words in
            ["`judge`: task_weights.shop", "`cross_task`: it needs `transfer`", "`teacher_similarity`: it needs"]
        {
            assert!(with_rows.contains(words), "{words}: {with_rows}");
        }
        assert!(!with_rows.contains("task_weights.news") && !with_rows.contains("`format`"), "{with_rows}");
        // One user for one epoch is one step, and the schedule begins later.
        assert!(said(&[], Some(std::slice::from_ref(&row))).contains("`format`: its weight is 0"));
        assert!(said(&["train.steps=4"], None).contains("`format`: its weight is 0"));
        let full = RlRow { transfer: vec![item(None)], references: vec!["Likes a.".into()], ..row };
        let text = said(&["train.epochs=9"], Some(std::slice::from_ref(&full)));
        assert!(!text.contains("cross_task") && !text.contains("teacher_similarity"), "{text}");
        assert!(said(&["reward.transfer_per_stage=0"], Some(&[full])).contains("`cross_task`: it needs `transfer`"));
    }
    #[test]
    fn judges_that_nobody_asks_and_an_unused_epsilon_are_named() {
        let said = |judges: &str, terms: &str, set: &[&str]| {
            let (config, composition) = loaded(judges, terms, set);
            advice(&config, &composition, None).join("\n")
        };
        let unasked = "judge `far` has weight 0, and no reward term or alarm names it";
        assert!(said(TWO, "{name='judge'}", &[]).contains(unasked));
        assert_eq!(said(TWO, "{name='judge'}, {name='cross_judge', params={judge='far'}}", &[]), "");
        let alarm = ["alarm.judge=far", "validation.every=1"];
        assert_eq!(said(TWO, "{name='judge'}", &alarm), "");
        assert!(said(ONE, "{name='cross_judge'}", &[]).contains("the panel has one"));
        let eps = ["reward.normalize_eps=0.1", "reward.malformed=minimum", "reward.carry_baseline=0"];
        assert!(said(ONE, "{name='judge'}", &eps).contains("reward.normalize_eps is 0.1"));
        assert_eq!(said(ONE, "{name='judge', normalize='group'}", &eps), "");
        assert!(said(ONE, "{name='judge', normalize='group'}", &[]).contains("set carry_baseline = 0"));
        assert!(said(ONE, "{name='retention'}", &[]).contains("rollout.reread_target = false"));
    }

    #[test]
    fn only_rows_of_interactions_read_a_target_again() {
        let (config, composition) = loaded(ONE, "{name='retention'}", &["train.epochs=9"]);
        let said = |rows: &[RlRow]| advice(&config, &composition, Some(rows)).join("\n");
        let (of_messages, of_interactions) = (fixtures::policy::message_rows(2), fixtures::policy::rows(2));
        let words = "rollout.reread_target = false";
        assert!(!said(&of_messages).contains(words));
        assert!(said(&of_interactions).contains(words));
        assert!(said(&[of_messages, of_interactions].concat()).contains(words));
    }
}
