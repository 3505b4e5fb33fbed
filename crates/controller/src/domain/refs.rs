//! The branches and tags of a repository that are kept and not deployed.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Most of them an app may have.
const REFS_MAX: usize = 1000;
/// Longest name of one.
const NAME_LEN_MAX: usize = 255;

/// The refs after a change of some of them.
pub(crate) fn changed(
    mut refs: BTreeMap<String, String>,
    change: &BTreeMap<String, Option<String>>,
) -> Result<BTreeMap<String, String>> {
    for (name, id) in change {
        if !is_name(name) {
            return Err(Error::invalid(
                "refs",
                format!("{name:?} is not the full name of a branch or tag"),
            ));
        }
        match id {
            Some(id) if is_object_id(id) => drop(refs.insert(name.clone(), id.clone())),
            Some(_) => return Err(Error::invalid("refs", format!("{name} is at no object"))),
            None => drop(refs.remove(name)),
        }
    }
    if refs.len() > REFS_MAX {
        let many =
            format!("would be more than {REFS_MAX}: delete some (git push flynn --delete <name>)");
        return Err(Error::invalid("refs", many));
    }
    Ok(refs)
}

fn is_name(name: &str) -> bool {
    let plain = |c: char| !c.is_control() && !" ~^:?*[\\".contains(c);
    name.starts_with("refs/")
        && name.len() <= NAME_LEN_MAX
        && !name.contains("..")
        && name.chars().all(plain)
}

fn is_object_id(id: &str) -> bool {
    matches!(id.len(), 40 | 64) && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn change(name: &str, id: Option<String>) -> BTreeMap<String, Option<String>> {
        BTreeMap::from([(name.to_owned(), id)])
    }

    #[test]
    fn branches_come_move_and_go_and_nothing_else_is_kept() {
        let (one, two) = ("1".repeat(40), "2".repeat(40));
        let refs = changed(BTreeMap::new(), &change("refs/heads/x", Some(one))).unwrap();
        let refs = changed(refs, &change("refs/tags/v1", Some(two.clone()))).unwrap();
        let refs = changed(refs, &change("refs/heads/x", None)).unwrap();
        assert_eq!(refs, BTreeMap::from([("refs/tags/v1".into(), two.clone())]));
        assert!(changed(refs.clone(), &change("master", Some(two.clone()))).is_err());
        assert!(changed(refs.clone(), &change("refs/heads/a..b", Some(two))).is_err());
        assert!(changed(refs, &change("refs/heads/x", Some("HEAD".into()))).is_err());
    }

    proptest! {
        #[test]
        fn only_names_and_ids_are_kept(name in ".{0,30}", id in proptest::option::of(".{0,50}")) {
            for (name, id) in changed(BTreeMap::new(), &change(&name, id)).unwrap_or_default() {
                prop_assert!(is_name(&name) && is_object_id(&id));
            }
        }
    }
}
