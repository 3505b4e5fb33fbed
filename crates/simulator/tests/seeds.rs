//! A few seeds: nothing happens that must not, and enough happens that may.

#![cfg(not(any(
    feature = "plant-ignore-term",
    feature = "plant-skip-version",
    feature = "plant-forget-list",
    feature = "plant-keep-orders"
)))]

/// Seeds that are played at every test run; `script/soak simulator` plays ten thousand.
const SEEDS: u64 = 400;

#[test]
fn nothing_happens_that_must_not() {
    let mut all = simulator::Coverage::default();
    for seed in 0..SEEDS {
        let coverage = simulator::run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(coverage.events >= 1000 && coverage.fault_count() >= 20, "{coverage}");
        all.add(&coverage);
    }
    assert!(all.left_out > SEEDS / 10 && all.faults["hang-up"] > SEEDS / 2, "{all}");
    assert!(all.faults["one-way"] > SEEDS / 2, "{all}");
    assert!(all.leaders > 3 * SEEDS && all.hosts_lost > SEEDS, "{all}");
    assert!(["Changed", "Gone", "OldTerm"].iter().all(|why| all.refused[*why] > 0), "{all}");
}

#[test]
fn a_seed_plays_the_same_twice() {
    assert_eq!(simulator::run(7), simulator::run(7));
}
