//! The order of users under each curriculum setting.

use configs::RlConfig;
use configs::rl::curriculum::CurriculumOrder;
use trainer::grpo::curriculum_sampler::CurriculumSampler;
use trainer::grpo::group::{Group, GroupInput};
use trainer::grpo::steps;

use fixtures::policy::{config, rolled_out, rows, trainable};

fn ordered(order: CurriculumOrder) -> RlConfig {
    let mut config = config();
    config.curriculum.order = order;
    config
}

fn uids(users: &mut CurriculumSampler<'_>, n: usize, step: u64) -> Vec<String> {
    users.next(n, (step, 0)).iter().map(|p| p.row.uid.clone()).collect()
}

/// Returns groups in which the judge was right on p0, p1, … as often as given.
fn judged(right: &[usize]) -> Vec<Group> {
    let config = config();
    let sample = rolled_out(&config, &trainable(&config, None)).remove(0).samples.remove(0);
    let of = |(user, &right): (usize, &usize)| Group {
        user,
        uid: format!("p{user}"),
        stage: 0,
        continues: false,
        parent: None,
        prompt: vec![1],
        samples: (0..10)
            .map(|i| {
                let mut sample = sample.clone();
                sample.p_chosen = Some(if i < right { 0.9 } else { 0.1 });
                sample
            })
            .collect(),
        carried: Vec::new(),
        input: GroupInput::default(),
    };
    right.iter().enumerate().map(of).collect()
}

#[test]
fn each_epoch_has_everybody_once_in_its_own_order_or_the_files() {
    let rows = rows(10);
    let config = ordered(CurriculumOrder::Shuffle);
    let mut users = CurriculumSampler::new(&rows, &config).unwrap();
    let [first, second] = [0, 1].map(|_| (0..5).flat_map(|step| uids(&mut users, 2, step)).collect::<Vec<_>>());
    let file: Vec<String> = (0..10).map(|p| format!("p{p}")).collect();
    for epoch in [&first, &second] {
        let mut sorted = epoch.clone();
        sorted.sort();
        assert_eq!(sorted, file);
        // The probability that either order equals the file's is 1 in 10!.
        assert_ne!(epoch, &file);
    }
    assert_ne!(first, second);
    assert_eq!(users.epochs(), 2.0);
    let config = ordered(CurriculumOrder::File);
    let mut users = CurriculumSampler::new(&rows, &config).unwrap();
    assert_eq!(
        (uids(&mut users, 7, 0), uids(&mut users, 4, 1)),
        (file[..7].to_vec(), {
            let mut next = file[7..].to_vec();
            next.push("p0".into());
            next
        })
    );
}

#[test]
fn the_users_left_over_at_the_end_of_an_epoch_are_in_no_step_if_asked() {
    let rows = rows(10);
    let mut config = ordered(CurriculumOrder::File);
    (config.rollout.users_per_step, config.train.steps, config.train.epochs) = (4, 0, 2);
    let taken = |config: &RlConfig| -> Vec<String> {
        let mut users = CurriculumSampler::new(&rows, config).unwrap();
        (0..steps(config, users.len())).map(|step| uids(&mut users, 4, step).join(" ")).collect()
    };
    // 20 users in 5 steps; or 2 steps in each of 2 epochs, without p8 and p9.
    let whole = ["p0 p1 p2 p3", "p4 p5 p6 p7"];
    assert_eq!(taken(&config), [whole[0], whole[1], "p8 p9 p0 p1", "p2 p3 p4 p5", "p6 p7 p8 p9"]);
    config.train.drop_last = true;
    assert_eq!(taken(&config), [whole, whole].concat());
    // Nothing is left over if the steps divide the epoch.
    config.rollout.users_per_step = 5;
    let mut users = CurriculumSampler::new(&rows, &config).unwrap();
    assert_eq!([0, 1].map(|step| uids(&mut users, 5, step)[4].clone()), ["p4", "p9"]);
    config.rollout.users_per_step = 11;
    let refused = CurriculumSampler::new(&rows, &config).unwrap_err().to_string();
    for words in ["10 users for 11 per step", "train.drop_last", "rollout.users_per_step"] {
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn later_epochs_begin_with_the_easy_or_the_hard() {
    let rows = rows(5);
    for (order, expected) in [
        (CurriculumOrder::EasyFirst, ["p2", "p4", "p0", "p3", "p1"]),
        (CurriculumOrder::HardFirst, ["p1", "p3", "p0", "p4", "p2"]),
    ] {
        let config = ordered(order);
        let mut users = CurriculumSampler::new(&rows, &config).unwrap();
        uids(&mut users, 5, 0);
        // Accuracies 0.5, 0, 1, 0.2, 0.8.
        users.learn(&judged(&[5, 0, 10, 2, 8]));
        assert_eq!(uids(&mut users, 5, 1), expected);
    }
}

#[test]
fn sampling_prefers_the_band_by_its_weight() {
    let rows = rows(4);
    let mut config = ordered(CurriculumOrder::Sample);
    config.curriculum.outside = 0.25;
    let mut users = CurriculumSampler::new(&rows, &config).unwrap();
    // p0 and p3 are inside 0.2..0.8, p1 and p2 outside: a single sample picks each inside user with 1/2.5, each outside user
    // with 0.25/2.5.
    users.learn(&judged(&[5, 0, 10, 2]));
    let mut counts = [0.0f64; 4];
    for step in 0..8000 {
        let uid = &uids(&mut users, 1, step)[0];
        counts[uid[1..].parse::<usize>().unwrap()] += 1.0;
    }
    let expected = [3200.0, 800.0, 800.0, 3200.0];
    // A chi-square with 3 degrees of freedom exceeds 30.7 with probability one in a million.
    let chi: f64 = counts.iter().zip(expected).map(|(c, e)| (c - e) * (c - e) / e).sum();
    assert!(chi < 30.7, "{counts:?}");
    // No user appears twice in a step; a user of weight 0 is sampled only when no other is left.
    config.curriculum.outside = 0.0;
    config.curriculum.band = [0.15, 0.5];
    let mut users = CurriculumSampler::new(&rows, &config).unwrap();
    users.learn(&judged(&[5, 0, 10, 2]));
    for step in 0..20 {
        let mut two = uids(&mut users, 2, step);
        two.sort();
        assert_eq!(two, ["p0", "p3"]);
        let mut all = uids(&mut users, 4, step);
        all.sort();
        assert_eq!(all, ["p0", "p1", "p2", "p3"]);
    }
}
