//! With a planted bug in the code under test the simulator must fail: `script/soak planted` builds each. Empty otherwise.
#![cfg(any(
    feature = "plant-ignore-term",
    feature = "plant-skip-version",
    feature = "plant-forget-list",
    feature = "plant-keep-orders"
))]

/// A bug that no seed of so many shows is one the simulator does not find.
const SEEDS: u64 = 1000;

#[test]
fn a_planted_bug_is_found() {
    let found = (0..SEEDS).find_map(|seed| simulator::run(seed).err());
    let found = found.unwrap_or_else(|| panic!("{SEEDS} seeds passed in spite of the bug"));
    println!("found by seed {}: {}", found.seed, found.what);
}
