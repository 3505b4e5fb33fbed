//! Several hosts: `script/cluster up 3` made them. Each story leaves three whole hosts behind.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use e2e::{
    app::App,
    hosts::{
        WHOLE, address, cluster, count, hosts_of, hosts_with_data, lead, list, number, on, order,
        round, router, running, same_keys, up, whole,
    },
    load::Load,
    platform::{self, BAD, PARTS, deploy_badly, deploy_well},
    shell::Said,
    until,
};

/// The jobs of a lost host run elsewhere in this time, and the commands work.
const RESTORED: Duration = Duration::from_secs(15);
/// Until every router knows that a host is lost.
const NOTICED: Duration = Duration::from_secs(10);
const ALL: [u8; 3] = [1, 2, 3];

fn others(host: u8) -> Vec<u8> {
    ALL.into_iter().filter(|one| *one != host).collect()
}

/// A host whose loss stops no write, and the others. It leads, or one of the others does: both must end the same.
async fn bystander(leads: bool) -> (u8, Vec<u8>) {
    let data = hosts_with_data(&ALL).await;
    let free = ALL.into_iter().find(|host| !data.contains(host));
    let free = free.unwrap_or_else(|| panic!("three hosts have data of two: {data:?}"));
    let survivors = others(free);
    lead(&ALL, if leads { free } else { survivors[round() % 2] }).await;
    (free, survivors)
}

/// An app of so many processes, used on a host.
async fn app(host: u8, prefix: &str, processes: usize) -> App {
    let app = App::node_on(host, prefix);
    app.push().ok();
    app.flynn(&["scale", &format!("web={processes}")]).ok();
    count(&ALL, &app.name, processes, RESTORED).await;
    app
}

/// How many processes of an app a host has.
fn processes_on(host: u8, app: &App) -> usize {
    up(host, &app.name).expect("it is listed").iter().filter(|(_, on)| *on == host).count()
}

/// Repeats a command until it works.
async fn works(app: &App, words: &[&str], bound: Duration) {
    until(&format!("flynn {words:?} to work"), bound, async || {
        let said: Said = app.flynn(words);
        if said.status == 0 { Ok(()) } else { Err(said) }
    })
    .await;
}

#[tokio::test]
async fn the_main_job_works_from_every_host() {
    whole(&ALL, 3).await;
    for (app, kind) in [("controller", "web"), ("scheduler", "scheduler"), ("strowger", "app")] {
        let on = hosts_of(&ALL, app, kind).await;
        assert!(on.len() >= 2, "{app} is on one host: {on:?}");
    }
    for host in ALL {
        let mut app = app(host, "everywhere", 3).await;
        let on: BTreeSet<u8> = up(host, &app.name).unwrap().into_iter().map(|(_, h)| h).collect();
        assert_eq!(on.len(), 3, "three processes are spread over three hosts: {on:?}");
        for host in ALL {
            app.go_to(host);
            until("its router to reach all", RESTORED, async || {
                let mut jobs = BTreeSet::new();
                for _ in 0..30 {
                    jobs.insert(app.get().await?["job"].to_string());
                }
                if jobs.len() == 3 { Ok(()) } else { Err(format!("{jobs:?}")) }
            })
            .await;
            let said = app.flynn(&["run", "--", "sh", "-c", "exit 7"]);
            assert_eq!(said.status, 7, "{said:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_deployed_with_good_and_bad_settings_and_no_request_fails() {
    whole(&ALL, 3).await;
    let data = hosts_with_data(&ALL).await;
    let (with, without) = ALL.into_iter().partition::<Vec<_>, _>(|host| data.contains(host));
    let (used, leading) =
        if round().is_multiple_of(2) { (&with, &without) } else { (&without, &with) };
    lead(&ALL, leading[0]).await;
    let app = app(used[0], "parts", 3).await;
    let load = Load::at(router(used[0]), &app.name);
    for part in PARTS {
        deploy_well(&app, part);
        println!("{part} was deployed after {:?}", load.age());
    }
    platform::works(&app, "well").await;
    for (part, setting) in BAD {
        println!("{part}: {}", deploy_badly(&app, part, setting));
        platform::works(&app, part).await;
    }
    load.stop().await.unharmed();
    assert_eq!(hosts_with_data(&ALL).await, data, "data stays where it is");
    whole(&ALL, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_host_is_done_without_and_comes_back_at_another_address() {
    whole(&ALL, 3).await;
    let (victim, survivors) = bystander(round().is_multiple_of(2)).await;
    let app = app(survivors[0], "lost", 6).await;
    let there = processes_on(victim, &app);
    let load = Load::at(router(survivors[0]), &app.name);
    let (died, since) = (load.age(), Instant::now());
    cluster(&["kill", &victim.to_string()]).ok();
    let route = format!("{}.example.com", app.name);
    works(&app, &["route-add-http", &route], RESTORED).await;
    println!("a route could be made {:?} after the loss of host {victim}", since.elapsed());
    count(&survivors, &app.name, 6, RESTORED.saturating_sub(since.elapsed())).await;
    println!("its processes run elsewhere {:?} after its loss", since.elapsed());
    works(&app, &["env-set", "A=1"], WHOLE).await;
    load.stop().await.harmed_only_at(died, NOTICED, there);

    let before = address(victim);
    cluster(&["start", &victim.to_string(), &(100 + victim).to_string()]).ok();
    assert_ne!(address(victim), before);
    whole(&ALL, 3).await;
    count(&ALL, &app.name, 6, WHOLE).await;
    works(&app, &["scale", "web=3"], WHOLE).await;
    count(&ALL, &app.name, 3, RESTORED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_host_of_the_data_traffic_goes_on_and_writes_say_why_they_fail() {
    whole(&ALL, 3).await;
    let victim = hosts_of(&ALL, "postgres", "postgres").await.pop_first().expect("it runs");
    let survivors = others(victim);
    lead(&ALL, if round().is_multiple_of(2) { victim } else { survivors[0] }).await;
    let app = app(survivors[0], "data", 6).await;
    let there = processes_on(victim, &app);
    let load = Load::at(router(survivors[0]), &app.name);
    let died = load.age();
    cluster(&["kill", &victim.to_string()]).ok();
    let said = app.flynn(&["scale", "web=4"]);
    assert_ne!(said.status, 0, "{said:?}");
    println!("without Postgres: {}", said.err);
    assert!(said.err.contains("again") || said.err.contains("database"), "{said:?}");
    for _ in 0..20 {
        app.get().await.unwrap();
    }
    cluster(&["start", &victim.to_string()]).ok();
    whole(&ALL, 3).await;
    works(&app, &["scale", "web=4"], WHOLE).await;
    count(&ALL, &app.name, 4, WHOLE).await;
    load.stop().await.harmed_only_at(died, NOTICED, there);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_cut_off_serves_its_side_and_is_one_of_all_again() {
    whole(&ALL, 3).await;
    let (victim, survivors) = bystander(round() % 2 == 1).await;
    let app = app(survivors[0], "cut", 6).await;
    let there = up(survivors[0], &app.name).unwrap();
    let cut: Vec<_> = there.iter().filter(|(_, host)| *host == victim).collect();
    assert!(!cut.is_empty(), "{there:?}");
    cluster(&["partition", &victim.to_string()]).ok();
    let since = Instant::now();
    count(&survivors, &app.name, 6, RESTORED + RESTORED).await;
    println!("the processes of the host that is cut off run elsewhere after {:?}", since.elapsed());
    works(&app, &["scale", "web=5"], RESTORED).await;
    works(&app, &["env-set", "B=1"], WHOLE).await;
    let host = format!("Host: {}.localhost", app.name);
    let mut tick = tokio::time::interval(Duration::from_millis(500));
    while since.elapsed() < Duration::from_secs(60) {
        tick.tick().await;
        app.get().await.unwrap();
        // Its router finds out by itself which processes it reaches no more.
        let curl = format!("curl -fsm 5 -H '{host}' http://127.0.0.1/");
        until("the side that is cut off to serve what it has", RESTORED, async || {
            let said = on(victim, &curl);
            if said.status == 0 { Ok(()) } else { Err(said) }
        })
        .await;
    }
    cluster(&["heal", &victim.to_string()]).ok();
    whole(&ALL, 3).await;
    count(&ALL, &app.name, 5, WHOLE).await;
    for host in ALL {
        let leaders = list(host).unwrap().iter().filter(|one| one["leader"] == true).count();
        assert_eq!(leaders, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_is_left_who_schedules_the_leading_host_starts_them_again() {
    whole(&ALL, 3).await;
    let app = app(1, "critical", 3).await;
    let load = Load::at(router(1), &app.name);
    let stop = r#"flynn-host ps --json | jq -r '.[] | select(.job.resurrect and
        (.job.metadata["flynn-controller.app_name"] | IN("scheduler", "controller"))) | .job.id' |
        xargs -r flynn-host stop"#;
    // One may start another before it goes.
    until("every controller and scheduler to stop", RESTORED, async || {
        for host in ALL {
            on(host, stop).ok();
        }
        let left = |name| ALL.into_iter().flat_map(move |host| running(host, name).unwrap());
        let left = left("scheduler").chain(left("controller"));
        let left: Vec<_> = left.filter(|job| !job.ends_with("Stopping")).collect();
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
    .await;
    let since = Instant::now();
    works(&app, &["scale", "--no-wait", "web=4"], WHOLE).await;
    println!("the controller answers again after {:?}", since.elapsed());
    count(&ALL, &app.name, 4, WHOLE).await;
    println!("and what it was told is done after {:?}", since.elapsed());
    count(&ALL, "controller", 2, WHOLE).await;
    count(&ALL, "scheduler", 2, WHOLE).await;
    load.stop().await.unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_quorum_of_etcd_all_serves_and_it_heals_by_itself() {
    whole(&ALL, 3).await;
    let app = app(1, "quorum", 3).await;
    let load = Load::at(router(1), &app.name);
    for host in [2, 3] {
        on(host, "docker pause flynn-etcd").ok();
    }
    let stale = "curl -sD- -o /dev/null http://127.0.0.1:1111/services/controller/instances";
    until("discoverd to say that it is stale", Duration::from_secs(30), async || {
        let said = on(1, stale);
        if said.out.to_lowercase().contains("discoverd-stale") { Ok(()) } else { Err(said) }
    })
    .await;
    let said = app.flynn(&["route-add-http", &format!("{}.example.com", app.name)]);
    assert_ne!(said.status, 0, "{said:?}");
    println!("without etcd: {}", said.err);
    assert!(said.err.contains("etcd"), "{said:?}");
    let scaled = app.flynn(&["scale", "--no-wait", "web=4"]);
    assert_eq!(scaled.status, 0, "{scaled:?}");
    until("ps to say why the new process is not up", WHOLE, async || {
        let said = on(1, &format!("flynn -a {} ps", app.name));
        if said.out.contains("etcd is away") { Ok(()) } else { Err(said) }
    })
    .await;
    app.get().await.unwrap();
    for host in [2, 3] {
        on(host, "docker unpause flynn-etcd").ok();
    }
    whole(&ALL, 3).await;
    works(&app, &["env-set", "A=1"], WHOLE).await;
    count(&ALL, &app.name, 4, WHOLE).await;
    load.stop().await.unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_failure_of_all_hosts_everything_serves_again() {
    whole(&ALL, 3).await;
    let app = app(1, "power", 3).await;
    let order = order();
    let all: Vec<String> = ALL.iter().map(u8::to_string).collect();
    let words: Vec<&str> = ["kill"].into_iter().chain(all.iter().map(String::as_str)).collect();
    cluster(&words).ok();
    let since = Instant::now();
    for host in order {
        cluster(&["start", &host.to_string()]).ok();
    }
    until("the app to serve", WHOLE, async || app.get().await).await;
    println!(
        "in the order {order:?} the app serves {:?} after the first host is started",
        since.elapsed()
    );
    whole(&ALL, 3).await;
    count(&ALL, &app.name, 3, WHOLE).await;
    works(&app, &["env-set", "A=1"], WHOLE).await;
    println!("and a release works after {:?}", since.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_come_and_go_under_load_and_no_request_fails() {
    whole(&ALL, 3).await;
    let (leaving, staying) = bystander(round().is_multiple_of(2)).await;
    let stays = staying[0];
    let app = app(stays, "moves", 6).await;
    let load = Load::at(router(stays), &app.name);
    cluster(&["add"]).ok();
    until("a fourth host", WHOLE, async || {
        let seen = list(stays).map_err(|said| format!("{said:?}"))?;
        let up = seen.iter().filter(|one| one["up"] == true).count();
        if up == 4 { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    let new =
        list(stays).unwrap().iter().map(|one| number(one["id"].as_str().unwrap())).max().unwrap();
    cluster(&["remove", &leaving.to_string()]).ok();
    let now: Vec<u8> = others(leaving).into_iter().chain([new]).collect();
    whole(&now, 3).await;
    count(&now, &app.name, 6, WHOLE).await;
    assert!(!running(new, &app.name).unwrap().is_empty(), "the new host runs some of it");
    // Back to three hosts with the numbers one, two and three.
    cluster(&["add", &leaving.to_string()]).ok();
    cluster(&["remove", &new.to_string()]).ok();
    whole(&ALL, 3).await;
    count(&ALL, &app.name, 6, WHOLE).await;
    load.stop().await.unharmed();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_quorum_is_lost_for_good_one_member_goes_on() {
    whole(&ALL, 3).await;
    let app = app(1, "rest", 3).await;
    let said = on(1, "flynn-host recover --force");
    assert!(said.err.contains("quorum"), "nothing is lost yet: {said:?}");
    for host in [2, 3] {
        on(host, "docker pause flynn-etcd").ok();
    }
    until("etcd to be recovered", WHOLE, async || {
        let said = on(1, "flynn-host recover --force");
        if said.status == 0 { Ok(said) } else { Err(said) }
    })
    .await;
    // The others gave up what their own etcd knew, and are members again of the one that goes on.
    whole(&ALL, 3).await;
    same_keys(&ALL).await;
    works(&app, &["env-set", "A=1"], WHOLE).await;
    works(&app, &["scale", "web=6"], WHOLE).await;
    count(&ALL, &app.name, 6, WHOLE).await;
}
