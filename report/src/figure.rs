//! The figure of a run: the accuracies reached, and the reward over the steps of RL.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::bars::{self, BarGroup};
use crate::canvas::{self, Area, Size, failed, px, text_style};
use crate::error::ReportError;
use crate::lines::{self, Curve, Form};
use crate::palette::{self, INK, MUTED};
use configs::eval::Setting;
use evals::TargetKind;

use crate::records::{JudgeRole, Model};
use crate::run::RunRecord;

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 360.0;
/// The x position where the right half starts, in pixels.
const MIDDLE: f64 = 545.0;
/// The y position where the charts start, below title, legend and note, in pixels.
const TOP: f64 = 58.0;

/// Draws the figure.
pub(crate) fn svg(run: &RunRecord) -> Result<String, ReportError> {
    let groups = accuracies(run)?;
    let reward = reward(run)?;
    let mut models: Vec<Model> = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.model).collect();
    models.sort_unstable();
    models.dedup();
    canvas::svg((WIDTH, HEIGHT), Size::Fixed, |area| {
        area.fill(&WHITE).map_err(failed)?;
        let (left, right) = area.split_horizontally(px(MIDDLE));
        title(&left, 14.0, "Judge accuracy on held-out users, %")?;
        let entries: Vec<_> = models.iter().map(|model| (model.label(), palette::model(*model))).collect();
        canvas::legend(&left, (15.0, 46.0), &entries)?;
        note(&left, (MIDDLE - 46.0, 46.0), "whiskers: 95 % intervals")?;
        bars::draw(&left.margin(px(TOP), 0, 0, 0), &groups, 1)?;
        title(&right, 26.0, "Mean reward over RL steps")?;
        let (key, color) = (reward.label.as_str(), reward.color);
        canvas::legend(&right, (27.0, 46.0), &[(key, color)])?;
        note(&right, (WIDTH - MIDDLE - 14.0, 46.0), "faint: each step; strong: running mean")?;
        lines::draw(&right.margin(px(TOP), px(4.0), 0, 0), &[reward], Form::Lines)
    })
}

/// Draws the title of a chart.
pub(crate) fn title(area: &Area<'_>, left: f64, text: &str) -> Result<(), ReportError> {
    let style = text_style(15.0, INK, HPos::Left, VPos::Center);
    area.draw(&Text::new(text.to_owned(), (px(left), px(20.0)), style)).map_err(failed)
}

/// Draws a note that ends at `right`.
pub(crate) fn note(area: &Area<'_>, (right, y): (f64, f64), text: &str) -> Result<(), ReportError> {
    let style = text_style(11.0, MUTED, HPos::Right, VPos::Center);
    area.draw(&Text::new(text.to_owned(), (px(right), px(y)), style)).map_err(failed)
}

/// Returns the bars on the left.
fn accuracies(run: &RunRecord) -> Result<Vec<BarGroup>, ReportError> {
    let mut groups =
        bars::groups(&run.eval, TargetKind::InDomain, JudgeRole::Training, &[Setting::Full, Setting::Streaming]);
    for group in &mut groups {
        group.bars.retain(|bar| bar.model != Model::Random);
    }
    groups.retain(|group| !group.bars.is_empty());
    let lacking = "eval.json needs rows with targets \"in_domain\", judge \"training\" and setting \"full\" or \
                   \"streaming\"; run the evaluation first";
    if groups.is_empty() { Err(ReportError::NoPicture { path: run.path.clone(), lacking }) } else { Ok(groups) }
}

/// Returns the curve on the right: the total reward, or the judge's reward if no total was logged.
fn reward(run: &RunRecord) -> Result<Curve, ReportError> {
    let keys = ["reward/total", "reward/judge"];
    let found = run.phases.iter().find_map(|phase| keys.iter().find_map(|key| Some((*key, phase.points(key)?))));
    let lacking = "metrics.jsonl needs `reward/total` or `reward/judge`; run reinforcement learning first";
    let (key, points) = found.ok_or_else(|| ReportError::NoPicture { path: run.path.clone(), lacking })?;
    Ok(Curve { label: key.into(), color: palette::model(Model::Rl), points: points.to_vec() })
}
