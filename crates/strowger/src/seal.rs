//! Private keys as they lie in etcd: sealed under a key that is derived from the router's own, as text with a mark.

use base64::{Engine, engine::general_purpose::STANDARD};
use tracing::info;

use crate::store::{Resealed, Routes, StoreError};

/// What sealed text begins with; no PEM does.
const MARK: &str = "sealed:1:";
/// The name under which the key is derived.
const PURPOSE: &str = "strowger seal";

/// Seals under one key and opens under several, so that the router's key can be changed.
#[derive(Debug, Default)]
pub(crate) struct Seals {
    /// The first one seals.
    keys: Vec<daemon::Seal>,
}

/// It cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "was sealed under a STROWGER_KEY that this router does not have, or for another place: add the former key to \
     STROWGER_KEY, after a comma"
)]
pub(crate) struct SealError;

impl Seals {
    /// Under the router's keys, separated by commas: what is sealed under the first can be opened under any.
    pub(crate) fn new(keys: &str) -> Self {
        let keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty());
        let derive = |key| daemon::Seal::new(&api::key::derive(key, PURPOSE, 1));
        Self { keys: keys.map(derive).collect() }
    }

    /// Seals a text for a place. What is sealed already stays as it is.
    pub(crate) fn close(&self, place: &str, text: &str) -> String {
        let Some(key) = self.keys.first().filter(|_| !text.starts_with(MARK)) else {
            return text.to_owned();
        };
        let sealed = key.close(place, text.as_bytes().to_vec());
        format!("{MARK}{}", STANDARD.encode(sealed))
    }

    /// The text that was sealed for a place; one that was stored before anything was sealed is taken as it is.
    pub(crate) fn open(&self, place: &str, stored: &str) -> Result<String, SealError> {
        let Some(sealed) = stored.strip_prefix(MARK) else { return Ok(stored.to_owned()) };
        let sealed = STANDARD.decode(sealed).map_err(|_| SealError)?;
        let opened = self.keys.iter().find_map(|key| open(key, place, &sealed));
        opened.ok_or(SealError)
    }

    /// Whether a text would be stored otherwise today: it is plain, or sealed under a former key.
    pub(crate) fn is_stale(&self, place: &str, stored: &str) -> bool {
        let Some(current) = self.keys.first() else { return false };
        let sealed = stored.strip_prefix(MARK).and_then(|sealed| STANDARD.decode(sealed).ok());
        sealed.is_none_or(|sealed| open(current, place, &sealed).is_none())
    }
}

fn open(key: &daemon::Seal, place: &str, sealed: &[u8]) -> Option<String> {
    String::from_utf8(key.open(place, sealed)?).ok()
}

/// Seals what earlier versions stored plain, and what is sealed under a former key. Several routers may do so at once.
pub(crate) async fn seal_all(routes: &Routes) -> Result<(), StoreError> {
    let Resealed { changed, unopened } = routes.reseal().await?;
    if changed > 0 {
        info!(changed, "the private keys of {changed} certificates are sealed now");
    }
    if unopened > 0 {
        tracing::warn!(
            unopened,
            "the private keys of {unopened} certificates were sealed under a STROWGER_KEY that this router does not have"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_one_key_sealed_any_list_with_it_opens_and_none_without() {
        let sealed = Seals::new("old").close("http/a", "secret");
        assert!(!sealed.contains("secret"), "{sealed}");
        assert_eq!(Seals::new("new, old").open("http/a", &sealed).as_deref(), Ok("secret"));
        assert_eq!(Seals::new("new").open("http/a", &sealed), Err(SealError));
        assert_eq!(Seals::new("old").open("http/b", &sealed), Err(SealError), "another place");
        let cut = &sealed[..sealed.len() - 4];
        assert_eq!(Seals::new("old").open("http/a", cut), Err(SealError));
        assert_eq!(Seals::new("old").open("http/a", "plain").as_deref(), Ok("plain"));
    }

    #[test]
    fn plain_text_and_what_a_former_key_sealed_are_stale() {
        let (old, both) = (Seals::new("old"), Seals::new("new,old"));
        let sealed = old.close("http/a", "secret");
        assert!(old.is_stale("http/a", "secret") && !old.is_stale("http/a", &sealed));
        assert!(both.is_stale("http/a", &sealed));
        assert!(!both.is_stale("http/a", &both.close("http/a", "secret")));
    }

    proptest! {
        #[test]
        fn every_text_comes_back_and_nothing_panics(text: String, place: String, other: String) {
            let seal = Seals::new("key");
            let sealed = seal.close(&place, &text);
            prop_assert_eq!(seal.open(&place, &sealed).unwrap(), text);
            let _ = seal.open(&place, &format!("{MARK}{other}"));
        }
    }
}
