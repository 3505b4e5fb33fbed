//! Wishes that are changes: each names what it changes, and what it was made from.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::id::{AppId, ReleaseId, ScaleRequestId};

/// Where a [`ScaleRequest`] is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScaleState {
    /// Asked for.
    #[default]
    Pending,
    /// Taken back.
    Cancelled,
    /// Written down: from here on it is what the cluster works towards.
    Complete,
}

/// Body and answer of `PUT /apps/:app/scale/:release`: a change of how many processes run. During a deployment it changes
/// what the deployment ends with, whichever of its two releases is named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScaleRequest {
    /// Id; the controller draws one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ScaleRequestId>,
    /// App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// Release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// State; the body says pending.
    #[serde(default)]
    pub state: ScaleState,
    /// In the body: counts the change was made from, compared type by type; 409 if another is there now. In the answer: all
    /// counts before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_processes: Option<BTreeMap<String, u32>>,
    /// In the body: counts of the types to change; what is not named stays. In the answer: all counts after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_processes: Option<BTreeMap<String, u32>>,
    /// Host tags by type, before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_tags: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// Host tags by type, of the types to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_tags: Option<BTreeMap<String, BTreeMap<String, String>>>,
    /// Made at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// Changed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<Timestamp>,
}

/// What a change of an app's release was made from: the release that serves or, while one is being deployed, that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Base {
    /// From this release.
    Release(ReleaseId),
    /// The app had none: the word `none`.
    Nothing(NoRelease),
}

/// The word for an app without a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoRelease {
    /// The only one.
    None,
}

impl Base {
    /// What a change is made from if this serves.
    pub fn of(release: Option<ReleaseId>) -> Self {
        release.map_or(Self::Nothing(NoRelease::None), Self::Release)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_an_id_or_the_word_none() {
        let release = ReleaseId::random();
        let wire = |base| serde_json::to_string(&base).unwrap();
        assert_eq!(wire(Base::of(None)), "\"none\"");
        assert_eq!(wire(Base::of(Some(release))), format!("\"{release}\""));
        for base in [Base::of(None), Base::of(Some(release))] {
            assert_eq!(serde_json::from_str::<Base>(&wire(base)).unwrap(), base);
        }
    }
}
