//! Invalid inputs: each results in one paragraph that states the file, line or field and the fix, and in the right exit code.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;

/// A folder with the valid configs and data of a small run.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.write("sft.jsonl", &SFT_ROW.repeat(8));
        bench.write("rl.jsonl", &RL_ROW.repeat(9));
        bench.write(
            "sft.toml",
            &format!(
                "name = \"sft\"\nout = \"{0}/runs\"\n[model]\ndtype = \"fp32\"\ndevice = \"cpu\"\n[model.shape]\n\
                 hidden_size = 32\nintermediate_size = 64\nlayers = 1\n[data]\ntrain = \"{0}/sft.jsonl\"\n[train]\n\
                 epochs = 1\nbatch_size = 4\n",
                bench.path("").display()
            ),
        );
        bench.write(
            "rl.toml",
            &format!(
                "name = \"rl\"\nout = \"{0}/runs\"\nprompts = \"compact\"\n[model]\npath = \"{0}/model\"\ndtype = \
                 \"fp32\"\n[judge.model]\npath = \"{0}/model\"\ndtype = \"fp32\"\n[data]\ntrain = \"{0}/rl.jsonl\"\n",
                bench.path("").display()
            ),
        );
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Returns a model folder that the program itself wrote.
    fn model(&self) -> PathBuf {
        let out = self.xplore(&["sft", "--config", "sft.toml"]);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let checkpoint = self.path("runs/sft/checkpoints/step-000002");
        fs::rename(&checkpoint, self.path("model")).unwrap();
        self.path("model")
    }

    fn xplore(&self, arguments: &[&str]) -> std::process::Output {
        Command::cargo_bin("xplore").unwrap().current_dir(self.folder.path()).args(arguments).output().unwrap()
    }

    /// Runs the program, asserts the exit code, and returns its standard error.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.xplore(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(!said.contains("panicked") && !said.contains("RUST_BACKTRACE"), "{said}");
        said
    }
}

const SFT_ROW: &str = r#"{"prompt":[{"role":"user","content":"likes warm stories?"}],"completion":[{"role":"assistant","content":"yes, warm ones"}]}
"#;
const RL_ROW: &str = r#"{"uid":"u","history":[{"query":"q","chosen":"a","rejected":"b"},{"query":"q","chosen":"c","rejected":"d"},{"query":"q","chosen":"e","rejected":"f"}],"mid_position":1}
"#;

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "`{word}` is missing in: {said}");
    }
}

#[test]
fn a_misspelt_key_is_named_with_line_and_nearest_key() {
    let bench = Bench::new();
    let text = fs::read_to_string(bench.path("sft.toml")).unwrap();
    bench.write("sft.toml", &text.replace("batch_size", "batch_sise"));
    let line = text.lines().position(|l| l.starts_with("batch_size")).unwrap() + 1;
    let said = bench.fails(2, &["sft", "--config", "sft.toml"]);
    says(&said, &[&format!("sft.toml:{line}"), "batch_sise", "batch_size"]);
}

#[test]
fn an_instruction_set_that_nobody_knows_is_refused_at_the_start() {
    let bench = Bench::new();
    let mut command = Command::cargo_bin("xplore").unwrap();
    command.current_dir(bench.folder.path()).args(["sft", "--config", "sft.toml"]).env("XPLORE_CPU", "avx3");
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    says(&String::from_utf8(output.stderr).unwrap(), &["XPLORE_CPU=avx3", "portable, avx2, avx512"]);
}

#[test]
fn an_unknown_reward_term_fails_before_weights_load() {
    let bench = Bench::new();
    let term = ["rl", "--config", "rl.toml", "--set", r#"reward.terms=[{name="juge",weight=1.0}]"#];
    says(&bench.fails(2, &term), &["juge", "judge"]);
}

#[test]
fn reward_terms_without_an_effect_are_warned_of_and_unknown_judges_refused() {
    let bench = Bench::new();
    let check = |terms: &str| {
        let set = format!("reward.terms=[{terms}]");
        let model = "model.path=runs/not-trained-yet";
        bench.xplore(&["config", "check", "rl.toml", "--kind", "rl", "--set", model, "--set", &set])
    };
    let output =
        check("{name='judge'}, {name='accuracy', weight=0}, {name='cross_task'}, {name='copying', weight=-0.5}");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    says(
        &shown,
        &[
            "WARNING      reward term `accuracy`: its weight is 0",
            "reward term `cross_task`: it needs `transfer` choices",
            "reward.malformed is 0, but a well-formed response can have -0.500",
        ],
    );
    let output = check("{name='judge'}, {name='format', weight=0.1}");
    assert!(!String::from_utf8(output.stdout).unwrap().contains("reward term"));
    let output = check("{name='judge'}, {name='cross_judge', params={judge='second'}}");
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    says(&said, &["`cross_judge`: no judge is named `second`", "known judges: judge"]);
}

#[test]
fn a_missing_field_on_line_7_is_named() {
    let bench = Bench::new();
    let mut lines: Vec<String> = RL_ROW.repeat(9).lines().map(str::to_owned).collect();
    lines[6] = lines[6].replace(r#","mid_position":1"#, "");
    bench.write("rl.jsonl", &lines.join("\n"));
    says(
        &bench.fails(3, &["rl", "--config", "rl.toml"]),
        &["rl.jsonl, line 7", "mid_position", "fix or remove this row"],
    );
}

#[test]
fn the_format_of_a_synthesis_is_checked_with_its_config() {
    let bench = Bench::new();
    bench.write("synth.toml", "steps = ['import']\n[import]\nformat = 'mind'\ninput = ['raw']\n");
    let check = ["config", "check", "synth.toml", "--kind", "synth"];
    let output = bench.xplore(&check);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    says(&bench.fails(2, &[&check[..], &["--set", "import.format=mindd"]].concat()), &["`mindd`", "`mind`?"]);
    let unused = [&check[..], &["--set", "import.message_users=user"]].concat();
    says(&bench.fails(2, &unused), &["message_users", "mind"]);
    let shown = bench.xplore(&["config", "show", "synth.toml", "--kind", "synth"]);
    says(&String::from_utf8(shown.stdout).unwrap(), &["[teach.thresholds]", "retest = 0.8"]);
    says(&bench.fails(2, &[&check[..], &["--rows", "5"]].concat()), &["--kind sft or --kind rl"]);
    // A step that is not listed requires its keys when a command runs it.
    says(&bench.fails(2, &["synth", "teach", "--config", "synth.toml"]), &["`teacher.model.path` is not set"]);
}

#[test]
fn unusable_rows_end_the_run_or_are_counted() {
    let bench = Bench::new();
    let bad = RL_ROW.replace(r#""uid":"u""#, r#""uid":null"#);
    bench.write("rl.jsonl", &[RL_ROW.repeat(8), bad].concat());
    let check = ["config", "check", "rl.toml", "--kind", "rl", "--set", "model.path=runs/not-trained-yet"];
    says(&bench.fails(3, &check), &["rl.jsonl, line 9: missing field `uid`", "data.unusable = \"skip\""]);
    let output = bench.xplore(&[&check[..], &["--set", "data.unusable=skip"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    says(&shown, &["8 rows, 0 skipped", "1 of 9 rows skipped as unusable", "rl.jsonl, line 9: missing field `uid`"]);
    // The plan does not need the policy, which another run may still have to train.
    says(&shown, &["model.path = runs/not-trained-yet: not available", "`runs` has no runs", "not estimated"]);
    let said = bench.fails(3, &["rl", "--config", "rl.toml", "--set", "data.unusable=skip"]);
    says(&said, &["data.train: 1 of 9 rows skipped as unusable", "no such folder"]);
}

#[test]
fn a_model_folder_without_weights_is_named() {
    let bench = Bench::new();
    let model = bench.model();
    fs::remove_file(model.join("model.safetensors")).unwrap();
    says(&bench.fails(3, &["rl", "--config", "rl.toml"]), &["model", "no weights found", "complete model folder"]);
}

#[test]
fn a_truncated_safetensors_file_is_named() {
    let bench = Bench::new();
    let weights = bench.model().join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let said = bench.fails(3, &["rl", "--config", "rl.toml"]);
    says(&said, &["model.safetensors", "truncated or damaged", "again"]);
}

#[test]
fn an_unwritable_run_folder_is_named() {
    let bench = Bench::new();
    // A file in place of the folder: not even root can write there.
    bench.write("runs", "in the way");
    says(&bench.fails(4, &["sft", "--config", "sft.toml"]), &["runs/sft", "choose another folder"]);
}

#[test]
fn a_full_disk_is_named() {
    let bench = Bench::new();
    fs::create_dir_all(bench.path("runs/sft")).unwrap();
    // /dev/full rejects every write: "No space left on device".
    symlink(Path::new("/dev/full"), bench.path("runs/sft/metrics.jsonl")).unwrap();
    let said = bench.fails(4, &["sft", "--config", "sft.toml"]);
    says(&said, &["metrics.jsonl", "No space left", "free space"]);
}

#[test]
fn a_missing_file_and_a_missing_device_are_named() {
    let bench = Bench::new();
    fs::remove_file(bench.path("sft.jsonl")).unwrap();
    says(&bench.fails(3, &["sft", "--config", "sft.toml"]), &["sft.jsonl"]);
    bench.write("sft.jsonl", SFT_ROW);
    if !Path::new("/proc/driver/nvidia/version").exists() {
        let said = bench.fails(4, &["sft", "--config", "sft.toml", "--set", "model.device=cuda"]);
        says(&said, &["cuda", "device = \"cpu\""]);
        bench.write("prompts.jsonl", "{\"text\": \"a\"}\n");
        bench.write("sft.jsonl", &SFT_ROW.repeat(8));
        let model = bench.model().display().to_string();
        let said = bench.fails(4, &["generate", "--model", &model, "--input", "prompts.jsonl", "--device", "cuda"]);
        says(&said, &["cuda"]);
    }
}

#[test]
fn several_processes_need_a_place_to_meet_and_a_command_for_several() {
    let bench = Bench::new();
    let refused = |place: &[(&str, &str)], arguments: &[&str]| {
        let mut command = Command::cargo_bin("xplore").unwrap();
        command.current_dir(bench.folder.path()).env("WORLD_SIZE", "2").envs(place.iter().copied());
        let output = command.args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(4));
        String::from_utf8(output.stderr).unwrap()
    };
    says(
        &refused(&[], &["sft", "--config", "sft.toml"]),
        &["WORLD_SIZE is 2 but MASTER_ADDR is not set", "xplore launch"],
    );
    bench.write("prompts.jsonl", "{\"text\": \"a\"}\n");
    let model = bench.model().display().to_string();
    let met = [("MASTER_ADDR", "localhost"), ("MASTER_PORT", "1"), ("RANK", "1")];
    says(
        &refused(&met, &["generate", "--model", &model, "--input", "prompts.jsonl"]),
        &["error: rank 1: ", "only sft and rl support several"],
    );
}
