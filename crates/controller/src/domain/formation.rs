//! What a formation may say.

use api::{
    cluster::{TAG_DRAINING, TAG_FULL},
    controller::{App, META_SYSTEM_CRITICAL, Release, Tags},
    tag,
};

use crate::{
    error::{Error, Result},
    store::Counts,
};

/// Most processes of one type: more is a slip of the finger.
const MOST: u32 = 10_000;

/// Checks tags against the release.
pub(crate) fn check_tags(release: &Release, tags: &Tags) -> Result<()> {
    let bad = |message: String| Err(Error::invalid("tags", message));
    for (kind, tags) in tags {
        if !release.processes.contains_key(kind) {
            return bad(format!("has the type {kind:?}, which the release lacks"));
        }
        tag::check(tags).map_err(|err| Error::invalid("tags", format!("of {kind} {err}")))?;
        for name in tags.keys() {
            if [TAG_DRAINING, TAG_FULL].contains(&name.as_str()) {
                return bad(format!("names {name}, which is Flynn's own"));
            }
        }
    }
    Ok(())
}

/// Checks that these are types of the release, and counts that somebody can want.
pub(crate) fn check_types(release: &Release, wanted: &Counts) -> Result<()> {
    for (kind, &count) in wanted {
        if !release.processes.contains_key(kind) {
            let types: Vec<_> = release.processes.keys().map(String::as_str).collect();
            let types = if types.is_empty() { "none".into() } else { types.join(", ") };
            let message =
                format!("has the type {kind:?}, which the release lacks; its types: {types}");
            return Err(Error::invalid("processes", message));
        }
        if count > MOST {
            return Err(Error::invalid("processes", format!("{kind} is more than {MOST}")));
        }
    }
    Ok(())
}

/// Checks counts against the release, and against what runs now of an app the cluster cannot do without.
pub(crate) fn check(app: &App, release: &Release, before: &Counts, wanted: &Counts) -> Result<()> {
    check_types(release, wanted)?;
    if app.meta.get(META_SYSTEM_CRITICAL).is_some_and(|critical| critical == "true") {
        let stops = |kind: &&String| wanted.get(*kind).copied().unwrap_or_default() == 0;
        if let Some(kind) = before.iter().filter(|(_, n)| **n > 0).map(|(kind, _)| kind).find(stops)
        {
            let message = format!(
                "{kind} must not be 0: the cluster cannot do without the {kind} of {}",
                app.name
            );
            return Err(Error::invalid("processes", message));
        }
    }
    Ok(())
}
