//! Whose the volumes of the hosts are, and which may go.

use std::collections::{BTreeMap, BTreeSet};

use api::{
    controller::{App, ProcessType},
    expand,
    id::AppId,
    volume::{HostVolume, Owner, Volume},
};

/// The process types of each release of an app.
type Releases = Vec<BTreeMap<String, ProcessType>>;

/// What is known of the volumes' owners: apps, and of those whose volumes are named by their own name what their releases
/// name.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    apps: BTreeMap<AppId, App>,
    by_name: BTreeMap<String, Owner>,
}

impl Owners {
    /// Of these apps, and of those whose volumes are named by their name with their releases, the newest first.
    pub(crate) fn new(apps: Vec<App>, by_name: &[(App, Releases)]) -> Self {
        let mut owners = Self::default();
        for (app, releases) in by_name {
            for (kind, process) in releases.iter().flatten() {
                for volume in expand::volumes(app, kind, process) {
                    let owner = Owner { app: app.id, kind: kind.clone(), path: Some(volume.path) };
                    owners.by_name.entry(volume.name).or_insert(owner);
                }
            }
        }
        owners.apps = apps.into_iter().map(|app| (app.id, app)).collect();
        owners
    }

    /// Whose a volume is, or was if its name says so.
    pub(crate) fn of(&self, name: &str) -> Option<Owner> {
        self.by_name.get(name).cloned().or_else(|| Owner::of(name))
    }

    fn volume(&self, name: String, host: &str) -> Volume {
        let owner = self.of(&name);
        let app = owner.as_ref().and_then(|owner| self.apps.get(&owner.app));
        Volume {
            id: name,
            host_id: host.into(),
            app: owner.as_ref().map(|owner| owner.app),
            app_name: app.map(|app| app.name.clone()),
            job_type: owner.as_ref().map(|owner| owner.kind.clone()).unwrap_or_default(),
            path: owner.and_then(|owner| owner.path),
            size: None,
            jobs: Vec::new(),
        }
    }
}

/// The volumes of the cluster: what hosts answered, and of those that did not, what they are known to have.
pub(crate) fn all(
    owners: &Owners,
    answers: BTreeMap<String, Option<Vec<HostVolume>>>,
    claims: &BTreeMap<String, String>,
) -> Vec<Volume> {
    let silent: BTreeSet<&String> =
        answers.iter().filter(|(_, a)| a.is_none()).map(|(id, _)| id).collect();
    let unknown = |host: &String| silent.contains(host) || !answers.contains_key(host);
    let claimed = claims.iter().filter(|(_, host)| unknown(host));
    let mut volumes: Vec<Volume> =
        claimed.map(|(name, host)| owners.volume(name.clone(), host)).collect();
    for (host, answer) in &answers {
        for HostVolume { name, size, jobs } in answer.iter().flatten().cloned() {
            let volume = owners.volume(name, host);
            volumes.push(Volume { size: Some(size), jobs, ..volume });
        }
    }
    volumes.sort_by(|a, b| (&a.app_name, &a.id, &a.host_id).cmp(&(&b.app_name, &b.id, &b.host_id)));
    volumes
}

/// Why a volume stays.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Kept {
    #[error("the app has no volume {0}")]
    Missing(String),
    #[error(
        "volume {id} is in use: {kind} has it, and {count} of those shall run; `flynn scale {kind}=0` first"
    )]
    Wanted { id: String, kind: String, count: u32 },
    #[error("volume {id} is on several hosts ({}): say which one (`--host`, `?host=`)", hosts.join(", "))]
    Several { id: String, hosts: Vec<String> },
}

/// The volume of an app that is meant, if it may go as far as the app's wishes are concerned: of which types it wants how
/// many.
pub(crate) fn removable<'a>(
    volumes: &'a [Volume],
    wanted: &BTreeMap<String, u32>,
    id: &str,
    host: Option<&str>,
) -> Result<&'a Volume, Kept> {
    let meant =
        |volume: &&Volume| volume.id == id && host.is_none_or(|host| volume.host_id == host);
    let found: Vec<&Volume> = volumes.iter().filter(meant).collect();
    let volume = match &found[..] {
        [] => return Err(Kept::Missing(id.into())),
        [volume] => *volume,
        several => {
            let hosts = several.iter().map(|volume| volume.host_id.clone()).collect();
            return Err(Kept::Several { id: id.into(), hosts });
        }
    };
    let kind = &volume.job_type;
    match wanted.get(kind) {
        Some(&count) if count > 0 => Err(Kept::Wanted { id: id.into(), kind: kind.clone(), count }),
        _ => Ok(volume),
    }
}

#[cfg(test)]
mod tests {
    use api::{controller::META_VOLUMES_BY_NAME, volume::Size};
    use serde_json::json;

    use super::*;

    fn app(name: &str, by_name: bool) -> App {
        let meta = if by_name { json!({ META_VOLUMES_BY_NAME: "true" }) } else { json!({}) };
        serde_json::from_value(json!({
            "id": AppId::random(), "name": name, "meta": meta, "release": AppId::random(), "strategy": "one-by-one",
            "deploy_timeout": 120, "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        }))
        .expect("an app")
    }

    fn host_volume(name: &str) -> HostVolume {
        HostVolume { name: name.into(), size: Size { bytes: 7, at_least: false }, jobs: vec![] }
    }

    #[test]
    fn a_volume_is_its_app_s_by_id_or_by_name_and_a_silent_host_s_are_known_too() {
        let (shop, old) = (app("shop", false), app("postgres", true));
        let types: BTreeMap<String, ProcessType> =
            serde_json::from_value(json!({ "postgres": { "volumes": [{ "path": "/data" }] } }))
                .expect("types");
        let releases = vec![BTreeMap::new(), types];
        let names = [
            expand::volume_name(shop.id, "db", "/data"),
            "postgres-postgres-data".to_owned(),
            expand::volume_name(AppId::random(), "db", "/data"),
        ];
        let owners = Owners::new(vec![shop.clone(), old.clone()], &[(old.clone(), releases)]);
        let answers = BTreeMap::from([
            ("a".to_owned(), Some(vec![host_volume(&names[0]), host_volume(&names[1])])),
            ("b".to_owned(), None),
        ]);
        let claims = BTreeMap::from([
            (names[0].clone(), "a".to_owned()),
            (names[2].clone(), "b".to_owned()),
            ("gone".to_owned(), "a".to_owned()),
        ]);
        let volumes = all(&owners, answers, &claims);
        let of = |name: &str| volumes.iter().find(|volume| volume.id == name).expect("listed");
        assert_eq!(volumes.len(), 3, "{volumes:?}");
        assert_eq!(
            (of(&names[0]).app, of(&names[0]).size.map(|s| s.bytes)),
            (Some(shop.id), Some(7))
        );
        assert_eq!((of(&names[1]).app, &*of(&names[1]).job_type), (Some(old.id), "postgres"));
        let silent = of(&names[2]);
        assert_eq!((&*silent.host_id, silent.size, &silent.app_name), ("b", None, &None));
        assert!(silent.app.is_some(), "of an app that is no more");
    }

    #[test]
    fn what_shall_run_keeps_its_volume_and_of_two_one_has_to_be_named() {
        let shop = app("shop", false);
        let name = expand::volume_name(shop.id, "db", "/data");
        let owners = Owners::new(vec![shop.clone()], &[]);
        let answers = ["a", "b"].map(|host| (host.to_owned(), Some(vec![host_volume(&name)])));
        let volumes = all(&owners, answers.into(), &BTreeMap::new());
        let wanted = |count: u32| [("db".to_owned(), count)].into();
        let try_it = |count, id: &str, host| removable(&volumes, &wanted(count), id, host);
        assert!(matches!(try_it(0, &name, None), Err(Kept::Several { .. })));
        assert!(matches!(try_it(0, "other", None), Err(Kept::Missing(_))));
        assert_eq!(try_it(0, &name, Some("b")).expect("may go").host_id, "b");
        let kept = try_it(1, &name, Some("b")).expect_err("stays").to_string();
        assert!(kept.contains("flynn scale db=0"), "{kept}");
    }
}
