//! Which pushes are taken: one update of `refs/heads/master` to a commit.

/// The only ref there is.
pub const MASTER: &str = "refs/heads/master";
/// Most text a hook may send about its refs.
pub const UPDATES_LEN_MAX: usize = 1 << 20;

/// A push that is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What master is now, if there is one.
    pub old: Option<String>,
    /// What it shall be.
    pub new: String,
}

/// Why a push is not taken, as a sentence for the pusher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Other than what git sends.
    #[error("This push could not be understood: git sent no list of branches.")]
    Unreadable,
    /// More than one ref.
    #[error(
        "Only master is deployed, and this push has {0} branches or tags. Push it alone: git push flynn master"
    )]
    Several(usize),
    /// Another branch.
    #[error("Only master is deployed. To deploy this branch: git push flynn {0}:master")]
    Branch(String),
    /// A tag or a ref of another kind.
    #[error(
        "Only master is deployed, and {0} is not a branch. To deploy that commit: git push flynn <commit>:refs/heads/master"
    )]
    NotBranch(String),
    /// The deletion of master.
    #[error(
        "master cannot be deleted, for it is what the app runs. To remove the app: flynn delete"
    )]
    Deletion,
}

/// Decides about the lines a pre-receive hook gets: `<old> <new> <ref>`.
pub fn judge(updates: &str) -> Result<Update, Refusal> {
    let lines: Vec<&str> = updates.lines().collect();
    let [line] = lines[..] else {
        return Err(match lines.len() {
            0 => Refusal::Unreadable,
            several => Refusal::Several(several),
        });
    };
    let mut parts = line.splitn(3, ' ');
    let (Some(old), Some(new), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::Unreadable);
    };
    if ![old, new].into_iter().all(is_object_id) {
        return Err(Refusal::Unreadable);
    }
    let shown = |name: &str| name.chars().filter(|c| !c.is_control()).take(100).collect();
    match name.strip_prefix("refs/heads/") {
        Some("master") if is_zero(new) => Err(Refusal::Deletion),
        Some("master") => {
            Ok(Update { old: (!is_zero(old)).then(|| old.to_owned()), new: new.to_owned() })
        }
        Some(branch) => Err(Refusal::Branch(shown(branch))),
        None => Err(Refusal::NotBranch(shown(name.strip_prefix("refs/").unwrap_or(name)))),
    }
}

/// 40 hex digits, or 64 in a SHA-256 repository.
pub fn is_object_id(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_zero(id: &str) -> bool {
    id.bytes().all(|b| b == b'0')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: &str = "0000000000000000000000000000000000000000";
    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";

    #[test]
    fn one_update_of_master_is_taken_and_everything_else_says_what_to_type() {
        let first = judge(&format!("{ZERO} {ONE} {MASTER}\n"));
        assert_eq!(first, Ok(Update { old: None, new: ONE.into() }));
        let next = judge(&format!("{ONE} {TWO} {MASTER}"));
        assert_eq!(next, Ok(Update { old: Some(ONE.into()), new: TWO.into() }));
        assert_eq!(judge(&format!("{ONE} {ZERO} {MASTER}\n")), Err(Refusal::Deletion));
        assert_eq!(judge(""), Err(Refusal::Unreadable));
        assert_eq!(judge("x y refs/heads/master"), Err(Refusal::Unreadable));
        let main = judge(&format!("{ZERO} {ONE} refs/heads/main\n")).unwrap_err();
        assert!(main.to_string().ends_with("git push flynn main:master"), "{main}");
        let tag = judge(&format!("{ZERO} {ONE} refs/tags/v1\n")).unwrap_err();
        assert!(tag.to_string().contains("tags/v1 is not a branch"), "{tag}");
        let two = format!("{ZERO} {ONE} {MASTER}\n{ZERO} {ONE} refs/heads/x\n");
        assert_eq!(judge(&two), Err(Refusal::Several(2)));
    }

    proptest! {
        #[test]
        fn judging_never_panics_and_passes_on_only_object_ids(updates in "([0-9a-f]{40} [0-9a-f]{40} refs/heads/master\n?|.{0,60})") {
            if let Ok(Update { old, new }) = judge(&updates) {
                prop_assert!(is_object_id(&new) && old.is_none_or(|old| is_object_id(&old)));
            }
        }
    }
}
