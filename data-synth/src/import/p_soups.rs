//! P-Soups as AlignX distributes it: one file for each pair of opposite personas, with four pairs of answers for each question.

use std::path::Path;

use super::rows::{self, READY, UNUSED_BY_PAIRS};
use super::{Collector, Format, ImportError, Source, alignx, folder};

/// The format `p_soups`.
pub(super) const FORMAT: Format = Format {
    name: "p_soups",
    about: "P-Soups: concise_detail.json, friendly_unfriendly.json and student_phd.json, as AlignX distributes them",
    defaults: READY,
    unused: UNUSED_BY_PAIRS,
    read,
};

fn read(source: &Source<'_>, collector: &mut Collector<'_>) -> Result<(), ImportError> {
    let expected = "concise_detail.json, friendly_unfriendly.json or student_phd.json";
    let files = folder::files(source.paths, expected, rows::holds_objects)?;
    source.plan(&files, collector)?;
    for path in files {
        let name = stem(&path);
        let mut number = 0;
        rows::for_each(&path, None, collector, |collector, row| {
            let uid = format!("{name}_{number}");
            number += 1;
            row.user(alignx::user(row, uid)?, collector)
        })?;
    }
    Ok(())
}

/// Returns the name of a file up to its first full stop.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.split('.').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use configs::synth::ImportConfig;

    use crate::import::testing::{import_files, texts};

    #[test]
    fn each_file_numbers_its_users() {
        let row = |chosen: &str| {
            format!(
                r#"{{"prompt": "q", "chosen": "{chosen}", "rejected": "r", "ground_truth_persona": "p", "profile": [],
                "Pair-wise Comparative Feedback": [{{"prompt": "q1", "chosen": "c1", "rejected": "r1"}}]}}"#
            )
        };
        let (style, expertise) = (format!("[{}]", row("kind")), format!("[{},{}]", row("simple"), row("simple")));
        let files = [("friendly_unfriendly.json", style.as_bytes()), ("student_phd.json", expertise.as_bytes())];
        let config = ImportConfig { format: "p_soups".into(), test_share: 0.0, ..ImportConfig::default() };
        let train = import_files(&files, &config, 1).unwrap().train;
        let uids: Vec<&str> = train.iter().map(|user| user.uid.as_str()).collect();
        assert_eq!(uids, ["friendly_unfriendly_0", "student_phd_0", "student_phd_1"]);
        assert_eq!(texts(&train[2].interactions), ["c1", "simple"]);
        let twice = [("a/student_phd.json", expertise.as_bytes()), ("b/student_phd.json", style.as_bytes())];
        let error = import_files(&twice, &config, 1).err().unwrap();
        assert!(
            error.contains("b/student_phd.json:1: field `uid` is `student_phd_0`, as in an earlier row"),
            "{error}"
        );
    }
}
