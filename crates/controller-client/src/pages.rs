//! Whole lists, page by page.

use api_client::Error;
use serde::de::DeserializeOwned;

use crate::{Controller, escape};

/// Entries asked for at a time.
const PAGE: usize = 1000;

impl Controller {
    /// A list from its newest entry to its oldest, however many pages that takes. `id` is what an entry goes by.
    pub(crate) async fn whole<T: DeserializeOwned>(
        &self,
        path: &str,
        id: impl Fn(&T) -> String,
    ) -> Result<Vec<T>, Error> {
        let join = if path.contains('?') { '&' } else { '?' };
        let mut all: Vec<T> = Vec::new();
        loop {
            let mut page = format!("{path}{join}count={PAGE}");
            if let Some(last) = all.last() {
                page += &format!("&before_id={}", escape(&id(last)));
            }
            let more: Vec<T> = self.client.get(&page).await?;
            let full = more.len() == PAGE;
            all.extend(more);
            if !full {
                return Ok(all);
            }
        }
    }

    /// The newest entries of a list, at most `count`.
    pub(crate) async fn newest<T: DeserializeOwned>(
        &self,
        path: &str,
        count: usize,
    ) -> Result<Vec<T>, Error> {
        self.client.get(&format!("{path}?count={count}")).await
    }
}
