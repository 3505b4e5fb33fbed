//! Whose the bytes are.

use std::collections::BTreeMap;

use api::{blob::Blob, controller::App, id::AppId, usage::Usage, volume::Volume};

/// Where an artifact's bytes are in shelf; none of an image of a registry.
pub(crate) fn shelf_path(uri: &str) -> Option<String> {
    if let Some(path) = uri.strip_prefix("http://shelf.discoverd") {
        let path = path.split(['?', '#']).next()?;
        // A port may stand before it.
        return Some(path[path.find('/')?..].to_owned());
    }
    let id: api::image::ImageId = api::expand::image_of(uri).ok()?.parse().ok()?;
    Some(id.shelf_path())
}

/// Adds up what each app has, the largest first. `named`: the apps whose releases name a path of shelf.
pub(crate) fn shares(
    apps: &[App],
    blobs: &[Blob],
    named: &BTreeMap<String, Vec<AppId>>,
    volumes: &[Volume],
) -> Vec<Usage> {
    let mut all: BTreeMap<Option<AppId>, Usage> = BTreeMap::new();
    let mut add = |app: Option<AppId>, field: fn(&mut Usage) -> &mut u64, bytes: u64| {
        let usage = all.entry(app).or_insert_with(|| Usage { app, ..Usage::default() });
        *field(usage) += bytes;
    };
    for Blob { path, size, .. } in blobs {
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let (folder, rest) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let field: fn(&mut Usage) -> &mut u64 = match folder {
            "slugs" => |usage| &mut usage.slugs,
            "images" => |usage| &mut usage.images,
            "repos" => |usage| &mut usage.repository,
            "cache" => |usage| &mut usage.cache,
            _ => |usage| &mut usage.other,
        };
        // `/repos/<app>/…`, `/cache/<app>.tgz`; the others are whose releases name them.
        let by_path = rest.split(['/', '.']).next().and_then(|id| id.parse().ok());
        match (folder, named.get(path)) {
            ("repos" | "cache", _) => add(by_path, field, *size),
            (_, Some(apps)) => apps.iter().for_each(|app| add(Some(*app), field, *size)),
            (_, None) => add(None, field, *size),
        }
    }
    for volume in volumes {
        let bytes = volume.size.map_or(0, |size| size.bytes);
        add(volume.app, |usage| &mut usage.volumes, bytes);
    }
    for app in apps {
        let usage = all.entry(Some(app.id)).or_default();
        (usage.app, usage.app_name) = (Some(app.id), Some(app.name.clone()));
    }
    let mut all: Vec<Usage> = all.into_values().collect();
    all.sort_by(|a, b| b.total().cmp(&a.total()).then_with(|| a.app_name.cmp(&b.app_name)));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_artifact_is_found_in_shelf_unless_it_is_of_a_registry() {
        let of = |uri: &str| shelf_path(uri);
        assert_eq!(of("http://shelf.discoverd/slugs/a.tgz").as_deref(), Some("/slugs/a.tgz"));
        assert_eq!(of("http://shelf.discoverd:3001/slugs/a.tgz").as_deref(), Some("/slugs/a.tgz"));
        let hex = "a".repeat(64);
        let image = format!("docker:///shop?id=sha256:{hex}");
        assert_eq!(of(&image), Some(format!("/images/{hex}.tar")));
        assert_eq!(of("docker:///flynn/slugrunner"), None);
        assert_eq!(of("http://shelf.discoverd"), None);
    }

    #[test]
    fn every_byte_is_somebody_s_or_nobody_s() {
        let app: App = serde_json::from_value(json!({
            "id": AppId::random(), "name": "shop", "strategy": "one-by-one", "deploy_timeout": 120,
            "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
        }))
        .expect("an app");
        let gone = AppId::random();
        let blob = |path: String, size| Blob {
            path,
            size,
            sha256: String::new(),
            modified: jiff::Timestamp::UNIX_EPOCH,
        };
        let blobs = [
            blob("/slugs/a.tgz".into(), 1),
            blob("/slugs/b.tgz".into(), 2),
            blob(format!("/repos/{}/x.pack", app.id), 4),
            blob(format!("/cache/{}.tgz", app.id), 8),
            blob(format!("/repos/{gone}/x.pack"), 16),
            blob("/builds/abc/source.tar".into(), 32),
        ];
        let named = [("/slugs/a.tgz".to_owned(), vec![app.id])].into();
        let volume: Volume = serde_json::from_value(json!({
            "id": "v", "host_id": "a", "app": app.id, "size": { "bytes": 64 },
        }))
        .expect("a volume");
        let all = shares(std::slice::from_ref(&app), &blobs, &named, &[volume]);
        let of = |id| all.iter().find(|usage| usage.app == id).expect("counted");
        let shop = Usage {
            app: Some(app.id),
            app_name: Some("shop".into()),
            slugs: 1,
            repository: 4,
            cache: 8,
            volumes: 64,
            ..Usage::default()
        };
        assert_eq!(all[0], shop);
        assert_eq!((of(Some(gone)).total(), of(None).slugs, of(None).other), (16, 2, 32));
        assert_eq!(all.iter().map(Usage::total).sum::<u64>(), 127);
    }
}
