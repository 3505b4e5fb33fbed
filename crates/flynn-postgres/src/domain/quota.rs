//! What a role may do in a database that has become too large.

/// What a role may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Full,
    /// Its sessions begin as readers. One that says otherwise can still delete and vacuum.
    ReadOnly,
    /// It is not let in: it went on to write.
    None,
}

/// What a role may do in its database of so many bytes, of which there may be `most`. What was taken comes back only when
/// there is room again, so that it does not come and go with every row.
pub fn access(size: u64, most: u64, now: Access) -> Access {
    let (much, less) = (most.saturating_add(most / 4), most - most / 20);
    match now {
        _ if size > much => Access::None,
        Access::Full if size <= most => Access::Full,
        _ if size <= less => Access::Full,
        // It is not let in again by shrinking a little: only an operator makes it shrink.
        Access::None if size > most => Access::None,
        _ => Access::ReadOnly,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_role_reads_above_the_quota_is_out_far_above_it_and_writes_again_below() {
        let steps = [
            (99, Access::Full),
            (100, Access::Full),
            (101, Access::ReadOnly),
            (98, Access::ReadOnly),
            (95, Access::Full),
            (126, Access::None),
            (120, Access::None),
            (100, Access::ReadOnly),
            (10, Access::Full),
        ];
        let mut now = Access::Full;
        for (size, then) in steps {
            now = access(size, 100, now);
            assert_eq!(now, then, "at {size}");
        }
    }

    proptest! {
        #[test]
        fn who_is_above_never_writes_and_who_is_empty_always_does(size: u64, most: u64, at in 0..3) {
            let now = [Access::Full, Access::ReadOnly, Access::None][at as usize];
            prop_assert_eq!(access(0, most, now), Access::Full);
            if size > most {
                prop_assert_ne!(access(size, most, now), Access::Full);
            }
        }
    }
}
