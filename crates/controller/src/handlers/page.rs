//! Lists in pages: `count` and `before_id`.

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
        let before = self.before_id.as_deref().filter(|id| !id.is_empty());
        // A job has the host's name before its own.
        let id = |text: &str| {
            let whole = Uuid::try_parse(text).ok();
            whole.or_else(|| text.parse::<api::id::ClusterJobId>().ok().map(|id| id.job.uuid()))
        };
        let before = before.map(|text| id(text).ok_or_else(|| bad(text))).transpose()?;
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
    }
}
