use std::collections::HashMap;

use super::*;

fn order(sizes: &[u32], weights: &[f64], shuffle: bool, seed: u64) -> RowOrder {
    let rows: Vec<u64> = sizes.iter().map(|&n| u64::from(n)).collect();
    RowOrder::new(sizes.iter().map(|&n| Members::All(n)).collect(), &rows, weights, shuffle, seed)
}

fn rows(order: &RowOrder, epoch: u64) -> Vec<u32> {
    order.epoch(epoch).into_iter().map(|id| id.row).collect()
}

#[test]
fn one_set_keeps_the_order_that_runs_have_always_had() {
    let one = order(&[100], &[0.0], true, 1);
    for epoch in 0..3 {
        let draw = Draw::new(1).text("epoch order").with(epoch);
        let mut expected: Vec<u32> = (0..100).collect();
        expected.sort_by_cached_key(|&row| draw.with(u64::from(row)).bits());
        assert_eq!(rows(&one, epoch), expected);
        let weighted = order(&[100], &[3.0], true, 1);
        assert_eq!(rows(&weighted, epoch), expected, "a weight alone says nothing");
    }
    assert_ne!(rows(&one, 0), rows(&one, 1));
    assert_ne!(rows(&one, 0), rows(&order(&[100], &[0.0], true, 2), 0));
    assert_eq!(rows(&order(&[3], &[0.0], false, 1), 5), [0, 1, 2]);
}

#[test]
fn without_weights_an_epoch_is_all_rows_once() {
    for shuffle in [true, false] {
        let both = order(&[5, 3], &[0.0, 0.0], shuffle, 1);
        let mut epoch = both.epoch(2);
        assert_eq!(epoch, both.epoch(2));
        epoch.sort_unstable();
        let expected: Vec<RowId> =
            (0..5).map(|row| RowId { set: 0, row }).chain((0..3).map(|row| RowId { set: 1, row })).collect();
        assert_eq!(epoch, expected);
    }
}

#[test]
fn weights_are_shares_and_passes_go_on() {
    // 12 rows per epoch: 9 of the small set, which wraps around; 3 of the large one.
    let mixed = order(&[4, 8], &[3.0, 1.0], true, 7);
    let mut counts: HashMap<RowId, usize> = HashMap::new();
    for epoch in 0..8 {
        let rows = mixed.epoch(epoch);
        assert_eq!(rows.len(), 12);
        assert_eq!(rows.iter().filter(|id| id.set == 0).count(), 9);
        rows.into_iter().for_each(|id| *counts.entry(id).or_default() += 1);
    }
    // 72 rows of a set of 4 are 18 passes; 24 rows of a set of 8 are 3.
    assert_eq!(counts.len(), 12);
    assert!(counts.iter().all(|(id, &n)| n == if id.set == 0 { 18 } else { 3 }), "{counts:?}");
}

#[test]
fn rows_that_come_again_are_spread() {
    let mixed = order(&[40, 400], &[1.0, 0.1], true, 3);
    let rows = mixed.epoch(0);
    let twins = rows.windows(2).filter(|pair| pair[0] == pair[1]).count();
    // 400 of 440 slots go to 40 rows, ten times each: by chance about one neighbor in 45 is the same.
    assert!(twins < 30, "{twins}");
}

#[test]
fn without_shuffling_sets_keep_their_order_and_are_spread_evenly() {
    let mixed = order(&[2, 4], &[1.0, 2.0], false, 1);
    let pairs: Vec<(u32, u32)> = mixed.epoch(0).into_iter().map(|id| (id.set, id.row)).collect();
    assert_eq!(pairs, [(1, 0), (0, 0), (1, 1), (1, 2), (0, 1), (1, 3)]);
    // Two rows of three per epoch: each epoch continues where the last one stopped.
    let part = order(&[3, 1], &[1.0, 1.0], false, 1);
    let of_first = |epoch| part.epoch(epoch).into_iter().filter(|id| id.set == 0).map(|id| id.row).collect::<Vec<_>>();
    assert_eq!([of_first(0), of_first(1), of_first(2)], [[0, 1], [2, 0], [1, 2]]);
}

#[test]
fn shares_add_up() {
    assert_eq!(shares(10, &[1.0, 1.0, 1.0]), [4, 3, 3]);
    assert_eq!(shares(7, &[0.5, 0.25, 0.25]), [3, 2, 2]);
    assert_eq!(shares(100, &[0.999, 0.001]), [100, 0]);
    for total in [1, 17, 1000] {
        assert_eq!(shares(total, &[0.1, 0.2, 0.3, 1e-9]).iter().sum::<u64>(), total);
    }
}

#[test]
fn held_out_rows_are_about_the_share_and_stay() {
    let held: Vec<u32> = (0..10_000).filter(|&row| held_out(5, 0, row, 0.1)).collect();
    // The standard deviation is 30.
    assert!((850..1150).contains(&held.len()), "{}", held.len());
    assert!(held.iter().all(|&row| held_out(5, 0, row, 0.2)), "a larger share holds out more");
    assert_ne!(held, (0..10_000).filter(|&row| held_out(6, 0, row, 0.1)).collect::<Vec<_>>());
    assert_ne!(held, (0..10_000).filter(|&row| held_out(5, 1, row, 0.1)).collect::<Vec<_>>());
}
