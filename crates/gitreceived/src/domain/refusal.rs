//! Why a push is not taken.

use super::{names::NAME_LEN_MAX, told::quoted, update::CHANGES_MAX};

/// Why a push is not taken, as a sentence for the pusher.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Other than what git sends.
    #[error("This push could not be understood: git sent no list of branches.")]
    Unreadable,
    /// Too many refs.
    #[error(
        "This push has {0} branches and tags, and {CHANGES_MAX} are taken at once: push fewer."
    )]
    TooMany(usize),
    /// Two branches that are deployed, at different commits.
    #[error(
        "This push has two branches that are deployed, and they differ. Push one: git push {1} {0}"
    )]
    TwoDeploys(String, &'static str),
    /// A ref of another kind.
    #[error(
        "{0} is neither a branch nor a tag, and nothing else is kept here. To deploy that commit: git push {2} \
         <commit>:refs/heads/{1}"
    )]
    NotKept(String, String, &'static str),
    /// One ref, more than once.
    #[error("This push has {0} twice. Nothing was changed; push it once.")]
    Twice(String),
    /// A name that git cannot keep.
    #[error(
        "{0:?} is not a name that a branch or a tag can have, or longer than {NAME_LEN_MAX} bytes. Nothing was changed."
    )]
    BadName(String),
    /// A name that cannot be beside another.
    #[error(
        "Cannot create '{name}': there is '{other}', and of two such names one would have to be the folder of the other. Nothing \
         was changed; use another name."
    )]
    Clash {
        /// What was pushed.
        name: String,
        /// What it cannot be beside.
        other: String,
    },
    /// Another name of what is deployed, as a branch that is not.
    #[error(
        "{name} is another name of {of} here, which is deployed. Nothing was changed; push it: git push {remote} \
         <commit>:{of}"
    )]
    Alias {
        /// What was pushed.
        name: String,
        /// What it stands for.
        of: String,
        /// How a server is called.
        remote: &'static str,
    },
    /// Two names of one ref: git reports of one of them that nothing was reported.
    #[error("{0} and {1} are one branch here. Nothing was changed; push one of them.")]
    SameRef(String, String),
    /// A name and what it stands for, of which one goes.
    #[error(
        "{name} stands for {of} here, and a push that deletes one of them cannot name the other. Nothing was changed; push them one \
         after the other."
    )]
    Together {
        /// The name.
        name: String,
        /// What it stands for.
        of: String,
    },
    /// A tag that is another name of a branch.
    #[error(
        "The tag {name} stands for the branch {of} here, which would move with it. Nothing was changed; push {of}, or delete the tag \
         first: git push {remote} {}",
        quoted(&format!(":refs/tags/{name}"))
    )]
    TagAlias {
        /// What was pushed.
        name: String,
        /// What it stands for.
        of: String,
        /// How a server is called.
        remote: &'static str,
    },
    /// What the branch that is deployed stands for, and is no branch by itself that could be deployed.
    #[error(
        "{name} would move {of} here, which is deployed and stands for the same. Nothing was changed; push that: git push {remote} \
         <commit>:{of}"
    )]
    Way {
        /// What was pushed.
        name: String,
        /// The branch that is deployed.
        of: String,
        /// How a server is called.
        remote: &'static str,
    },
    /// The deletion of what the branch that is deployed stands for.
    #[error(
        "{name} cannot be deleted, for {of} stands for it here, which is deployed. Nothing was changed."
    )]
    WayGone {
        /// What was to go.
        name: String,
        /// The branch that is deployed.
        of: String,
    },
    /// The deletion of what is deployed.
    #[error("{0} cannot be deleted, for it is what {1}")]
    Deletion(String, &'static str),
}
