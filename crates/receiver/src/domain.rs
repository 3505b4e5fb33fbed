//! Pure rules: what a result must be, what is said about a deployment.

use std::collections::BTreeMap;

pub use api::controller::META_BUILD;
use api::{
    controller::{ArtifactType, Job, JobState, NewArtifact, NewHead, NewPush},
    id::ReleaseId,
    slug::BuildResult,
};

use crate::Failure;

/// Longest result looked at.
pub const RESULT_LEN_MAX: u64 = 1 << 20;
/// The image slugs run on.
const RUNNER: &str = "docker:///flynn/slugrunner";

/// Understands what a build says it made, which code of the app's own may have written, and checks it against the slug
/// that is really there.
pub fn check_result(json: &[u8], slug: Option<(u64, String)>) -> Result<BuildResult, Failure> {
    let result: BuildResult =
        serde_json::from_slice(json).map_err(|err| Failure::BadResult(err.to_string()))?;
    let Some((size, sha256)) = slug else {
        return Err(Failure::BadResult("it stored no slug".into()));
    };
    if (size, &sha256) != (result.slug.size, &result.slug.sha256) {
        return Err(Failure::BadResult("its slug is another one than it says".into()));
    }
    if result.types.is_empty() {
        return Err(Failure::NoTypes(Box::new(result)));
    }
    Ok(result)
}

/// Where a slug stays in shelf.
pub fn slug_path(sha256: &str) -> String {
    format!("/slugs/{sha256}.tgz")
}

/// What the controller is asked for.
pub fn push(result: BuildResult, head: NewHead, build: &str, pusher: &str) -> NewPush {
    let BuildResult { types, buildpack, config_vars, slug, .. } = result;
    let buildpack: String = buildpack.chars().filter(|c| !c.is_control()).take(100).collect();
    let meta = [
        ("git", "true"),
        ("git.commit", head.new.as_str()),
        ("buildpack", &buildpack),
        ("pusher", pusher),
        (META_BUILD, build),
    ];
    let meta = meta.into_iter().filter(|(_, value)| !value.is_empty());
    NewPush {
        slug: NewArtifact {
            id: None,
            kind: ArtifactType::File,
            uri: format!("http://shelf.discoverd{}", slug_path(&slug.sha256)),
            meta: BTreeMap::from([
                ("sha256".into(), slug.sha256),
                ("size".into(), slug.size.to_string()),
            ]),
        },
        image: NewArtifact {
            id: None,
            kind: ArtifactType::Docker,
            uri: RUNNER.into(),
            meta: BTreeMap::new(),
        },
        types: types.into_keys().collect(),
        config_vars,
        meta: meta.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        head,
    }
}

/// `web 0 -> 1, worker 2`: from how many processes of each type to how many.
pub fn scale(old: &BTreeMap<String, u32>, new: &BTreeMap<String, u32>) -> String {
    let types = new.iter().filter(|&(kind, count)| *count > 0 || old.contains_key(kind));
    let types = types.map(|(kind, &count)| match old.get(kind).copied().unwrap_or_default() {
        before if before == count => format!("{kind} {count}"),
        before => format!("{kind} {before} -> {count}"),
    });
    types.collect::<Vec<_>>().join(", ")
}

/// What a change of a job says to somebody who waits for `release`; nothing if it is not one of its processes.
pub fn job_line(job: &Job, release: ReleaseId) -> Option<String> {
    if job.release != release || job.kind.is_empty() {
        return None;
    }
    let state = match job.state {
        JobState::Starting => "starting",
        JobState::Up => "up",
        JobState::Crashed => "crashed",
        JobState::Pending if job.host_error.is_some() => "waiting",
        JobState::Pending | JobState::Stopping | JobState::Down => return None,
    };
    let mut line = format!("{} {state} ({})", job.kind, job.id);
    if let Some(why) = job.host_error.as_ref().filter(|why| !why.is_empty()) {
        line.push_str(&format!(": {why}"));
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(counts: &[(&str, u32)]) -> BTreeMap<String, u32> {
        counts.iter().map(|&(kind, count)| (kind.into(), count)).collect()
    }

    const RESULT: &str =
        r#"{"types":{"web":"node ."},"buildpack":"Node.js","slug":{"sha256":"ab","size":3}}"#;

    #[test]
    fn a_result_counts_only_with_the_slug_it_names_and_something_to_run() {
        let slug = |size, sha256: &str| Some((size, sha256.to_owned()));
        let result = check_result(RESULT.as_bytes(), slug(3, "ab")).unwrap();
        assert_eq!(result.types.len(), 1);
        for slug in [None, slug(4, "ab"), slug(3, "ac")] {
            assert!(matches!(check_result(RESULT.as_bytes(), slug), Err(Failure::BadResult(_))));
        }
        let idle = RESULT.replace("\"web\":\"node .\"", "");
        let failure = check_result(idle.as_bytes(), slug(3, "ab")).unwrap_err();
        assert!(failure.to_string().starts_with("Node.js found nothing to run"), "{failure}");
    }

    #[test]
    fn a_push_names_slug_and_image_by_what_never_moves() {
        let result = check_result(RESULT.as_bytes(), Some((3, "ab".into()))).unwrap();
        let head =
            NewHead { old: None, new: "c0ffee".into(), packs: vec!["/p".into()], packs_old: None };
        let push = push(result, head, "b1", "");
        assert_eq!(push.slug.uri, "http://shelf.discoverd/slugs/ab.tgz");
        assert_eq!(push.slug.meta["sha256"], "ab");
        assert_eq!(push.types, ["web"]);
        assert_eq!(push.meta["git.commit"], "c0ffee");
        assert!(!push.meta.contains_key("pusher"));
    }

    #[test]
    fn a_deployment_is_told_by_its_counts() {
        let (old, new) =
            (counts(&[("web", 2), ("clock", 1)]), counts(&[("web", 2), ("clock", 0), ("idle", 0)]));
        assert_eq!(scale(&counts(&[]), &counts(&[("web", 1)])), "web 0 -> 1");
        assert_eq!(scale(&old, &new), "clock 1 -> 0, web 2");
    }

    proptest! {
        #[test]
        fn reading_a_result_never_panics(json: Vec<u8>, size: u64) {
            let _ = check_result(&json, Some((size, "ab".into())));
        }
    }
}
