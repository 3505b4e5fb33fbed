//! Volumes as they are listed: by a host of its own, by the controller of all hosts.

use serde::{Deserialize, Serialize};

use crate::id::{AppId, JobId};

/// A volume a host keeps: `GET /host/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostVolume {
    /// Its name: [`crate::expand::volume_name`].
    pub name: String,
    /// What its files take of the disk.
    #[serde(flatten)]
    pub size: Size,
    /// The jobs that have it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobId>,
}

/// Bytes that were counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// So many.
    pub bytes: u64,
    /// There are more: all the files were too many to count.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
}

/// A volume of the cluster: `GET /volumes`, `GET /apps/:app/volumes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name, which is its id.
    pub id: String,
    /// The host that has its data.
    pub host_id: String,
    /// The app it belongs to, or belonged to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppId>,
    /// That app's name, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_name: Option<String>,
    /// The process type that has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub job_type: String,
    /// Where its processes see it, if its name tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What its files take of the disk; absent while its host does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// The jobs that have it now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<JobId>,
}

/// Whose a volume is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// The app.
    pub app: AppId,
    /// Its process type.
    pub kind: String,
    /// The path, unless it was too long to stand in the name.
    pub path: Option<String>,
}

impl Owner {
    /// Reads what [`crate::expand::volume_name`] wrote.
    pub fn of(name: &str) -> Option<Self> {
        let mut parts = name.splitn(3, '.');
        let (app, kind, escaped) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { app: app.parse().ok()?, kind: kind.into(), path: unescaped(escaped) })
    }
}

fn unescaped(text: &str) -> Option<String> {
    let (mut bytes, mut rest) = (vec![b'/'], text);
    while let Some(first) = rest.bytes().next() {
        let length = if first == b'_' { 3 } else { 1 };
        let piece = rest.get(..length)?;
        bytes.push(match piece.strip_prefix('_') {
            Some(digits) => u8::from_str_radix(digits, 16).ok()?,
            None => first,
        });
        rest = &rest[length..];
    }
    // A long path is only its digest.
    if text.len() == 65 && text.starts_with('_') {
        return None;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::expand::volume_name;

    proptest! {
        #[test]
        fn a_name_tells_whose_volume_it_is(kind in "[a-z][a-z0-9-]{0,20}", path in "/[a-zA-Z0-9._/é-]{1,60}[a-z]") {
            let app = AppId::random();
            let owner = Owner::of(&volume_name(app, &kind, &path)).unwrap();
            prop_assert_eq!((owner.app, owner.kind), (app, kind));
            if let Some(read) = owner.path {
                prop_assert_eq!(read.trim_matches('/'), path.trim_matches('/'));
            }
        }

        #[test]
        fn reading_never_panics(name in "(0123456789abcdef0123456789abcdef\\.web\\.)?\\PC{0,70}") {
            let _ = Owner::of(&name);
        }
    }

    #[test]
    fn other_names_are_nobody_s_and_long_paths_are_not_read() {
        assert_eq!(Owner::of("postgres-postgres-data"), None);
        let app = AppId::random();
        let long = Owner::of(&volume_name(app, "db", &"/long".repeat(50))).unwrap();
        assert_eq!((long.kind.as_str(), long.path), ("db", None));
        let path = Owner::of(&volume_name(app, "db", "/var/lib/data")).unwrap().path;
        assert_eq!(path.as_deref(), Some("/var/lib/data"));
    }
}
