//! What a process does about signals, out of `/proc/<pid>/status`, as proc(5) describes it.

/// Whether a process has a handler for a signal.
pub(crate) fn catches(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    signal.checked_sub(1).and_then(|bit| mask.checked_shr(bit)).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_counts_signals_from_one() {
        let status =
            "Name:\tsh\nSigIgn:\tffffffffffffffff\nSigCgt:\t0000000000014002\nCapInh:\t0\n";
        let caught: Vec<u32> = (0..80).filter(|signal| catches(status, *signal)).collect();
        assert_eq!(caught, [2, 15, 17]);
    }

    #[test]
    fn what_cannot_be_read_catches_nothing() {
        for status in ["", "Name:\tsh", "SigCgt:", "SigCgt:\tnothing"] {
            assert!(!catches(status, 15), "{status:?}");
        }
    }
}
