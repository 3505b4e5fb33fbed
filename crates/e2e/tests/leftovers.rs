//! Many apps live and are deleted at the same time: afterwards nothing of them is left, anywhere.
use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime},
};

use e2e::{app::App, cluster, image::Image, shell::sh, until};
use tokio::task::JoinSet;

/// Apps that live at the same time.
const APPS: usize = 50;
/// One app of this many has a volume, and one-off jobs.
const WITH_VOLUME: usize = 10;
/// All that is deleted is gone this long after the last app was, with the graces below.
const GONE: Duration = Duration::from_secs(60);

/// A removed database is destroyed after a second.
const GRACE: &str = "flynn -a controller env-set RESOURCE_GRACE_SECONDS=1";
/// So is what deleted apps leave, and what is known of them. Not while anything is deployed: it is shorter than an upload.
const FORGET: &str = "flynn -a controller env-set KEEP_UNUSED_SECONDS=1 KEEP_EVENTS_SECONDS=1";
const AS_BEFORE: &str =
    "flynn -a controller env-unset RESOURCE_GRACE_SECONDS KEEP_UNUSED_SECONDS KEEP_EVENTS_SECONDS";

/// What a person does to an app, one line after the other.
fn life(app: &str, image: &str, n: usize) -> Vec<String> {
    let mut lines = vec![
        format!("flynn create -y {app}"),
        format!("flynn -a {app} resource-add postgres"),
        format!("flynn -a {app} docker-push {image}"),
        format!("flynn -a {app} env-get DATABASE_URL"),
        format!("flynn -a {app} scale web=2"),
        format!(
            "curl -fsS --resolve {app}.{d}:{p}:127.0.0.1 http://{app}.{d}:{p}/",
            d = cluster::domain(),
            p = cluster::http_port()
        ),
    ];
    if n.is_multiple_of(WITH_VOLUME) {
        lines.push(format!("flynn -a {app} run /bin/busybox true"));
        lines.push(format!("{VOLUME} {app}"));
    }
    if n == 0 {
        // By hand, too, once nothing uses it.
        lines.push(format!("flynn -a {app} scale keeper=0"));
        lines.push(format!(
            "id=$(flynn -a {app} volumes --json | jq -re '.[0].id'); \
             timeout 60 sh -c 'until flynn -a {app} volume-remove -y '$id'; do sleep 1; done'"
        ));
    }
    lines.push(format!("flynn -a {app} delete -y"));
    lines
}

/// Deploys a release of an app with a process type that keeps data, and runs it.
const VOLUME: &str = r#"volume() {
  key=$(jq -re '."controller-key".result.data' $FLYNN_DATA_DIR/bootstrap/state.json)
  release=$(flynn -a $1 release-show --json | jq '{app_id, artifacts, env, processes} | .processes.keeper =
    {"entrypoint": ["/bin/busybox", "sh", "-c", "touch /data/kept; sleep 1000"], "volumes": [{"path": "/data"}]}')
  id=$(curl -fsS -u ":$key" -H 'content-type: application/json' -d "$release" $(addr controller)/releases | jq -re .id)
  flynn -a $1 rollback $id
  flynn -a $1 scale keeper=1
  flynn -a $1 volumes --json | jq -re '.[0].id'
}; volume"#;

/// Does all of it; says which line failed.
fn live(lines: Vec<String>) -> Result<(), String> {
    for line in lines {
        let begin = format!("{}; export FLYNN_DATA_DIR={}", cluster::ADDR, cluster::data_dir());
        let said = sh(&format!("set -e; cd /tmp; {begin}; {line}"));
        if said.status != 0 {
            return Err(format!("{line}\n{}{}", said.out, said.err));
        }
    }
    Ok(())
}

/// The settings of the controller are as before when this is dropped.
struct AsBefore;

impl Drop for AsBefore {
    fn drop(&mut self) {
        let said = sh(AS_BEFORE);
        if !std::thread::panicking() {
            said.ok();
        }
    }
}

/// What there is that belongs to no single app by its name. Images are not among it: a host keeps some for the next start.
fn things() -> BTreeSet<String> {
    let lines = format!(
        "{ADDR}
         {psql} -c \"SELECT 'role ' || rolname FROM pg_roles UNION SELECT 'database ' || datname FROM pg_database\"
         docker volume ls -q | sed 's/^/docker volume /'
         curl -fs -u :{key} \"http://$(addr shelf)/?prefix=/\" | jq -r '.[] | \"blob \" + .path'",
        ADDR = cluster::ADDR,
        psql = PSQL,
        key = cluster::service_key("shelf"),
    );
    sh(&format!("set -e; {lines}")).ok().lines().map(str::to_owned).collect()
}

/// Asks the cluster's database, as its superuser, inside its container.
const PSQL: &str = r#"docker exec -i $(docker ps -q --filter label=flynn.job | xargs docker inspect -f '{{.Id}} {{.Config.Image}} {{.Path}}' | awk '/flynn-postgres$/ { print $1 }' | head -n 1) sh -c 'PGPASSWORD=$PGPASSWORD exec psql -qAt -h 127.0.0.1 -U flynn "$@"' psql -d "$(flynn -a controller env-get PGDATABASE)""#;

/// What still names one of the apps, by name or id: rows, keys, containers, folders.
fn named(pattern: &str) -> Vec<String> {
    let rows = format!(
        r"SELECT format('SELECT %L || '': '' || left(t::text, 200) FROM %I t WHERE t::text ~ %L', 'table ' || relname, relname, '{pattern}')
          FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace \gexec"
    );
    let lines = format!(
        "{PSQL} <<'ROWS'\n{rows}\nROWS
         ETCDCTL_API=3 etcdctl --endpoints 127.0.0.1:2379 get --prefix '' | grep -aE '{pattern}' | cut -c 1-200 | sed 's/^/etcd: /' || true
         docker ps -aq | xargs -r docker inspect -f '{{{{.Name}}}} {{{{json .Config}}}}' | grep -E '{pattern}' | cut -c 1-200 | sed 's/^/container: /' || true
         find {data} -maxdepth 3 -path '*/volumes/*' | grep -E '{pattern}' | sed 's/^/volume: /' || true",
        data = cluster::data_dir(),
    );
    let said = sh(&lines);
    assert_eq!(said.status, 0, "{said:?}");
    said.out.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_apps_that_were_deleted_leave_nothing() {
    let begun = Instant::now();
    sh(GRACE).ok();
    let as_before = AsBefore;
    let before = things();
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let prefix = format!("fifty-{:x}", since.as_millis() as u32);
    let image = Image::answering(&format!("e2e/{prefix}:1"), "1");
    let mut lives = JoinSet::new();
    for n in 0..APPS {
        let lines = life(&format!("{prefix}-{n}"), &image.name, n);
        lives.spawn_blocking(move || live(lines));
    }
    // One is pushed, so that there is a slug, a repository and a build's cache, too.
    let pushed = App::node(&prefix);
    pushed.push().ok();
    drop(pushed);
    let lived: Vec<_> = lives.join_all().await.into_iter().filter_map(Result::err).collect();
    assert!(lived.is_empty(), "{lived:#?}");
    println!("all {APPS} lived and were deleted after {:?}", begun.elapsed());
    drop(image);
    let ids = sh(&format!("{PSQL} -c \"SELECT app_id FROM apps WHERE name ~ '^{prefix}'\"")).ok();
    assert_eq!(ids.lines().count(), APPS + 1, "{ids}");
    let names: Vec<&str> = std::iter::once(prefix.as_str()).chain(ids.lines()).collect();
    sh(FORGET).ok();
    until("nothing to be left", GONE, async || {
        let mut left = named(&names.join("|"));
        left.extend(things().difference(&before).cloned());
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    drop(as_before);
    println!("nothing is left after {:?}", begun.elapsed());
}
