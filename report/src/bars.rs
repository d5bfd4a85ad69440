//! Grouped bars of accuracies with 95 % whiskers. Bars start at the chance line, so their height shows what was
//! learned.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use crate::axes::{self, ticks};
use crate::canvas::{Area, Size, failed, px, stroke, svg, text_style};
use crate::error::ReportError;
use crate::palette::{self, INK, MUTED};
use configs::eval::Setting;
use evals::TargetKind;

use crate::records::{AccuracyRow, JudgeRole, Model, setting_label};

/// The accuracy of chance, in percent.
const CHANCE: f64 = 50.0;

/// Adjacent bars with a common label below.
pub(crate) struct BarGroup {
    /// The label.
    pub label: &'static str,
    /// The bars, in order.
    pub bars: Vec<Bar>,
}

/// One accuracy with its interval, in percent.
#[derive(Clone, Copy)]
pub(crate) struct Bar {
    /// The model.
    pub model: Model,
    /// The accuracy.
    pub value: f64,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

/// Returns the bars of one panel: one group per setting, one bar per model.
pub(crate) fn groups(
    rows: &[AccuracyRow],
    targets: TargetKind,
    judge: JudgeRole,
    settings: &[Setting],
) -> Vec<BarGroup> {
    let group = |setting: &Setting| {
        let here = rows.iter().filter(|row| (row.targets, row.judge, row.setting) == (targets, judge, *setting));
        let mut bars: Vec<Bar> = here
            .map(|row| Bar {
                model: row.model,
                value: 100.0 * row.accuracy,
                low: 100.0 * row.ci_low,
                high: 100.0 * row.ci_high,
            })
            .collect();
        bars.sort_by_key(|bar| bar.model);
        BarGroup { label: setting_label(*setting), bars }
    };
    settings.iter().map(group).filter(|group| !group.bars.is_empty()).collect()
}

/// Renders a chart as an `<svg>` for the page.
pub(crate) fn chart(groups: &[BarGroup]) -> Result<String, ReportError> {
    svg((460.0, 270.0), Size::Fluid, |area| draw(area, groups, 0))
}

/// Draws axis, chance line, bars, whiskers and values (with `decimals` decimals) into an area.
pub(crate) fn draw(area: &Area<'_>, groups: &[BarGroup], decimals: usize) -> Result<(), ReportError> {
    const GAP: f64 = 0.9;
    let slots: f64 = groups.iter().map(|group| group.bars.len() as f64 + GAP).sum();
    // Few bars stay slim and centered.
    let air = (9.0 - slots).max(0.0) / 2.0;
    let lowest = groups.iter().flat_map(|group| &group.bars).map(|bar| bar.low.min(bar.value)).fold(40.0, f64::min);
    let floor = (lowest / 10.0).floor() * 10.0;
    let chart = ChartBuilder::on(area)
        .margin_top(px(14.0))
        .margin_right(px(46.0))
        .x_label_area_size(px(24.0))
        .y_label_area_size(px(34.0))
        .build_cartesian_2d(-air..slots + air, floor..100.0)
        .map_err(failed)?;
    axes::draw(area, &chart, &[], &ticks(floor, 100.0, 6.0, true))?;

    let at = |x: f64, y: f64| axes::place(area, &chart, x, y);
    let line = |from: (f64, f64), to: (f64, f64), style: ShapeStyle| {
        area.draw(&PathElement::new([at(from.0, from.1), at(to.0, to.1)], style)).map_err(failed)
    };
    let write = |text: &str, place: (i32, i32), style: TextStyle<'_>| {
        area.draw(&Text::new(text.to_owned(), place, style)).map_err(failed)
    };
    let mut left = GAP / 2.0;
    for group in groups {
        let width = group.bars.len() as f64;
        let (x, y) = at(left + width / 2.0, floor);
        write(group.label, (x, y + px(7.0)), text_style(12.0, INK, HPos::Center, VPos::Top))?;
        for (index, bar) in group.bars.iter().enumerate() {
            let middle = left + index as f64 + 0.5;
            let corners = [at(middle - 0.42, bar.value), at(middle + 0.42, CHANCE)];
            area.draw(&Rectangle::new(corners, palette::model(bar.model).filled())).map_err(failed)?;
            let whisker = stroke(INK, 0.85, 1.25);
            line((middle, bar.low), (middle, bar.high), whisker)?;
            for end in [bar.low, bar.high] {
                line((middle - 0.13, end), (middle + 0.13, end), whisker)?;
            }
            let (x, y) = at(middle, bar.high.max(CHANCE));
            let value = format!("{:.decimals$}", bar.value);
            write(&value, (x, y - px(3.0)), text_style(10.5, INK, HPos::Center, VPos::Bottom))?;
        }
        left += width + GAP;
    }
    line((-air, CHANCE), (slots + air, CHANCE), stroke(INK, 0.85, 1.0))?;
    let (x, y) = at(slots + air, CHANCE);
    write("chance", (x + px(4.0), y), text_style(11.0, MUTED, HPos::Left, VPos::Center))
}
