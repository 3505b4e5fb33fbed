//! Lists in pages: `count` and `before_id`.

use api::id::{AppId, ClusterJobId, ReleaseId};
use serde::{Deserialize, Deserializer, de};
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    store::Page,
};

/// Most entries of any page.
pub(crate) const MOST: u32 = 10_000;
/// Entries of a page of what grows without end, unless the request says otherwise.
pub(crate) const HISTORY: u32 = 1000;

/// Which page.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Paging {
    count: Option<u32>,
    before_id: Option<String>,
    /// Of releases: with their environments.
    #[serde(deserialize_with = "flag")]
    pub(crate) env: bool,
}

impl Paging {
    /// The page, of `default` entries if the request does not say.
    pub(crate) fn page(&self, default: u32) -> Result<Page> {
        // A job has the host's name before its own.
        self.page_by(default, |text| {
            let whole = Uuid::try_parse(text).ok();
            whole.or_else(|| text.parse::<ClusterJobId>().ok().map(|id| id.job.uuid()))
        })
    }

    /// Whether nothing is said of pages: who asks so reads no other.
    pub(crate) fn is_first_of_any_size(&self) -> bool {
        self.count.is_none() && self.before_id.as_ref().is_none_or(String::is_empty)
    }

    /// The page of a list of formations, which go by `<app id>/<release id>`, or within an app by the latter.
    pub(crate) fn page_of_formations(&self) -> Result<Page<(AppId, ReleaseId)>> {
        self.page_by(MOST, |text| {
            let (app, release) = text.split_once('/')?;
            Some((app.parse().ok()?, release.parse().ok()?))
        })
    }

    /// The page of a list of keys, which go by their fingerprints.
    pub(crate) fn page_of_keys(&self) -> Result<Page<String>> {
        self.page_by(MOST, |text| Some(text.replace(':', "")))
    }

    /// The page of a list of routes, which go by `<type>/<hex>`.
    pub(crate) fn page_of_routes(&self) -> Result<Page<String>> {
        self.page_by(MOST, |text| {
            let (kind, id) = text.split_once('/')?;
            Some(super::routes::full_id(kind, id))
        })
    }

    fn page_by<Id>(&self, default: u32, read: impl Fn(&str) -> Option<Id>) -> Result<Page<Id>> {
        let before = self.before_id.as_deref().filter(|id| !id.is_empty());
        let before = before.map(|text| read(text).ok_or_else(|| bad(text))).transpose()?;
        let limit = self.count.unwrap_or(default).clamp(1, MOST);
        Ok(Page { before, limit: limit.into() })
    }
}

fn bad(text: &str) -> Error {
    Error::invalid(
        "before_id",
        format!("is no id: {text:?}; give the id of the last entry you have"),
    )
}

/// `true`, `1` or nothing after the name; `false` or `0`.
pub(crate) fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(de::Error::custom(format!("{other:?} is neither true nor false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_limit_whatever_is_asked() {
        let page = |count| Paging { count, ..Paging::default() }.page(HISTORY).unwrap().limit;
        assert_eq!((page(None), page(Some(0)), page(Some(u32::MAX))), (1000, 1, 10_000));
        let bad = Paging { before_id: Some("x".into()), ..Paging::default() };
        assert!(bad.page(HISTORY).is_err());
        assert!(bad.page_of_formations().is_err());
        assert!(bad.page_of_routes().is_err());
    }

    #[test]
    fn a_list_goes_on_after_the_id_that_its_entries_have() {
        let after = |id: &str| Paging { before_id: Some(id.into()), ..Paging::default() };
        let (app, release) = (AppId::random(), ReleaseId::random());
        let page = after(&format!("{app}/{release}")).page_of_formations().unwrap();
        assert_eq!(page.before, Some((app, release)));
        assert_eq!(after("ab:cd").page_of_keys().unwrap().before, Some("abcd".into()));
        let dashed = after("http/01234567-89ab-cdef-0123-456789abcdef").page_of_routes().unwrap();
        assert_eq!(dashed.before, Some("http/0123456789abcdef0123456789abcdef".into()));
    }
}
