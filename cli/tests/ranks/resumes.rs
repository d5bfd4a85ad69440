//! Checkpoints resume with any number of ranks and any sharding.

use std::fs;

use crate::job::{Job, checkpoints, same};

#[test]
fn a_checkpoint_of_four_full_ranks_goes_on_at_one_and_at_two() {
    let job = Job::new();
    let every = ["checkpoint.every=10", "checkpoint.keep_last=9"];
    job.alone("alone", &every, &[]).well();
    let expected = job.metrics("alone");
    let full = [&every[..], &["parallel.sharding=full"]].concat();
    job.launch(4, "four", &full, &[], &[]).well();
    let inside = job.folder("four").join("checkpoints/step-000010/trainer");
    assert!(
        inside.join("optimizer-00004-of-00004.safetensors").is_file() && !inside.join("optimizer.safetensors").exists()
    );

    for (name, ranks, sharding) in [("one", 1, "replicate"), ("two", 2, "optimizer"), ("three", 3, "full")] {
        copy(&job.folder("four"), &job.folder(name));
        fs::remove_dir_all(job.folder(name).join("checkpoints/step-000020")).unwrap();
        let own = format!("parallel.sharding={sharding}");
        let set = [&every[..], &[&own]].concat();
        job.launch(ranks, name, &set, &["--resume"], &[]).well();
        assert_eq!(checkpoints(&job.folder(name)), ["step-000010", "step-000020"]);
        same(&job.metrics(name), &expected, 1e-5);
    }
    // Conversely, four fully sharded ranks resume the checkpoint of one process.
    fs::remove_dir_all(job.folder("alone").join("checkpoints/step-000020")).unwrap();
    job.launch(4, "alone", &full, &["--resume"], &[]).well();
    same(&job.metrics("alone"), &expected, 1e-5);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}
