//! Who uses the disk.

use serde::{Deserialize, Serialize};

use crate::id::AppId;

/// What is kept of an app, in bytes: `GET /usage`. What two apps have in common counts for each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The app; absent: what belongs to none, and what is about to go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// Its name, while there is such an app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_name: Option<String>,
    /// Slugs of its releases, in shelf.
    pub slugs: u64,
    /// Images that were pushed, in shelf.
    pub images: u64,
    /// Its git repository, in shelf.
    pub repository: u64,
    /// What builds keep for the next build, in shelf.
    pub cache: u64,
    /// Everything else in shelf.
    pub other: u64,
    /// Its volumes on all hosts that answer.
    pub volumes: u64,
}

impl Usage {
    /// All of it.
    pub fn total(&self) -> u64 {
        let Self { slugs, images, repository, cache, other, volumes, .. } = self;
        [slugs, images, repository, cache, other, volumes].into_iter().sum()
    }
}
