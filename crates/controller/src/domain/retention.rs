//! What is kept: of each app the last releases and what runs; in shelf what those need. Everything else goes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use api::{
    blob::Blob,
    id::{AppId, ReleaseId},
};
use jiff::Timestamp;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Releases of each app, besides those that run or are being deployed.
    pub releases: usize,
    /// Nothing is deleted sooner after it was made: longer than any upload and any build, for what is on its way is named
    /// by nothing yet.
    pub delay: Duration,
    /// How long events and ended deployments are kept.
    pub history: Duration,
    /// Bytes that the build caches of all apps may have.
    pub caches: u64,
    /// Pause between two looks for what may go.
    pub interval: Duration,
}

impl Policy {
    /// With another delay, and looks so frequent that nothing stays much longer than it.
    #[must_use]
    pub fn with_delay(self, delay: Duration) -> Self {
        let shortest = Duration::from_secs(1).min(self.interval);
        Self { delay, interval: (delay / 4).clamp(shortest, self.interval), ..self }
    }
}

impl Default for Policy {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        let interval = Duration::from_secs(600);
        Self { releases: 10, delay: day, history: 30 * day, caches: 20 << 30, interval }
    }
}

/// A release that may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Its id.
    pub(crate) id: ReleaseId,
    /// Whose it is.
    pub(crate) app: AppId,
    /// Made at.
    pub(crate) created_at: Timestamp,
    /// It is an app's current one, has processes, is being deployed, or a job of it has not ended.
    pub(crate) needed: bool,
}

/// The releases to delete.
pub(crate) fn old_releases(
    all: &[Candidate],
    policy: &Policy,
    now: Timestamp,
) -> BTreeSet<ReleaseId> {
    let mut of_apps: BTreeMap<AppId, Vec<&Candidate>> = BTreeMap::new();
    for release in all {
        of_apps.entry(release.app).or_default().push(release);
    }
    let mut old = BTreeSet::new();
    for releases in of_apps.values_mut() {
        releases.sort_by_key(|release| (std::cmp::Reverse(release.created_at), release.id));
        let beyond = releases.iter().skip(policy.releases);
        let gone = beyond.filter(|one| !one.needed && is_past(one.created_at, policy.delay, now));
        old.extend(gone.map(|release| release.id));
    }
    old
}

/// Whether something of this time is older than `delay`.
fn is_past(at: Timestamp, delay: Duration, now: Timestamp) -> bool {
    let age = now.duration_since(at);
    !age.is_negative() && age.unsigned_abs() >= delay
}

/// What is named by what is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    /// URIs and facts of the artifacts there are.
    pub(crate) artifacts: Vec<String>,
    /// Packs of the apps' repositories, by their digests.
    pub(crate) packs: BTreeSet<(AppId, String)>,
    /// Apps that were not deleted, or not long ago.
    pub(crate) apps: BTreeSet<AppId>,
}

/// The blobs of shelf to delete: of slugs, images, packs, caches and builds, what nothing needs. What has a path of
/// another form is somebody else's and stays.
pub(crate) fn unneeded<'a>(
    blobs: &'a [Blob],
    kept: &Kept,
    policy: &Policy,
    now: Timestamp,
) -> Vec<&'a Blob> {
    let named: BTreeSet<&str> = kept.artifacts.iter().flat_map(|text| digests(text)).collect();
    let mut gone: Vec<&Blob> = blobs
        .iter()
        .filter(|blob| is_past(blob.modified, policy.delay, now))
        .filter(|blob| !is_needed(&blob.path, &named, kept))
        .collect();
    let mut caches: Vec<&Blob> =
        blobs.iter().filter(|blob| blob.path.starts_with("/cache/")).collect();
    caches.retain(|cache| gone.iter().all(|blob| blob.path != cache.path));
    caches.sort_by_key(|cache| (std::cmp::Reverse(cache.modified), cache.path.clone()));
    let mut bytes = 0_u64;
    for cache in caches {
        bytes = bytes.saturating_add(cache.size);
        // A cache is only faster: it may go at any age.
        if bytes > policy.caches {
            gone.push(cache);
        }
    }
    gone
}

fn is_needed(path: &str, named: &BTreeSet<&str>, kept: &Kept) -> bool {
    let mut parts = path.trim_start_matches('/').splitn(3, '/');
    let folder = parts.next().unwrap_or_default();
    let first = parts.next().unwrap_or_default();
    let stem = |name: &'_ str| name.split('.').next().unwrap_or_default().to_owned();
    match (folder, parts.next()) {
        ("slugs" | "images", None) => named.contains(stem(first).as_str()),
        ("repos", Some(pack)) => {
            first.parse().is_ok_and(|app: AppId| kept.packs.contains(&(app, stem(pack))))
        }
        ("cache", _) => stem(first).parse().is_ok_and(|app: AppId| kept.apps.contains(&app)),
        ("builds", Some(_)) => false,
        _ => true,
    }
}

/// The SHA-256 digests in a text.
fn digests(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn blob(path: String, size: u64, modified: i64) -> Blob {
        Blob { path, size, sha256: String::new(), modified: at(modified) }
    }

    fn app(n: u8) -> AppId {
        uuid::Uuid::from_bytes([n; 16]).into()
    }

    fn sha(n: u8) -> String {
        hex::encode([n; 32])
    }

    const NOW: i64 = 1_000_000;

    proptest! {
        #[test]
        fn what_runs_and_the_last_ten_of_each_app_stay(
            all in prop::collection::vec((0..3_u8, 0..NOW, any::<bool>()), 0..80)
        ) {
            let all: Vec<_> = all.into_iter().enumerate().map(|(i, (a, created, needed))| Candidate {
                id: uuid::Uuid::from_u128(i as u128).into(),
                app: app(a),
                created_at: at(created),
                needed,
            }).collect();
            let policy = Policy { delay: Duration::from_secs(1000), ..Policy::default() };
            let old = old_releases(&all, &policy, at(NOW));
            for release in &all {
                let newer = all.iter().filter(|one| one.app == release.app && one.created_at > release.created_at);
                let stays = release.needed || newer.count() < 10 && !old.contains(&release.id)
                    || release.created_at > at(NOW - 1000);
                prop_assert!(stays || old.contains(&release.id) || all.iter().filter(|o|
                    o.app == release.app && o.created_at >= release.created_at).count() <= 10);
                if release.needed || release.created_at > at(NOW - 1000) {
                    prop_assert!(!old.contains(&release.id));
                }
            }
            for a in 0..3 {
                let count = all.iter().filter(|one| one.app == app(a)).count();
                let left = all.iter().filter(|one| one.app == app(a) && !old.contains(&one.id)).count();
                prop_assert!(left >= count.min(10));
            }
        }

        #[test]
        fn nothing_that_is_named_or_young_is_deleted(
            blobs in prop::collection::vec((0..6_u8, 0..4_u8, 0..4_u8, 0..NOW, 1..100_u64), 0..60),
            named in prop::collection::btree_set(0..4_u8, 0..4),
            apps in prop::collection::btree_set(0..4_u8, 0..4),
        ) {
            let mut all: BTreeMap<String, Blob> = BTreeMap::new();
            for (kind, a, n, modified, size) in blobs {
                let path = match kind {
                    0 => format!("/slugs/{}.tgz", sha(n)),
                    1 => format!("/images/{}.tar", sha(n)),
                    2 => format!("/repos/{}/{}.pack", app(a), sha(n)),
                    3 => format!("/cache/{}.tgz", app(a)),
                    4 => format!("/builds/{n}/source.tar"),
                    _ => format!("/other/{}", sha(n)),
                };
                all.insert(path.clone(), blob(path, size, modified));
            }
            let all: Vec<Blob> = all.into_values().collect();
            let kept = Kept {
                artifacts: named.iter().map(|n| format!("http://shelf.discoverd/slugs/{}.tgz", sha(*n))).collect(),
                packs: named.iter().flat_map(|n| apps.iter().map(|a| (app(*a), sha(*n)))).collect(),
                apps: apps.iter().map(|a| app(*a)).collect(),
            };
            let policy = Policy { delay: Duration::from_secs(1000), caches: 1000, ..Policy::default() };
            let gone = unneeded(&all, &kept, &policy, at(NOW));
            for blob in &gone {
                let cache = blob.path.starts_with("/cache/");
                prop_assert!(cache || blob.modified <= at(NOW - 1000), "young: {}", blob.path);
                prop_assert!(!blob.path.starts_with("/other/"));
                let digest = digests(&blob.path).next().map(str::to_owned);
                if blob.path.starts_with("/slugs/") || blob.path.starts_with("/images/") {
                    prop_assert!(!named.iter().any(|n| Some(sha(*n)) == digest));
                }
                if let Some(pack) = blob.path.strip_prefix("/repos/") {
                    let (app, file) = pack.split_once('/').unwrap();
                    let pack = (app.parse().unwrap(), file.trim_end_matches(".pack").to_owned());
                    prop_assert!(!kept.packs.contains(&pack));
                }
            }
            // What nothing names goes, when it is old.
            for blob in &all {
                let old = blob.modified <= at(NOW - 1000);
                if old && blob.path.starts_with("/builds/") {
                    prop_assert!(gone.iter().any(|one| one.path == blob.path));
                }
            }
        }
    }

    #[test]
    fn a_short_delay_is_kept_by_looking_more_often() {
        let policy = Policy::default();
        assert_eq!(policy.with_delay(policy.delay), policy);
        assert_eq!(policy.with_delay(Duration::from_secs(8)).interval, Duration::from_secs(2));
        assert_eq!(policy.with_delay(Duration::ZERO).interval, Duration::from_secs(1));
    }

    #[test]
    fn the_caches_that_were_not_used_for_longest_go_first() {
        let cache = |n: u8, modified| blob(format!("/cache/{}.tgz", app(n)), 10, modified);
        let all = [cache(1, 10), cache(2, 30), cache(3, 20)];
        let kept = Kept { apps: [app(1), app(2), app(3)].into(), ..Kept::default() };
        let policy = Policy { caches: 20, ..Policy::default() };
        let gone = unneeded(&all, &kept, &policy, at(40));
        assert_eq!(gone.iter().map(|blob| &blob.path).collect::<Vec<_>>(), [&all[0].path]);
    }
}
