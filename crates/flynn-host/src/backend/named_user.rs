//! Whom an image means by a name. What says so is read in the image itself, before anything of it runs.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
};

use bollard::{models::ContainerCreateBody, query_parameters::DownloadFromContainerOptionsBuilder};
use futures_util::TryStreamExt;
use uuid::Uuid;

use super::engine::{Engine, EngineError, Image, of};
use crate::domain::{single_tar, spec::LABEL_HOST, users};

/// Who has which name.
const PASSWD: &str = "/etc/passwd";
/// Most bytes of it: no user is looked for further on.
const SIZE: usize = 1 << 20;
/// Links that are followed to it.
const LINKS: usize = 8;
/// Images that are remembered.
const KNOWN: usize = 1000;

/// What is known of images: they never change.
#[derive(Debug)]
pub(crate) struct NamedUsers {
    engine: Engine,
    host: String,
    prefix: String,
    known: Mutex<BTreeMap<String, bool>>,
}

impl NamedUsers {
    pub(crate) fn new(engine: Engine, host: &str, prefix: &str) -> Self {
        Self { engine, host: host.into(), prefix: prefix.into(), known: Mutex::default() }
    }

    /// Whether the name of an image's user may stand for one by whom no job runs.
    pub(crate) async fn may_be_above(
        &self,
        image: &Image,
        name: &str,
    ) -> Result<bool, EngineError> {
        let known =
            self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&image.id).copied();
        if let Some(known) = known {
            return Ok(known);
        }
        // Not in the job's own: what is mounted there the engine does not see when it looks for the user.
        let spec = ContainerCreateBody {
            image: Some(image.id.clone()),
            cmd: Some(vec!["-".into()]),
            labels: Some(HashMap::from([(LABEL_HOST.to_owned(), self.host.clone())])),
            ..ContainerCreateBody::default()
        };
        let container = format!("{}-user-{}", self.prefix, Uuid::new_v4().simple());
        let container = self.engine.create(&container, spec).await?;
        let passwd = self.passwd(&container).await;
        self.engine.remove(&container).await?;
        let is_above = passwd?.is_none_or(|passwd| users::may_be_above(&passwd, name));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(image.id.clone(), is_above);
        Ok(is_above)
    }

    /// Who has which name in a container; nobody if that is not said, and `None` if it cannot be read.
    async fn passwd(&self, container: &str) -> Result<Option<String>, EngineError> {
        let mut path = PASSWD.to_owned();
        for _ in 0..LINKS {
            let options = DownloadFromContainerOptionsBuilder::new().path(&path).build();
            let packed = self.engine.docker().download_from_container(container, Some(options));
            let packed = packed.try_fold(Vec::new(), async |mut all, piece| {
                all.extend_from_slice(&piece[..piece.len().min(SIZE - all.len())]);
                Ok(all)
            });
            let packed = match packed.await.map_err(of(|| format!("read {path}"))) {
                Ok(packed) => packed,
                // The engine will find nobody of that name.
                Err(err) if err.is_missing() => return Ok(Some(String::new())),
                Err(err) => return Err(err),
            };
            if let Some(text) = single_tar::content(&packed) {
                return Ok(Some(String::from_utf8_lossy(text).into_owned()));
            }
            match single_tar::link(&packed).and_then(|to| led_to(&path, to)) {
                Some(next) => path = next,
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Where a link leads, unless that depends on what else is a link.
fn led_to(from: &str, to: &str) -> Option<String> {
    if to.is_empty() || to.split('/').any(|part| part == "..") {
        return None;
    }
    let (folder, _) = from.rsplit_once('/')?;
    Some(if to.starts_with('/') { to.into() } else { format!("{folder}/{to}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_where_it_is_clear_where_it_leads() {
        assert_eq!(led_to("/etc/passwd", "/nix/passwd").as_deref(), Some("/nix/passwd"));
        assert_eq!(led_to("/etc/passwd", "other").as_deref(), Some("/etc/other"));
        assert_eq!(led_to("/etc/passwd", "../other"), None);
    }
}
