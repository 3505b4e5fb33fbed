//! The SSH user of a connection: anybody may say any, and a command of the operator's own gets it as an argument.

/// Longest user taken.
const LEN_MAX: usize = 255;

/// Whether a user may be handed to a program: never an option of it, never empty, never what a line of a log cannot show.
pub fn is_plain(user: &str) -> bool {
    !user.is_empty()
        && user.len() <= LEN_MAX
        && !user.starts_with('-')
        && !user.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn users_that_a_program_could_take_for_an_option_are_none() {
        for user in
            ["", "-h", "--help", "-V", "--version", "--", "-", "a\0", "a\nb", &"a".repeat(256)]
        {
            assert!(!is_plain(user), "{user:?}");
        }
        for user in ["git", "flynn", "a.b@c", "über", "a-b"] {
            assert!(is_plain(user), "{user:?}");
        }
    }

    proptest! {
        #[test]
        fn no_plain_user_is_an_option(user in "-{0,2}\\PC{0,20}") {
            prop_assert!(!is_plain(&user) || !user.starts_with('-'));
        }
    }
}
