//! Names of refs: which git takes, and which cannot be beside each other.

use std::collections::BTreeSet;

/// Longest full name of a ref: the controller keeps no longer one, and with the `.lock` that git makes of it the last part of a
/// longer one may be none that a file can have.
pub(crate) const NAME_LEN_MAX: usize = 255;

/// Whether git takes this as the full name of a ref (`git check-ref-format`).
pub fn is_ref_name(name: &str) -> bool {
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    let odd = |c: char| c.is_control() || " ~^:?*[\\".contains(c);
    name.starts_with("refs/")
        && name.split('/').all(part)
        && !name.contains(odd)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

/// Whether a ref of this name can be made: git takes it, and all that keep it can.
pub fn can_be_kept(name: &str) -> bool {
    name.len() <= NAME_LEN_MAX && is_ref_name(name)
}

/// The name that another cannot be beside: git keeps refs as files, and one would be the folder of the other.
pub fn clash<'a>(names: &'a BTreeSet<String>, name: &str) -> Option<&'a str> {
    let above = name.match_indices('/').find_map(|(at, _)| names.get(&name[..at]));
    let folder = format!("{name}/");
    let below = names.range(folder.clone()..).next().filter(|other| other.starts_with(&folder));
    above.or(below).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn git_takes_these_names_and_not_those() {
        for name in
            ["refs/heads/a", "refs/heads/a/b.c", "refs/tags/v1.0", "refs/heads/@", "refs/heads/-x"]
        {
            assert!(is_ref_name(name), "{name}");
        }
        for name in [
            "",
            "HEAD",
            "refs/heads/",
            "refs/heads/a//b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a.lock/b",
            "refs/heads/a..b",
            "refs/heads/a.",
            "refs/heads/a@{1}",
            "refs/heads/a b",
            "refs/heads/a\u{7f}",
            "refs/heads/a:b",
        ] {
            assert!(!is_ref_name(name), "{name}");
        }
        let long = |len: usize| format!("refs/heads/{}", "a".repeat(len - "refs/heads/".len()));
        assert!(can_be_kept(&long(255)) && !can_be_kept(&long(256)) && is_ref_name(&long(256)));
    }

    #[test]
    fn a_name_clashes_with_what_is_above_and_below_it_and_with_nothing_else() {
        let names =
            BTreeSet::from(["refs/heads/a/b", "refs/heads/a-b", "refs/heads/c"].map(str::to_owned));
        for (name, with) in [
            ("refs/heads/a", Some("refs/heads/a/b")),
            ("refs/heads/a/b/c", Some("refs/heads/a/b")),
            ("refs/heads/c/d/e", Some("refs/heads/c")),
            ("refs/heads/a/b", None),
            ("refs/heads/a/c", None),
            ("refs/heads/a-", None),
            ("refs/heads/cc", None),
            ("refs/tags/c", None),
        ] {
            assert_eq!(clash(&names, name), with, "{name}");
        }
    }

    proptest! {
        #[test]
        fn two_names_clash_whichever_comes_first(one in "refs/[ab/]{1,6}", two in "refs/[ab/]{1,6}") {
            let clashes = |one: &String, two| clash(&BTreeSet::from([one.clone()]), two).is_some();
            prop_assert_eq!(clashes(&one, &two), clashes(&two, &one));
        }
    }
}
