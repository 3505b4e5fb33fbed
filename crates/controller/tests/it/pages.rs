//! Lists in pages.

use api::{error::ErrorCode, id::JobId};
use serde_json::Value;

use crate::{neighbours::HOST, world::World};

/// Rows of each kind, made at the same moment by twos: more than a client asks for at a time.
const MANY: &str = "
    INSERT INTO keys (fingerprint, key, comment, created_at)
        SELECT md5(n::text), 'k', '', now() - n / 2 * interval '1 s' FROM generate_series(1, 2003) n;
    INSERT INTO providers (provider_id, name, url, created_at)
        SELECT md5(n::text)::uuid, n, n, now() - n / 2 * interval '1 s' FROM generate_series(1, 2003) n;
    INSERT INTO resources (resource_id, provider_id, external_id, created_at)
        SELECT md5(n::text)::uuid, md5('1')::uuid, n, now() - n / 2 * interval '1 s'
        FROM generate_series(1, 2003) n;
    INSERT INTO app_resources SELECT app_id, resource_id FROM apps, resources WHERE name = 'one';
    INSERT INTO releases (release_id, app_id, created_at)
        SELECT md5(n::text)::uuid, app_id, now() - n / 2 * interval '1 s'
        FROM generate_series(1, 2003) n, apps WHERE name = 'one';
    INSERT INTO formations (app_id, release_id, processes, created_at)
        SELECT app_id, release_id, '{\"web\": 1}', created_at FROM releases;";

async fn page(world: &World, path: &str) -> Vec<Value> {
    world.client.client().get(path).await.unwrap()
}

/// How many entries there are if one asks for some at a time until none comes.
async fn walked(world: &World, path: &str, id: impl Fn(&Value) -> String) -> usize {
    let mut ids = Vec::new();
    loop {
        let before = ids.last().map(|id| format!("&before_id={id}")).unwrap_or_default();
        let more = page(world, &format!("{path}?count=700{before}")).await;
        assert!(more.len() <= 700, "{path}: {}", more.len());
        if more.is_empty() {
            break;
        }
        ids.extend(more.iter().map(&id));
    }
    ids.sort_unstable();
    ids.dedup();
    ids.len()
}

#[tokio::test]
async fn every_list_has_pages_and_the_client_reads_all_of_them() {
    let world = World::start().await;
    let client = &world.client;
    let app = world.app("one").await;
    world.sql(MANY).await;
    let provider = client.providers().await.unwrap()[0].clone();
    assert_eq!(client.providers().await.unwrap().len(), 2003);
    assert_eq!(client.keys().await.unwrap().len(), 2003);
    assert_eq!(client.resources("one").await.unwrap().len(), 2003);
    assert_eq!(client.provider_resources("1").await.unwrap().len(), 2003);
    assert_eq!(client.provider_resources(&provider.name).await.unwrap().len(), 2003);
    assert_eq!(client.all_resources(false).await.unwrap().len(), 2003);
    assert_eq!(client.formations("one").await.unwrap().len(), 2003);
    assert_eq!(client.releases("one").await.unwrap().len(), 2003);

    let field = |name: &'static str| move |one: &Value| one[name].as_str().unwrap().to_owned();
    assert_eq!(walked(&world, "/keys", field("fingerprint")).await, 2003);
    assert_eq!(walked(&world, "/providers", field("id")).await, 2003);
    assert_eq!(walked(&world, "/providers/1/resources", field("id")).await, 2003);
    assert_eq!(walked(&world, "/apps/one/resources", field("id")).await, 2003);
    assert_eq!(walked(&world, "/apps/one/formations", field("release")).await, 2003);
    let of_release = |one: &Value| {
        format!("{}/{}", one["app"]["id"].as_str().unwrap(), one["release"]["id"].as_str().unwrap())
    };
    assert_eq!(walked(&world, "/formations", of_release).await, 2003);
    assert_eq!(page(&world, "/formations").await.len(), 2003);
    assert_eq!(page(&world, "/apps/one/formations").await.len(), 2003);
    assert_eq!(page(&world, "/resources").await.len(), 2003);
    let half = "UPDATE formations SET processes = '{\"web\": 0}' \
                WHERE release_id < '80000000-0000-0000-0000-000000000000'";
    world.sql(half).await;
    let active = page(&world, "/formations?active=true&count=10000").await;
    assert!((800..1200).contains(&active.len()), "{}", active.len());
    assert!(active.iter().all(|one| one["app"]["id"] == app.id.to_string()));
}

#[tokio::test]
async fn routes_have_pages() {
    let world = World::start().await;
    for name in ["one", "two", "three"] {
        world.app(name).await;
    }
    let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
    let first = page(&world, "/routes?count=2").await;
    let rest = page(&world, &format!("/routes?count=2&before_id={}", id(&first[1]))).await;
    assert_eq!((first.len(), rest.len()), (2, 1));
    let mut domains: Vec<_> = first.iter().chain(&rest).map(|one| one["domain"].clone()).collect();
    domains.sort_by_key(Value::to_string);
    assert_eq!(domains, ["one.test.localhost", "three.test.localhost", "two.test.localhost"]);
    assert_eq!(page(&world, "/apps/one/routes?count=1").await[0]["domain"], "one.test.localhost");
    assert_eq!(world.client.routes("two").await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_page_after_what_is_gone_is_an_error_and_no_end() {
    let world = World::start().await;
    world.app("one").await;
    let id = JobId::random();
    let of_one = ["releases", "formations", "jobs", "deployments", "resources", "routes"];
    let of_all = ["apps", "artifacts", "releases", "providers", "resources", "active-jobs"];
    let mut lists: Vec<String> = of_one.map(|list| format!("/apps/one/{list}?")).into();
    lists.extend(of_all.map(|list| format!("/{list}?")));
    lists.extend(
        ["/apps/one/jobs?active=true&", "/keys?", "/routes?", "/formations?"].map(Into::into),
    );
    for list in lists {
        let before = match &*list {
            "/formations?" => format!("{id}/{id}"),
            list if list.contains("routes") => format!("http/{id}"),
            _ => id.to_string(),
        };
        let path = format!("{list}count=2&before_id={before}");
        let err = world.client.client().get::<Vec<Value>>(&path).await.unwrap_err();
        assert_eq!(err.code(), Some(ErrorCode::ValidationError), "{path}: {err}");
        assert!(err.to_string().contains("before_id"), "{path}: {err}");
    }
}

/// Jobs of an app: three that run and began before all others, and many that ended.
fn jobs(ended: u32) -> String {
    format!(
        "INSERT INTO jobs (job_id, cluster_id, host_id, app_id, release_id, type, state, created_at) \
         SELECT md5(n::text)::uuid, '{HOST}-' || md5(n::text), '{HOST}', app_id, app_id, 'web', \
             CASE WHEN n <= 3 THEN 'up' ELSE 'crashed' END, now() + n * interval '1 ms' \
         FROM apps, generate_series(1, {ended} + 3) n WHERE name = 'one'"
    )
}

#[tokio::test]
async fn a_job_that_ends_between_two_pages_hides_no_other() {
    let world = World::start().await;
    world.app("one").await;
    world.sql(&jobs(2500)).await;
    for list in ["/apps/one/jobs?active=true&count=2", "/active-jobs?count=2"] {
        world
            .sql(
                "UPDATE jobs SET state = 'up' WHERE cluster_id IN \
                       (SELECT cluster_id FROM jobs ORDER BY created_at LIMIT 3)",
            )
            .await;
        let first = page(&world, list).await;
        assert_eq!(first.len(), 2, "{list}");
        let last = first[1]["id"].as_str().unwrap();
        world.sql(&format!("UPDATE jobs SET state = 'down' WHERE cluster_id = '{last}'")).await;
        let rest = page(&world, &format!("{list}&before_id={last}")).await;
        assert_eq!((rest.len(), &rest[0]["state"]), (1, &Value::from("up")), "{list}");
    }
    let id = |one: &Value| one["id"].as_str().unwrap().to_owned();
    assert_eq!(walked(&world, "/apps/one/jobs", id).await, 2503);
    let running = |jobs: &[Value]| jobs.iter().filter(|job| job["state"] == "up").count();
    // Who asks once learns what runs, however much ended.
    let once = page(&world, "/apps/one/jobs").await;
    assert_eq!((once.len(), running(&once)), (2000, 2));
    let current = world.client.current_jobs("one").await.unwrap();
    let up = current.iter().filter(|job| job.state == api::controller::JobState::Up).count();
    assert_eq!((current.len(), up), (202, 2));
    assert_eq!(world.client.jobs("one").await.unwrap().len(), 2503);
}
