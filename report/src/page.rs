//! The HTML page: the data passed to the template.

use minijinja::{Environment, UndefinedBehavior};
use serde::Serialize;

use crate::bars;
use crate::curves::{self, Chart, Key};
use crate::error::ReportError;
use crate::palette;
use crate::prompts::PromptUse;
use crate::records::{Model, targets_label};
use crate::run::{Missing, RunRecord};
use crate::sentences::{self, ExamplePart};
use crate::tables::{self, EvalTable, GainLine, Headline, PANELS, SETTINGS};

/// The data of the template.
#[derive(Serialize)]
struct Page<'a> {
    /// Whether there are several runs to distinguish.
    several: bool,
    runs: Vec<RunPart<'a>>,
    rl: Vec<PhasePart>,
    /// One part for all supervised phases, since each has few charts.
    supervised: PhasePart,
    ink: String,
    muted: String,
    grid: String,
}

/// The parts of the page that occur once per run.
#[derive(Serialize)]
struct RunPart<'a> {
    name: &'a str,
    missing: &'a [Missing],
    headlines: Vec<Headline>,
    eval: Option<EvalPart>,
    gains: Vec<GainLine>,
    examples: Vec<ExamplePart<'a>>,
    /// Whether `explain.json` shades examples.
    explained: bool,
    config: Option<&'a str>,
    prompts: &'a [PromptUse],
    /// One for each model that was trained on another wording.
    warnings: Vec<String>,
}

/// The evaluation of one run.
#[derive(Serialize)]
struct EvalPart {
    legend: Vec<Key>,
    panels: Vec<Chart>,
    table: EvalTable,
}

/// The curves of one phase, or of several.
#[derive(Default, Serialize)]
pub(crate) struct PhasePart {
    pub title: String,
    pub main: Vec<Chart>,
    pub more: Vec<Chart>,
}

/// Renders the template.
pub(crate) fn html(runs: &[RunRecord]) -> Result<String, ReportError> {
    let mut page = Page {
        several: runs.len() > 1,
        runs: runs.iter().map(run_part).collect::<Result<_, _>>()?,
        rl: Vec::new(),
        supervised: PhasePart::default(),
        ink: palette::hex(palette::INK),
        muted: palette::hex(palette::MUTED),
        grid: palette::hex(palette::GRID),
    };
    for (name, is_rl) in curves::phases(runs) {
        let title = curves::phase_title(&name);
        let (main, more): (Vec<_>, Vec<_>) = curves::charts(runs, &name)?.into_iter().partition(|chart| chart.main);
        if is_rl {
            page.rl.push(PhasePart { title, main, more });
            continue;
        }
        let named = |mut chart: Chart| {
            chart.title = format!("{title}: {}", chart.title.to_lowercase());
            chart
        };
        page.supervised.main.extend(main.into_iter().map(named));
        page.supervised.more.extend(more.into_iter().map(named));
    }
    Ok(templates()?.get_template("report.html")?.render(page)?)
}

/// Returns the templates of all pages.
pub(crate) fn templates() -> Result<Environment<'static>, ReportError> {
    let mut templates = Environment::new();
    templates.set_undefined_behavior(UndefinedBehavior::Strict);
    templates.set_trim_blocks(true);
    templates.set_lstrip_blocks(true);
    // Escaping depends on the extension: on for .html, off for .css.
    templates.add_template("report.html", include_str!("../templates/report.html"))?;
    templates.add_template("explain.html", include_str!("../templates/explain.html"))?;
    templates.add_template("ablation.html", include_str!("../templates/ablation.html"))?;
    templates.add_template("page.html", include_str!("../templates/page.html"))?;
    templates.add_template("macros.html", include_str!("../templates/macros.html"))?;
    templates.add_template("data.html", include_str!("../templates/data.html"))?;
    templates.add_template("report.css", include_str!("../templates/report.css"))?;
    Ok(templates)
}

fn run_part(run: &RunRecord) -> Result<RunPart<'_>, ReportError> {
    Ok(RunPart {
        name: &run.name,
        missing: &run.missing,
        headlines: tables::headlines(&run.eval, &run.gains),
        eval: if run.eval.is_empty() { None } else { Some(eval_part(run)?) },
        gains: tables::gains(&run.gains),
        examples: sentences::examples(&run.examples, &run.explained),
        explained: !run.explained.is_empty(),
        config: run.config.as_deref(),
        prompts: &run.prompts,
        warnings: run.prompts.iter().filter_map(PromptUse::warning).collect(),
    })
}

fn eval_part(run: &RunRecord) -> Result<EvalPart, ReportError> {
    let mut models: Vec<Model> = run.eval.iter().map(|row| row.model).collect();
    models.sort_unstable();
    models.dedup();
    let key = |model: &Model| Key { label: model.label().into(), color: palette::hex(palette::model(*model)) };
    let mut panels = Vec::new();
    for (targets, judge) in PANELS {
        let groups = bars::groups(&run.eval, targets, judge, &SETTINGS);
        if !groups.is_empty() {
            let title = format!("{}, {}", targets_label(targets), judge.label());
            panels.push(Chart { title, unit: "%", legend: Vec::new(), svg: bars::chart(&groups)?, main: true });
        }
    }
    Ok(EvalPart { legend: models.iter().map(key).collect(), panels, table: tables::eval(&run.eval) })
}
