//! The batch script of an array job: one task for each run.

use std::path::Path;

use super::plan::AblatePlan;

/// Returns a script for `sbatch` that runs the plan of the configuration `file`, with these arguments of `--log-level` and `--set`, on
/// one GPU a task.
pub fn script(plan: &AblatePlan, file: &Path, program: &Path, log_level: &str, set: &[String]) -> String {
    let (variants, seeds) = (plan.names().len(), &plan.config.seeds);
    let seeds: Vec<String> = seeds.iter().map(u64::to_string).collect();
    let last = variants * seeds.len() - 1;
    let sets: String = set.iter().map(|text| format!(" --set {}", quoted(text))).collect();
    let (program, file) = (quoted(&shown(program)), quoted(&shown(file)));
    let command = format!("{program} --log-level {log_level} ablate --config {file}{sets}");
    format!(
        r#"#!/usr/bin/env bash
# The runs of an ablation, one task each; resources and limits are yours to change. Submit it, and write the report when all have ended:
#   job=$(sbatch --parsable THIS_FILE)
#   sbatch --dependency=afterany:$job --wrap {wrapped}
# A task that reaches its time limit is interrupted 5 minutes earlier (--signal) and writes a checkpoint. Submitting the script again
# continues with what is left.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --output=%x-%A_%a.log
set -euo pipefail
cd "${{SLURM_SUBMIT_DIR:-.}}"
seeds=({seeds})
variant=$((SLURM_ARRAY_TASK_ID % {variants}))
seed=${{seeds[$((SLURM_ARRAY_TASK_ID / {variants}))]}}
exec {command} --variant "$variant" --seed "$seed"
"#,
        name = plan.config.name.replace(char::is_whitespace, "-"),
        wrapped = quoted(&format!("{command} --report")),
        seeds = seeds.join(" "),
    )
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Quotes a word for the shell, if needed.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-/=+:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use configs::AblateConfig;

    use super::*;

    #[test]
    fn each_task_is_one_variant_and_seed() {
        let text = "base='rl.toml'\neval='e.toml'\nsteps=1\nseeds=[7,8,9]\n[[variants]]\n[[variants]]\nset=['a=1']\n";
        let config: AblateConfig = configs::parse("a.toml", text, &[]).unwrap();
        let variants = config.expanded().unwrap();
        let plan = AblatePlan { config, variants, baseline: 0, runs: Vec::new() };
        let script =
            script(&plan, Path::new("my ablation.toml"), Path::new("target/release/xplore"), "warn", &["a=[1]".into()]);
        // Two variants and the start, three seeds.
        for line in [
            "#SBATCH --array=0-8",
            "seeds=(7 8 9)",
            "variant=$((SLURM_ARRAY_TASK_ID % 3))",
            "exec target/release/xplore --log-level warn ablate --config 'my ablation.toml' --set 'a=[1]' --variant \"$variant\" \
             --seed \"$seed\"",
        ] {
            assert!(script.lines().any(|written| written == line), "{line} is missing in\n{script}");
        }
        // Without a GPU, so it starts no run that failed.
        let report = script.lines().find(|line| line.contains("--wrap")).unwrap();
        assert!(report.contains("xplore --log-level warn ablate") && report.ends_with(" --report'"), "{report}");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_shell_reads_the_script() {
        let text = "base='rl.toml'\neval='e.toml'\nsteps=1\n[[variants]]\n";
        let config: AblateConfig = configs::parse("a.toml", text, &[]).unwrap();
        let variants = config.expanded().unwrap();
        let plan = AblatePlan { config, variants, baseline: 0, runs: Vec::new() };
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("array.sbatch");
        // A program that prints its arguments stands for xplore.
        std::fs::write(&file, script(&plan, Path::new("a.toml"), Path::new("echo"), "info", &[])).unwrap();
        let run = |task: &str| {
            let output =
                std::process::Command::new("bash").arg(&file).env("SLURM_ARRAY_TASK_ID", task).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(run("0"), "--log-level info ablate --config a.toml --variant 0 --seed 0\n");
        assert_eq!(run("5"), "--log-level info ablate --config a.toml --variant 1 --seed 2\n");
    }
}
