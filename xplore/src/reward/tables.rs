//! Rewards as text.

use data_synth::histogram::Histogram;
use evals::table::{finish, start};
use trainer::grpo::term_gradients::GradientSimilarity;

use super::OfflineRewards;
use super::compare::Difference;
use super::scored::{Scored, ScoredResponse};

/// Number of intervals of a histogram.
const BINS: usize = 10;

/// Maximum length of a bar of a histogram, in characters.
const BAR: usize = 40;

/// Decimals of the bounds of an interval.
const DECIMALS: usize = 3;

/// Returns the statistics of the terms, the rank correlations, and the first `list` responses with all terms.
pub fn rewards(found: &OfflineRewards, list: usize) -> String {
    let scored = &found.scored;
    let formed = scored.responses.iter().filter(|r| r.well_formed).count();
    let (zero_variance, groups) = scored.zero_variance();
    let verdicts = if found.recorded_verdicts { "as recorded" } else { "asked now" };
    let mut sections = vec![
        format!(
            "{groups} groups, {zero_variance} with zero variance; {} responses, {formed} well-formed; verdicts {verdicts}",
            scored.responses.len()
        ),
        columns(scored),
        correlations(scored),
    ];
    if list > 0 {
        sections.push(responses(scored, list));
    }
    sections.join("\n\n") + "\n"
}

fn columns(scored: &Scored) -> String {
    let header = ["term", "mean", "std", "min", "max", "adds", "constant groups"].map(str::to_owned);
    let row = |s: super::scored::ColumnSummary| {
        let numbers = [s.mean, s.std, s.min, s.max, s.part].map(|value| format!("{value:.4}"));
        [vec![s.name], numbers.into(), vec![s.constant_groups.to_string()]].concat()
    };
    aligned(header.into(), scored.summaries().into_iter().map(row))
}

fn correlations(scored: &Scored) -> String {
    let found = scored.correlations();
    let matrix = |title: &str, cells: &[Vec<Option<f64>>]| format!("{title}\n{}", square(&found.names, cells));
    let overall =
        matrix("Spearman rank correlation over all responses (– if one of the two is constant)", &found.overall);
    let within = matrix("Spearman rank correlation within groups (mean)", &found.within_groups);
    format!("{overall}\n\n{within}")
}

fn responses(scored: &Scored, list: usize) -> String {
    let mut header = ["step", "group", "sample", "stage", "uid"].map(str::to_owned).to_vec();
    header.extend(scored.names.iter().cloned());
    header.extend(["reward", "credited", "advantage"].map(str::to_owned));
    let row = |r: &ScoredResponse| {
        let places =
            [r.step.to_string(), r.group.to_string(), r.sample.to_string(), (r.stage + 1).to_string(), r.uid.clone()];
        let total = if r.well_formed { format!("{:.4}", r.total) } else { format!("{:.4} (malformed)", r.total) };
        let rest = [total, format!("{:.4}", r.credited), format!("{:+.4}", r.advantage)];
        let scores: Vec<String> = r.scores.iter().map(|score| format!("{score:.4}")).collect();
        [places.to_vec(), scores, rest.to_vec()].concat()
    };
    let shown = scored.responses.iter().take(list).map(row);
    let table = aligned(header, shown);
    match scored.responses.len().saturating_sub(list) {
        0 => table,
        more => format!("{table}\n({more} more responses: --list {} or --json)", scored.responses.len()),
    }
}

/// Returns a histogram of each term, of the reward and of the advantages.
pub fn histograms(scored: &Scored) -> String {
    let advantages = ("advantage".to_owned(), scored.responses.iter().map(|r| r.advantage).collect());
    let drawn = scored.columns().into_iter().chain([advantages]).filter_map(|(name, values): (String, Vec<f64>)| {
        Some(format!("{name}\n{}\n", Histogram::new(&values, BINS)?.lines(BAR, DECIMALS).join("\n")))
    });
    drawn.collect::<Vec<_>>().join("\n")
}

/// Returns how two rewards differ; `first` and `second` are their names.
pub fn difference(found: &Difference, first: &str, second: &str) -> String {
    let share = |part: usize, all: usize| if all == 0 { 0.0 } else { 100.0 * part as f64 / all as f64 };
    let lines = [
        format!("{first} against {second}: {} groups", found.groups),
        format!(
            "  rank flips     {} of {} pairs that both tell apart ({:.1} %)",
            found.flips,
            found.pairs,
            share(found.flips, found.pairs)
        ),
        format!("  best response  differs in {} groups", found.best_differs),
        format!(
            "  signal         {} groups lose it (zero variance under {second}), {} gain it",
            found.lose_signal, found.gain_signal
        ),
        format!("  advantages     {} responses with opposite signs", found.opposite_advantages),
    ];
    let mut text = lines.join("\n") + "\n";
    if !found.different.is_empty() {
        let header = ["step", "group", "stage", "uid", "flips", "pairs", "best", "signal"].map(str::to_owned).to_vec();
        let row = |g: &super::compare::GroupDifference| {
            let signal = match (g.loses_signal, g.gains_signal) {
                (true, _) => "lost",
                (_, true) => "gained",
                _ => "both",
            };
            let best = if g.best_differs { "differs" } else { "same" };
            let [step, group, stage] = [g.step.to_string(), g.group.to_string(), (g.stage + 1).to_string()];
            let [flips, pairs] = [g.flips, g.pairs].map(|count| count.to_string());
            vec![step, group, stage, g.uid.clone(), flips, pairs, best.into(), signal.into()]
        };
        text += "\n";
        text += &aligned(header, found.different.iter().map(row));
        text += "\n";
    }
    text
}

/// Returns the norms of the terms' gradients, and the cosines between them.
pub fn gradient_similarity(found: &GradientSimilarity) -> String {
    let header = vec!["gradient".to_owned(), "norm".into()];
    let norms = found.names.iter().zip(&found.norms).map(|(name, norm)| vec![name.clone(), format!("{norm:.4e}")]);
    format!(
        "{}\n\nCosine between the gradients (– if one of the two is 0)\n{}\n({} passes over the samples)\n",
        aligned(header, norms),
        square(&found.names, &found.cosines),
        found.passes
    )
}

/// Returns a square matrix with the names of its rows and columns.
fn square(names: &[String], cells: &[Vec<Option<f64>>]) -> String {
    let header = std::iter::once(String::new()).chain(names.iter().cloned()).collect();
    let row = |(name, values): (&String, &Vec<Option<f64>>)| -> Vec<String> {
        let values = values.iter().map(|value| value.map_or("–".to_owned(), |value| format!("{value:+.3}")));
        std::iter::once(name.clone()).chain(values).collect()
    };
    aligned(header, names.iter().zip(cells).map(row))
}

/// Returns a table whose first column is aligned to the left and whose other columns are aligned to the right.
fn aligned(header: Vec<String>, rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = start(header);
    for row in rows {
        table.add_row(row);
    }
    finish(table, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_of_nothing_have_no_direction() {
        let names = vec!["judge".to_owned(), "format".into()];
        let cosines = vec![vec![Some(1.0), None], vec![None, None]];
        let text = gradient_similarity(&GradientSimilarity { names, norms: vec![2.0, 0.0], cosines, passes: 1 });
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        for words in [["judge", "2.0000e0"].as_slice(), &["format", "0.0000e0"], &["judge", "+1.000", "–"]] {
            assert!(lines.iter().any(|line| line == words), "{words:?} is missing in\n{text}");
        }
        assert!(text.contains("(1 passes"), "{text}");
    }
}
