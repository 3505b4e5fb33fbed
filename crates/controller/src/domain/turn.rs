//! Whose turn it is to build.

/// The place in line of a build with so many before it, where `at_once` run at the same time: 0 may run, 1 is next.
pub(crate) fn place(ahead: u32, at_once: u32) -> u32 {
    (ahead + 1).saturating_sub(at_once.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_run_as_may_and_the_rest_is_numbered() {
        let places: Vec<_> = (0..5).map(|ahead| place(ahead, 2)).collect();
        assert_eq!(places, [0, 0, 1, 2, 3]);
        assert_eq!((place(0, 0), place(1, 0)), (0, 1));
        assert_eq!(place(u32::MAX - 1, 1), u32::MAX - 1);
    }
}
