//! The page of data files: tables and histograms.

use serde::{Serialize, Serializer};

use crate::ReportTable;
use crate::error::ReportError;
use crate::page;
use crate::palette;

/// The page of data files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DataPage {
    /// The title.
    pub title: String,
    /// The sections, in order.
    pub sections: Vec<DataSection>,
}

/// A section of a page: one file, or one step of a pipeline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DataSection {
    /// The title.
    pub title: String,
    /// The tables.
    pub tables: Vec<ReportTable>,
    /// The histograms, below the tables.
    pub histograms: Vec<DataHistogram>,
}

/// A histogram. It is serialized with the length of each bar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataHistogram {
    /// The title.
    pub title: String,
    /// The label and the count of each interval.
    pub counts: Vec<(String, usize)>,
}

/// The data of the template.
#[derive(Serialize)]
struct Page<'a> {
    page: &'a DataPage,
    ink: String,
    muted: String,
    grid: String,
}

/// A histogram with the lengths of its bars.
#[derive(Serialize)]
struct Chart<'a> {
    title: &'a str,
    bars: Vec<Bar<'a>>,
}

#[derive(Serialize)]
struct Bar<'a> {
    label: &'a str,
    count: usize,
    /// The length relative to the longest bar.
    percent: String,
}

impl Serialize for DataHistogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let most = self.counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
        let bars = self.counts.iter().map(|(label, count)| Bar {
            label,
            count: *count,
            percent: format!("{:.1}", 100.0 * *count as f64 / most as f64),
        });
        Chart { title: &self.title, bars: bars.collect() }.serialize(serializer)
    }
}

/// Returns the page as self-contained HTML. All text of the data is escaped.
///
/// # Errors
/// Returns [`ReportError::Template`] if the template does not render.
pub fn data_html(page: &DataPage) -> Result<String, ReportError> {
    let data = Page {
        page,
        ink: palette::hex(palette::INK),
        muted: palette::hex(palette::MUTED),
        grid: palette::hex(palette::GRID),
    };
    Ok(page::templates()?.get_template("data.html")?.render(data)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_relative_to_the_longest_and_text_is_escaped() {
        let table = ReportTable {
            title: "Domains".into(),
            note: String::new(),
            header: vec!["domain".into(), "interactions".into()],
            rows: vec![vec!["<news>".into(), "3".into()]],
        };
        let histogram = DataHistogram {
            title: "interactions per user".into(),
            counts: vec![("1 to 2".into(), 4), ("2 to 3".into(), 1), ("3 to 4".into(), 0)],
        };
        let section = DataSection { title: "a & b".into(), tables: vec![table], histograms: vec![histogram] };
        let html = data_html(&DataPage { title: "own".into(), sections: vec![section] }).unwrap();
        for part in ["&lt;news&gt;", "a &amp; b", "width:100.0%", "width:25.0%", "href=\"#section-1\""] {
            assert!(html.contains(part), "{part} is missing in\n{html}");
        }
        assert_eq!(html.matches("class=\"bar\"").count(), 2, "a count of 0 has no bar");
        assert!(!html.contains("<news>") && !html.contains("http"), "the page loads nothing");
    }
}
