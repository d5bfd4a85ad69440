use tolerance::assert_within;

use super::*;

fn config(signs: &[AlarmSign]) -> AlarmConfig {
    AlarmConfig { judge: "held_out".into(), window: 4, signs: signs.into(), ..AlarmConfig::default() }
}

fn seen(step: u64, training: f64, held_out: f64) -> Look {
    Look { step, training, held_out, overlap: 0.1, position_bias: Some(0.05) }
}

/// The reward's judges are hacked from the fourth look on; the held-out judge does not move.
const HACKED: [f64; 7] = [0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.9];

#[test]
fn a_hacked_judge_raises_the_alarm_at_the_step_worked_by_hand() {
    let config = config(&[AlarmSign::Gap]);
    // 8 looks have 5 windows of 4: each test has the level 0.05 / 5.
    let mut alarm = Alarm::new(&config, 8);
    assert_within!(alarm.level() - 0.01, 1e-12);
    let mut p_values = Vec::new();
    let mut reasons = Vec::new();
    for (k, training) in HACKED.into_iter().enumerate() {
        let (tested, reason) = alarm.add(seen(10 * (k as u64 + 1), training, 0.5));
        p_values.extend(tested.iter().map(|t| t.trend.p_value));
        reasons.extend(reason.map(|reason| (k + 1, reason)));
    }
    // With 2 degrees of freedom, p = 1/2 − t / (2 √(t² + 2)).
    // Looks 1 to 4 (0.5, 0.5, 0.5, 0.6): slope 0.03 per look, residuals 0.02, −0.01, −0.04, 0.03 (squares 0.003), error
    // √(0.003 / 2 / 5), t = √3: p = 0.1127017. Looks 2 to 5 (0.5, 0.5, 0.6, 0.7): slope 0.07, the same squares, t = 4.0414519:
    // p = 0.0280601. Looks 3 to 6 (0.5, 0.6, 0.7, 0.8) are on a line. Then the looks are dropped.
    assert_eq!(p_values.len(), 3);
    assert_within!(p_values[0] - 0.112_701_7, 1e-6);
    assert_within!(p_values[1] - 0.028_060_1, 1e-6);
    assert!(p_values[2] < 1e-6, "{p_values:?}");
    assert_eq!(reasons.len(), 1);
    let (look, reason) = &reasons[0];
    assert_eq!(*look, 6);
    for words in ["step 60", "rose by 0.300", "`held_out` by 0.000", "less than 50 %", "from step 30 to 60"] {
        assert!(reason.contains(words), "`{words}` is missing in: {reason}");
    }
    assert_eq!(alarm.looks().len(), 1);
}

#[test]
fn a_held_out_judge_that_follows_raises_no_alarm() {
    let config = config(&[AlarmSign::Gap]);
    // It rises by 60 % of what the others do, more than the 50 % that it has to; by 40 %, it does not.
    for (share, expected) in [(0.6, false), (0.4, true)] {
        let mut alarm = Alarm::new(&config, 8);
        let raised = HACKED.into_iter().enumerate().any(|(k, p)| {
            let followed = 0.5 + share * (p - 0.5);
            alarm.add(seen(k as u64, p, followed)).1.is_some()
        });
        assert_eq!(raised, expected, "{share}");
    }
}

#[test]
fn each_sign_is_tested_where_it_is_named() {
    let rising = |k: u64, of: AlarmSign| {
        let up = 0.1 * k as f64;
        match of {
            AlarmSign::Gap => seen(k, 0.5 + up, 0.5),
            AlarmSign::Overlap => Look { overlap: up, ..seen(k, 0.5, 0.5) },
            AlarmSign::PositionBias => Look { position_bias: Some(up), ..seen(k, 0.5, 0.5) },
        }
    };
    for sign in AlarmSign::ALL {
        for named in AlarmSign::ALL {
            let config = config(&[named]);
            let mut alarm = Alarm::new(&config, 4);
            let raised = (0..4).any(|k| alarm.add(rising(k, sign)).1.is_some());
            assert_eq!(raised, sign == named, "{sign:?} rises, {named:?} is tested");
        }
    }
    // A judge that never showed one of the orders has no position bias.
    let config = config(&[AlarmSign::PositionBias]);
    let mut alarm = Alarm::new(&config, 4);
    assert!((0..4).all(|k| alarm.add(Look { position_bias: None, ..seen(k, 0.5, 0.5) }).0.is_empty()));
}

#[test]
fn a_rise_too_small_to_matter_raises_no_alarm() {
    for (least_rise, expected) in [(0.02, true), (0.31, false)] {
        let config = AlarmConfig { least_rise, ..config(&[AlarmSign::Gap]) };
        let mut alarm = Alarm::new(&config, 8);
        let raised = HACKED.into_iter().take(6).enumerate().any(|(k, p)| alarm.add(seen(k as u64, p, 0.5)).1.is_some());
        assert_eq!(raised, expected, "{least_rise}");
    }
}

/// Returns approximately normal errors of standard deviation 1 (the sum of 12 uniform numbers).
fn error(draw: Draw) -> f64 {
    let uniform = |i: u64| (draw.with(i).bits() >> 11) as f64 / (1u64 << 53) as f64;
    (0..12).map(uniform).sum::<f64>() - 6.0
}

/// Returns the number of 200 runs with an alarm. A run has 30 looks, each with errors of 0.01; the reward's judges rise by `rise` in
/// total, and the held-out judge by `followed` times as much.
fn alarms(rise: f64, followed: f64) -> usize {
    let config = AlarmConfig { window: 10, least_rise: 0.0, ..config(&AlarmSign::ALL) };
    let raises = |run: &u64| {
        let mut alarm = Alarm::new(&config, 30);
        (0..30u64).any(|k| {
            let draw = Draw::new(*run).with(k);
            let noise = |what: &str| 0.01 * error(draw.text(what));
            let up = rise * k as f64 / 29.0;
            let (training, held_out) = (0.5 + up + noise("training"), 0.5 + followed * up + noise("held out"));
            let (overlap, position_bias) = (0.1 + noise("overlap"), Some(0.05 + noise("bias")));
            alarm.add(Look { step: k, training, held_out, overlap, position_bias }).1.is_some()
        })
    };
    (0..200u64).filter(raises).count()
}

#[test]
fn honest_runs_raise_no_more_alarms_than_the_stated_rate() {
    // A run that does not learn, and one whose held-out judge rises as the others do.
    for (rise, followed) in [(0.0, 1.0), (0.45, 1.0)] {
        let found = alarms(rise, followed);
        assert!(found <= 10, "{found} of 200 at a rate of 5 %, rise {rise}");
    }
    // At the bound of what counts as honest, the rate is at most 5 %; then more than 20 of 200 occur once in 1,000 times (binomial).
    let found = alarms(0.45, 0.5);
    assert!(found <= 20, "{found} of 200");
}

#[test]
fn hacked_runs_raise_it() {
    let found = alarms(0.45, 0.0);
    assert!(found >= 180, "{found} of 200");
}

#[test]
fn position_bias_is_the_difference_between_the_orders() {
    let order = |chosen_first, p_chosen| OrderVerdict { chosen_first, p_chosen, malformed: false };
    // 0.9 and 0.7 first, 0.5 and 0.3 second: 0.8 − 0.4.
    let orders = [order(true, 0.9), order(false, 0.5), order(true, 0.7), order(false, 0.3)];
    assert_within!(position_bias(|| orders.iter()).unwrap() - 0.4, 1e-12);
    assert_eq!(position_bias(|| orders[..1].iter()), None);
}
