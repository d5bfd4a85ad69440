//! Statistics as text for a terminal, and as a page.

use std::collections::BTreeMap;

use report::{DataHistogram, DataPage, DataSection, ReportError, ReportTable};

use super::{Distribution, FileStats, Stats, StepCounts};

/// The number of names of a group that are listed.
const LISTED: usize = 12;

/// The characters of a line beside its bar: margin, bounds and count.
const BESIDE_BAR: usize = 36;

impl Stats {
    /// Returns the statistics as text with lines of about `width` characters.
    pub fn text(&self, width: usize) -> String {
        let bar = width.saturating_sub(BESIDE_BAR).clamp(8, 60);
        let files = self.files.iter().map(|file| file_text(file, bar));
        files.chain(self.steps.iter().map(step_text)).collect::<Vec<_>>().join("\n")
    }

    /// Returns the statistics as a self-contained HTML page.
    ///
    /// # Errors
    /// Returns [`ReportError::Template`] if the template does not render.
    pub fn html(&self) -> Result<String, ReportError> {
        let sections = self.files.iter().map(file_section).chain(self.steps.iter().map(step_section)).collect();
        report::data_html(&DataPage { title: "Data".into(), sections })
    }
}

/// Formats a number: counts whole, others with three decimals.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// Returns the facts of a file, as name and value.
fn facts(file: &FileStats) -> Vec<(&'static str, String)> {
    let mut facts = vec![("rows", file.rows.to_string())];
    facts.extend(file.users.map(|users| ("users", users.to_string())));
    facts.extend(file.query_share.map(|share| ("choices with a query", percent(share))));
    facts.extend(file.rejected_share.map(|share| ("choices with a rejected item", percent(share))));
    facts
}

/// Returns the names of a group with their counts, the most frequent first, and the number of names left out.
fn frequent(names: &BTreeMap<String, usize>) -> (Vec<(&str, usize)>, usize) {
    let mut sorted: Vec<(&str, usize)> = names.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    sorted.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let left_out = sorted.len().saturating_sub(LISTED);
    sorted.truncate(LISTED);
    (sorted, left_out)
}

fn file_text(file: &FileStats, bar: usize) -> String {
    let mut text = format!("{} ({})\n", file.path.display(), file.kind.plural());
    let facts: Vec<String> = facts(file).into_iter().map(|(name, value)| format!("{name} {value}")).collect();
    text += &format!("  {}\n", facts.join(", "));
    for (group, names) in &file.counts {
        let (listed, left_out) = frequent(names);
        let listed: Vec<String> = listed.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
        let more = if left_out > 0 { format!(", and {left_out} more") } else { String::new() };
        text += &format!("  {group}: {}{more}\n", listed.join(", "));
    }
    for found in &file.distributions {
        text += &format!("\n  {}: {}\n", found.name, summary(found));
        found.histogram.lines(bar, found.decimals()).iter().for_each(|line| text += &format!("    {line}\n"));
    }
    text
}

/// Returns quantiles and mean on one line.
fn summary(found: &Distribution) -> String {
    let [least, lower, median, upper, most] = found.quantiles.map(number);
    let mean = number(found.mean);
    format!("{} values, min {least}, quartiles {lower}, {median}, {upper}, max {most}, mean {mean}", found.values)
}

fn step_text(step: &StepCounts) -> String {
    let width = step.counts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = step.counts.iter().map(|(name, count)| format!("  {name:<width$}  {}\n", number(*count)));
    format!("{}\n{}", step.path.display(), lines.collect::<String>())
}

fn table(title: &str, header: [&str; 2], rows: Vec<Vec<String>>) -> ReportTable {
    ReportTable { title: title.into(), note: String::new(), header: header.map(str::to_owned).into(), rows }
}

fn file_section(file: &FileStats) -> DataSection {
    let facts = facts(file).into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let mut tables = vec![table("Counts", ["count", "value"], facts)];
    for (group, names) in &file.counts {
        let (listed, left_out) = frequent(names);
        let mut rows: Vec<Vec<String>> =
            listed.into_iter().map(|(name, count)| vec![name.to_owned(), count.to_string()]).collect();
        if left_out > 0 {
            rows.push(vec![format!("{left_out} more"), String::new()]);
        }
        tables.push(table(group, ["name", "number"], rows));
    }
    let quantiles = |found: &Distribution| {
        let cells = found.quantiles.map(number);
        [vec![found.name.clone(), found.values.to_string()], cells.to_vec(), vec![number(found.mean)]].concat()
    };
    tables.push(ReportTable {
        title: "Distributions".into(),
        note: String::new(),
        header: ["of", "values", "min", "25 %", "median", "75 %", "max", "mean"].map(str::to_owned).into(),
        rows: file.distributions.iter().map(quantiles).collect(),
    });
    let histogram = |found: &Distribution| DataHistogram {
        title: found.name.clone(),
        counts: found.histogram.labels(found.decimals()),
    };
    DataSection {
        title: format!("{} ({})", file.path.display(), file.kind.plural()),
        tables,
        histograms: file.distributions.iter().map(histogram).collect(),
    }
}

fn step_section(step: &StepCounts) -> DataSection {
    let rows = step.counts.iter().map(|(name, count)| vec![name.clone(), number(*count)]).collect();
    DataSection {
        title: step.path.display().to_string(),
        tables: vec![table("Counts", ["count", "number"], rows)],
        histograms: Vec::new(),
    }
}
