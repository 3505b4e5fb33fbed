//! Identifiers. An id is a type, so that a release id cannot be passed where an app id is meant.
//!
//! On the wire every id is 32 lower-case hex digits; dashes are accepted on input.

use std::{fmt, marker::PhantomData, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// A UUID that says what it names.
pub struct Id<Kind>(Uuid, PhantomData<fn() -> Kind>);

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $alias:ident;)*) => {$(
        #[doc = concat!("Marks the ids of a kind; see [`", stringify!($alias), "`].")]
        #[derive(Debug)]
        pub enum $kind {}
        $(#[$doc])*
        pub type $alias = Id<$kind>;
    )*};
}

kinds! {
    /// Names an app.
    AppKind AppId;
    /// Names a release of an app.
    ReleaseKind ReleaseId;
    /// Names an artifact.
    ArtifactKind ArtifactId;
    /// Names a job on its host; with the host's id it is unique in the cluster, see [`ClusterJobId`].
    JobKind JobId;
    /// Names a deployment.
    DeploymentKind DeploymentId;
    /// Names a change of how many processes run.
    ScaleRequestKind ScaleRequestId;
    /// Names a resource provider.
    ProviderKind ProviderId;
    /// Names a provisioned resource.
    ResourceKind ResourceId;
    /// Names a place where logs go besides.
    SinkKind SinkId;
}

impl<K> Id<K> {
    /// Draws a new random id (UUID version 4).
    pub fn random() -> Self {
        Self::from(Uuid::new_v4())
    }

    /// The id as the databases keep it.
    pub fn uuid(self) -> Uuid {
        self.0
    }
}

impl<K> From<Uuid> for Id<K> {
    fn from(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Id<K> {}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an id (32 hex digits)")]
pub struct InvalidId(pub String);

impl<K> FromStr for Id<K> {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.len() {
            32 | 36 => Uuid::try_parse(text).map(Self::from).map_err(|_| InvalidId(text.into())),
            _ => Err(InvalidId(text.chars().take(64).collect())),
        }
    }
}

impl<K> Serialize for Id<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de, K> Deserialize<'de> for Id<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// A job's name in the whole cluster: `<host id>-<job id>`.
///
/// The job part is the trailing 32 hex digits or dashed UUID; the host part is what precedes it and may hold dashes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterJobId {
    /// The host the job runs on.
    pub host: String,
    /// The job on that host.
    pub job: JobId,
}

impl fmt::Display for ClusterJobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.host, self.job)
    }
}

impl FromStr for ClusterJobId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        [36, 32]
            .into_iter()
            .filter_map(|len| text.len().checked_sub(len))
            .filter(|&at| at > 1 && text.is_char_boundary(at) && text.as_bytes()[at - 1] == b'-')
            .find_map(|at| {
                let job = text[at..].parse().ok()?;
                Some(Self { host: text[..at - 1].into(), job })
            })
            .ok_or_else(|| InvalidId(text.chars().take(128).collect()))
    }
}

impl Serialize for ClusterJobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for ClusterJobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_reads_back_with_and_without_dashes(bits: u128) {
            let id = AppId::from(Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().len(), 32);
            prop_assert_eq!(id.to_string().parse::<AppId>(), Ok(id));
            prop_assert_eq!(id.uuid().hyphenated().to_string().parse::<AppId>(), Ok(id));
        }

        #[test]
        fn a_cluster_job_id_reads_back_whatever_dashes_the_host_has(host in "[a-z0-9-]{1,40}", bits: u128) {
            let id = ClusterJobId { host, job: Uuid::from_u128(bits).into() };
            prop_assert_eq!(id.to_string().parse::<ClusterJobId>(), Ok(id));
        }

        #[test]
        fn parsing_never_panics(text in ".{0,80}") {
            let _ = text.parse::<AppId>();
            let _ = text.parse::<ClusterJobId>();
        }
    }
}
