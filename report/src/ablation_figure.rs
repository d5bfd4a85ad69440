//! The figure of an ablation: accuracies by the held-out judges, and how often the reward's judges were right over the steps.

use evals::TargetKind;
use evals::ablation::AccuracyRow;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::axes::{self, ticks};
use crate::canvas::{self, Area, Size, failed, px, stroke, text_style};
use crate::error::ReportError;
use crate::figure::{note, title};
use crate::lines::{self, Curve, Form};
use crate::palette::{self, GRID, INK, MUTED};
use crate::records::setting_label;
use crate::run::RunRecord;

const WIDTH: f64 = 960.0;
/// The x position where the right half starts, in pixels.
const MIDDLE: f64 = 520.0;
/// The y position where the charts start, in pixels.
const TOP: f64 = 58.0;
/// The width of the names of the variants, in pixels.
const NAMES: f64 = 150.0;
/// The height of a variant, in pixels.
const ROW: f64 = 34.0;
/// The curves on the right.
const CURVE: &str = "pass_rate";

/// A dot with its interval, in percent.
struct Dot {
    value: f64,
    ends: Option<(f64, f64)>,
    targets: TargetKind,
}

/// The dots of a variant.
struct Row<'a> {
    name: &'a str,
    color: RGBColor,
    dots: Vec<Dot>,
}

/// Draws the figure. The dots are those of the first setting and, if there are several held-out judges, of the first one.
pub(crate) fn svg(accuracies: &[AccuracyRow], runs: &[RunRecord]) -> Result<Option<String>, ReportError> {
    let Some(first) = accuracies.iter().find(|row| row.held_out) else { return Ok(None) };
    let shown = |row: &&AccuracyRow| row.setting == first.setting && row.judge == first.judge;
    let color = |name: &str| runs.iter().position(|run| run.name == name).map_or(MUTED, palette::series);
    let mut rows: Vec<Row<'_>> = Vec::new();
    for accuracy in accuracies.iter().filter(shown) {
        if rows.last().is_none_or(|row| row.name != accuracy.variant) {
            rows.push(Row { name: &accuracy.variant, color: color(&accuracy.variant), dots: Vec::new() });
        }
        let found = &accuracy.accuracy;
        let ends = found.over_both.map(|range| (100.0 * range.low, 100.0 * range.high));
        let dot = Dot { value: 100.0 * found.mean, ends, targets: accuracy.targets };
        if let Some(row) = rows.last_mut() {
            row.dots.push(dot);
        }
    }
    let height = (TOP + 40.0 + ROW * rows.len() as f64).max(300.0);
    canvas::svg((WIDTH, height), Size::Fixed, |area| {
        area.fill(&WHITE).map_err(failed)?;
        let (left, right) = area.split_horizontally(px(MIDDLE));
        let heading = format!("Accuracy by the held-out judge `{}` ({}), %", first.judge, setting_label(first.setting));
        title(&left, 14.0, &heading)?;
        note(&left, (MIDDLE - 30.0, 46.0), "filled: in-domain, open: transfer; whiskers: 95 % over users and seeds")?;
        accuracy_chart(&left.margin(px(TOP), 0, 0, 0), &rows)?;
        title(&right, 26.0, "Pass rate over RL steps, mean over seeds")?;
        note(&right, (WIDTH - MIDDLE - 14.0, 46.0), "colors as on the left; faint: each step")?;
        lines::draw(&right.margin(px(TOP), px(4.0), 0, 0), &pass_rates(runs), Form::Lines)
    })
    .map(Some)
}

/// Returns the curves of the variants that have one.
fn pass_rates(runs: &[RunRecord]) -> Vec<Curve> {
    let curve = |(index, run): (usize, &RunRecord)| {
        let points = run.phases.iter().find_map(|phase| phase.points(CURVE))?;
        Some(Curve { label: run.name.clone(), color: palette::series(index), points: points.to_vec() })
    };
    runs.iter().enumerate().filter_map(curve).collect()
}

/// Draws one line for each variant, the first one at the top.
fn accuracy_chart(area: &Area<'_>, rows: &[Row<'_>]) -> Result<(), ReportError> {
    let dots = || rows.iter().flat_map(|row| &row.dots);
    let low = dots().map(|dot| dot.ends.map_or(dot.value, |ends| ends.0)).fold(f64::INFINITY, f64::min);
    let high = dots().map(|dot| dot.ends.map_or(dot.value, |ends| ends.1)).fold(f64::NEG_INFINITY, f64::max);
    let count = rows.len() as f64;
    let chart = ChartBuilder::on(area)
        .margin_right(px(30.0))
        .x_label_area_size(px(24.0))
        .y_label_area_size(px(NAMES))
        .build_cartesian_2d((low - 1.0).floor()..(high + 1.0).ceil(), 0.0..count)
        .map_err(failed)?;
    axes::draw(area, &chart, &ticks(chart.x_range().start, chart.x_range().end, 6.0, true), &[])?;
    let at = |x: f64, y: f64| axes::place(area, &chart, x, y);
    for (index, row) in rows.iter().enumerate() {
        let middle = count - index as f64 - 0.5;
        let (start, end) = (at(chart.x_range().start, middle), at(chart.x_range().end, middle));
        area.draw(&PathElement::new([start, end], stroke(GRID, 1.0, 1.0))).map_err(failed)?;
        let style = text_style(12.0, INK, HPos::Right, VPos::Center);
        area.draw(&Text::new(row.name.to_owned(), (start.0 - px(10.0), start.1), style)).map_err(failed)?;
        for dot in &row.dots {
            let open = dot.targets == TargetKind::Transfer;
            let height = middle + if open { -0.16 } else { 0.16 };
            if let Some((low, high)) = dot.ends {
                let whisker = [at(low, height), at(high, height)];
                area.draw(&PathElement::new(whisker, stroke(row.color, 0.85, 1.25))).map_err(failed)?;
            }
            let place = at(dot.value, height);
            area.draw(&Circle::new(place, px(4.5), row.color.filled())).map_err(failed)?;
            if open {
                area.draw(&Circle::new(place, px(3.0), WHITE.filled())).map_err(failed)?;
            }
        }
    }
    Ok(())
}
