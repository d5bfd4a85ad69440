//! Groups of ranks over Gloo. Ranks are threads here, each with its own connection to the store. The tests of `cli` and `trainer`
//! start processes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use c10d::Store;
use distributed::{DistError, RankEnv, Rendezvous, World};
use tch::{Device, Kind, Tensor};

/// Calls `f` as each of `size` ranks and returns the results by rank.
fn ranks<T: Send>(size: usize, timeout: f64, f: impl Fn(World) -> T + Sync) -> Vec<T> {
    let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(20)).unwrap();
    let rendezvous = Rendezvous { host: "127.0.0.1".into(), port: store.port(), served: true };
    std::thread::scope(|scope| {
        let begin = |rank| {
            let (rendezvous, f) = (Some(rendezvous.clone()), &f);
            scope.spawn(move || {
                let place = RankEnv { rank, world_size: size, local_rank: rank % 2, local_world_size: 2, rendezvous };
                f(World::join(&place, Device::Cpu, Duration::from_secs_f64(timeout)).unwrap())
            })
        };
        let started: Vec<_> = (0..size).map(begin).collect();
        started.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn numbers(from: f32, count: usize) -> Tensor {
    Tensor::from_slice(&(0..count).map(|i| from + i as f32).collect::<Vec<f32>>())
}

fn values(t: &Tensor) -> Vec<f32> {
    Vec::try_from(t).unwrap()
}

#[test]
fn collectives_do_what_they_say() {
    for size in [1, 2, 3] {
        let found = ranks(size, 30.0, |world| {
            let (all, rank) = (world.world_group(), world.rank() as f32);
            let mine = numbers(100.0 * rank, 2 * size);
            let share = Tensor::zeros([2], (Kind::Float, Device::Cpu));
            all.reduce_scatter("share", &share, &mine).unwrap().wait().unwrap();
            let together = Tensor::zeros([2 * size as i64], (Kind::Float, Device::Cpu));
            all.all_gather("together", &together, &share).unwrap().wait().unwrap();
            all.all_reduce("sum", &mine).unwrap().wait().unwrap();
            let mut largest = [f64::from(rank), -1.0];
            all.all_reduce_max("largest", &mut largest).unwrap();
            let texts = all.all_gather_bytes("texts", "x".repeat(world.rank()).as_bytes()).unwrap();
            assert_eq!(all.broadcast("first", format!("of {rank}").as_bytes()).unwrap(), b"of 0");
            (values(&mine), values(&together), largest, texts)
        });
        // Σ over ranks of 100 · rank + i.
        let offset = 100.0 * (size * (size - 1) / 2) as f32;
        let sum: Vec<f32> = (0..2 * size).map(|i| offset + (size * i) as f32).collect();
        let texts: Vec<Vec<u8>> = (0..size).map(|n| vec![b'x'; n]).collect();
        for (summed, together, largest, told) in found {
            assert_eq!((&summed, &together), (&sum, &sum));
            assert_eq!((largest, told), ([(size - 1) as f64, -1.0], texts.clone()));
        }
    }
}

#[test]
fn one_rank_a_machine_goes_first() {
    let order = std::sync::Mutex::new(Vec::new());
    ranks(4, 30.0, |world| {
        let note = || {
            order.lock().unwrap().push(world.rank());
            std::thread::sleep(Duration::from_millis(50));
            Ok::<(), DistError>(())
        };
        world.main_process_first("the files are here", note).unwrap();
    });
    let order = order.into_inner().unwrap();
    // Ranks 0 and 1 are on one machine, 2 and 3 on another.
    assert_eq!(order[..2], [0, 2]);
}

#[test]
fn bf16_is_sent_too() {
    let found = ranks(2, 30.0, |world| {
        let t = numbers(world.rank() as f32, 64).to_kind(Kind::BFloat16);
        let share = Tensor::zeros([32], (Kind::BFloat16, Device::Cpu));
        world.world_group().reduce_scatter("share", &share, &t).unwrap().wait().unwrap();
        values(&share.to_kind(Kind::Float))
    });
    assert_eq!(found.concat(), (0..64).map(|i| 2.0 * i as f32 + 1.0).collect::<Vec<f32>>());
}

#[test]
fn a_split_world_has_neighbours_and_peers() {
    let found = ranks(4, 30.0, |world| {
        let (near, across) = world.split(2).unwrap();
        let sum = |group: &distributed::RankGroup| {
            let mut own = [world.rank() as f64];
            group.all_reduce_scalars("ranks", &mut own).unwrap();
            own[0]
        };
        (sum(&near), sum(&across), near.rank(), across.rank())
    });
    assert_eq!(found, [(1.0, 2.0, 0, 0), (1.0, 4.0, 1, 0), (5.0, 2.0, 0, 1), (5.0, 4.0, 1, 1)]);
}

#[test]
fn the_rank_that_has_come_apart_is_named() {
    let found = ranks(3, 30.0, |world| {
        let loss = if world.rank() == 1 { "0.7" } else { "0.5" };
        world.world_group().assert_same_on_all_ranks("step 4", loss.as_bytes()).map_err(|e| e.to_string())
    });
    for said in found {
        let said = said.unwrap_err();
        assert!(said.contains("diverged at step 4: rank 1 has 0.7, the others 0.5"), "{said}");
    }
}

/// One rank is alive but does not enter the collective in which the other ranks wait.
#[test]
fn a_rank_that_is_elsewhere_is_named_after_the_time_out() {
    let waiting = AtomicU64::new(2);
    let found = ranks(3, 3.0, |world| {
        if world.rank() == 2 {
            world.world_group().assert_same_on_all_ranks("greeting", b"").unwrap();
            while waiting.load(Ordering::Relaxed) > 0 {
                std::thread::sleep(Duration::from_millis(20));
            }
            return None;
        }
        world.world_group().assert_same_on_all_ranks("greeting", b"").unwrap();
        let failed = world.world_group().barrier("sum the gradients of Layer(3)");
        waiting.fetch_sub(1, Ordering::Relaxed);
        Some(failed)
    });
    for failed in found.into_iter().flatten() {
        let Err(DistError::Collective { place, reason, .. }) = failed else { panic!("{failed:?}") };
        assert!(place.contains("sum the gradients of Layer(3)"), "{place}");
        assert!(reason.contains("rank 2 is at a different point: `greeting`"), "{reason}");
    }
}

#[test]
fn last_words_reach_the_others() {
    let found = ranks(2, 30.0, |world| {
        world.world_group().barrier("begin").unwrap();
        if world.rank() == 1 {
            world.report_failure("rows.jsonl, line 7: not JSON");
            return None;
        }
        world.world_group().barrier("the next step").err()
    });
    let said = found[0].as_ref().unwrap().to_string();
    assert!(said.contains("rank 1 failed: rows.jsonl, line 7: not JSON"), "{said}");
}

/// Rank 1 is a separate process that stops in the middle. Rank 0 waits for nothing, like a host whose collectives run on a GPU. It
/// must still detect the stop, well before the timeout of 20 s of a collective.
#[test]
fn a_rank_that_falls_silent_fails_the_next_collective_of_the_others() {
    const PORT: &str = "XPLORE_TEST_PORT";
    let join = |rank: usize, port: u16| {
        let rendezvous = Some(Rendezvous { host: "127.0.0.1".into(), port, served: true });
        let place = RankEnv { rank, world_size: 2, local_rank: rank, local_world_size: 2, rendezvous };
        World::join(&place, Device::Cpu, Duration::from_secs(20)).unwrap()
    };
    if let Ok(port) = std::env::var(PORT) {
        let world = join(1, port.parse().unwrap());
        world.world_group().barrier("begin").unwrap();
        // By now the last beat contains the barrier.
        std::thread::sleep(Duration::from_secs(2));
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::STOP).unwrap();
        // Another thread of the process may receive the signal, a moment later.
        std::thread::sleep(Duration::from_secs(600));
    }
    let store = Store::open("127.0.0.1", 0, true, Duration::from_secs(20)).unwrap();
    let mut other = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_rank_that_falls_silent_fails_the_next_collective_of_the_others"])
        .env(PORT, store.port().to_string())
        .spawn()
        .unwrap();
    let world = join(0, store.port());
    world.world_group().barrier("begin").unwrap();
    let pending = world.world_group().all_reduce("sum the gradients", &numbers(0.0, 4)).unwrap();
    let said = (0..600)
        .find_map(|_| {
            std::thread::sleep(Duration::from_millis(100));
            world.world_group().all_reduce("gather the weights", &numbers(0.0, 4)).err()
        })
        .map(|error| error.to_string());
    let waited = pending.wait().map_err(|error| error.to_string());
    other.kill().unwrap();
    other.wait().unwrap();
    let reason = "rank 1 is dead or stalled, last seen in `begin` (collective 1), no heartbeat for 10.0 s";
    let said = said.expect("a minute later there is an error");
    assert!(said.contains("failed in `gather the weights` (collective") && said.contains(reason), "{said}");
    let waited = waited.expect_err("rank 1 never came to it");
    assert!(waited.contains("failed in `sum the gradients`") && waited.contains(reason), "{waited}");
}
