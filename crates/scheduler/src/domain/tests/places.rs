//! Where jobs go: to their data, to tagged hosts, and last to those that keep them from running.

use proptest::{prelude::*, strategy::Strategy};

use super::*;

/// Three hosts, the first the freest.
fn three(jobs: [Vec<(JobId, JobView)>; 3]) -> BTreeMap<String, HostView> {
    let hosts = jobs.into_iter().zip([50, 30, 10]).enumerate();
    hosts.map(|(n, (jobs, slots))| (format!("host{n}"), host(slots, jobs))).collect()
}

fn db() -> Kind {
    kind(0, "db")
}

fn one_db() -> Arc<ExpandedFormation> {
    with_volumes(&formation(0, &[("db", 1, false)]), &["db"])
}

fn reasons(plan: &Plan) -> Vec<&str> {
    plan.waiting.iter().map(|waiting| waiting.reason.as_str()).collect()
}

#[test]
fn what_has_a_volume_goes_to_the_host_that_has_the_data_although_another_is_freer() {
    let mut now = snapshot(three(Default::default()), [one_db()]);
    now.volumes.insert(volume(&db()).name, "host2".into());
    assert_eq!(plan(&now).start.keys().collect::<Vec<_>>(), ["host2"]);
    // Before the cluster tells of it, its host does.
    let ended = bound(db(), crashed(now.now));
    let told = snapshot(three([vec![], vec![], vec![(id(1), ended)]]), [one_db()]);
    assert_eq!(plan(&told).start.keys().collect::<Vec<_>>(), ["host2"]);
    // Drained or in trouble, it is the one that has the data.
    now.hosts.get_mut("host2").unwrap().draining = true;
    assert_eq!(plan(&now).start.keys().collect::<Vec<_>>(), ["host2"]);
}

#[test]
fn what_has_a_volume_on_a_host_that_is_away_or_full_waits_and_names_it() {
    let mut now = snapshot(three(Default::default()), [one_db()]);
    now.volumes.insert(volume(&db()).name, "host7".into());
    let away = plan(&now);
    assert!(away.is_empty());
    let reason = reasons(&away)[0];
    assert!(reason.contains("/data is on host host7, which is away"), "{reason}");
    now.volumes.insert(volume(&db()).name, "host2".into());
    now.hosts.get_mut("host2").unwrap().room.memory = 0;
    let full = plan(&now);
    assert!(full.is_empty() && reasons(&full)[0].contains("host2 has less than"), "{full:?}");
    assert!(!reasons(&full)[0].contains("host0"), "the others are not asked");
}

#[test]
fn a_volume_has_one_writer_and_its_successor_waits_for_the_end() {
    let stopping = (id(1), bound(db(), Phase::Stopping));
    let now = snapshot(three([vec![], vec![stopping], vec![]]), [one_db()]);
    let waits = plan(&now);
    assert!(waits.is_empty());
    assert!(reasons(&waits)[0].contains("in use by job"), "{waits:?}");
    assert_eq!(plan(&now.stopped()).start.len(), 1);
    // One that failed and was told to stop holds it no longer, although its host might have restarted it.
    let failed = JobView { resurrect: true, ..bound(db(), crashed(ago(5))) };
    let other = Kind::new(db().app, uuid(999).into(), "db");
    let failed = (id(1), JobView { owner: Owner::Process(other), ..failed });
    let mut now = snapshot(three([vec![], vec![failed], vec![]]), [one_db()]);
    assert!(reasons(&plan(&now))[0].contains("in use by job"));
    now.stops.insert(id(1));
    assert_eq!(plan(&now).start.len(), 1);
    // Nor do two run because two are wanted.
    let two = with_volumes(&formation(0, &[("db", 2, false)]), &["db"]);
    let both = plan(&snapshot(three(Default::default()), [two]));
    assert_eq!(both.start.values().flatten().count(), 1);
    assert!(reasons(&both)[0].contains("one process writes to a volume at a time"), "{both:?}");
    // Nor beside one of which it is not known yet whether it has the volume.
    let old = Kind::new(db().app, uuid(999).into(), "db");
    let ordered = (id(1), job(old.clone(), Phase::Ordered));
    let mut before = ExpandedFormation::clone(&one_db());
    before.release.id = old.release;
    let now = snapshot(three([vec![ordered], vec![], vec![]]), [one_db(), Arc::new(before)]);
    assert!(plan(&now).is_empty());
}

#[test]
fn a_shared_volume_has_several_writers_on_its_host() {
    let mut two = ExpandedFormation::clone(&formation(0, &[("db", 2, false)]));
    let process = two.release.processes.get_mut("db").unwrap();
    process.volumes = vec![VolumeReq { path: "/data".into(), shared: true }];
    let started = plan(&snapshot(three(Default::default()), [Arc::new(two)])).start;
    assert_eq!(started.values().map(Vec::len).collect::<Vec<_>>(), [2], "on one host");
}

#[test]
fn a_host_that_refused_a_process_gets_it_last() {
    let gone = (id(1), job(kind(0, "web"), refused(now())));
    let wanted = || [formation(0, &[("web", 3, false)])];
    let now = snapshot(three([vec![gone.clone()], vec![], vec![]]), wanted());
    let started = plan(&now).start;
    assert_eq!(started.keys().collect::<Vec<_>>(), ["host1", "host2"]);
    let alone = snapshot([("host0".into(), host(5, [gone]))], wanted());
    assert_eq!(plan(&alone).start["host0"].len(), 3, "where else");
    let long_ago = (id(1), job(kind(0, "web"), refused(ago(301))));
    let later = snapshot(three([vec![long_ago], vec![], vec![]]), wanted());
    assert!(plan(&later).start.contains_key("host0"));
}

#[test]
fn a_host_that_keeps_several_apps_from_running_does_not_attract_the_others() {
    let refused = |n: u8| (id(n.into()), job(kind(n, "web"), refused(ago(10))));
    let wanted = || [formation(0, &[("web", 1, false)]), formation(1, &[]), formation(2, &[])];
    let started = |jobs: Vec<_>| {
        let plan = plan(&snapshot(three([jobs, vec![], vec![]]), wanted()));
        plan.start.into_keys().collect::<Vec<_>>()
    };
    assert_eq!(started(vec![refused(1)]), ["host0"], "it may be the app");
    assert_eq!(started(vec![refused(1), refused(2)]), ["host1"]);
}

#[test]
fn a_host_that_is_slow_to_answer_gets_only_what_has_room_nowhere_else() {
    let mut now = snapshot(three(Default::default()), [formation(0, &[("web", 2, false)])]);
    now.hosts.get_mut("host0").unwrap().slow = true;
    assert_eq!(plan(&now).start.keys().collect::<Vec<_>>(), ["host1", "host2"]);
    now.hosts.retain(|id, _| id == "host0");
    assert_eq!(plan(&now).start["host0"].len(), 2);
}

#[test]
fn ten_thousand_that_find_no_room_are_one_that_waits_with_a_reason_that_stays() {
    let wanted = || [formation(0, &[("web", 10_000, false)])];
    let full = snapshot([("host0".into(), host(8, []))], wanted());
    let first = plan(&full);
    assert_eq!((first.start["host0"].len(), first.waiting.len()), (8, 1));
    let sentence = first.waiting[0].sentence();
    assert!(sentence.starts_with("+9,992 wait: no host has room for it: host0 has"), "{sentence}");
    let mut after = full.apply(&first);
    let waiting = plan(&after).waiting;
    assert_eq!(waiting, first.waiting, "under one id");
    after.hosts.get_mut("host0").unwrap().room.memory = MEMORY / 2;
    assert_eq!(plan(&after).waiting, waiting, "what is free changes no word of it");
}

#[test]
fn processes_run_on_hosts_with_the_tags_and_say_so_if_there_is_none() {
    let mut tagged =
        ExpandedFormation::clone(&formation(0, &[("web", 2, false), ("all", 1, true)]));
    let ssd: BTreeMap<_, _> = [("disk".to_owned(), "ssd".to_owned())].into();
    tagged.tags = [("web".into(), ssd.clone()), ("all".into(), ssd.clone())].into();
    let tagged = Arc::new(tagged);
    let mut now = snapshot(three(Default::default()), [tagged.clone()]);
    let none = plan(&now);
    assert!(none.is_empty());
    assert!(reasons(&none)[0].contains("no host is tagged disk=ssd"), "{none:?}");
    assert!(reasons(&none)[0].contains("`flynn-host tags set <host> disk=ssd`"), "{none:?}");
    now.hosts.get_mut("host2").unwrap().tags = ssd.clone();
    let first = plan(&now);
    assert_eq!(first.start.keys().collect::<Vec<_>>(), ["host2"]);
    assert_eq!(first.start["host2"].len(), 3);
    // The tag moves, and the processes with it: first they serve there.
    let mut moved = now.apply(&first);
    moved.hosts.get_mut("host2").unwrap().tags.clear();
    moved.hosts.get_mut("host1").unwrap().tags = ssd;
    let second = plan(&moved);
    assert_eq!(second.start["host1"].len(), 3);
    assert_eq!(second.stop["host2"].len(), 1, "the one of every host stops at once");
    let third = plan(&moved.apply(&second));
    assert_eq!((third.stop["host2"].len(), third.start.len()), (2, 0));
}

#[test]
fn what_is_left_over_of_a_deleted_app_is_stopped_unless_its_host_restarts_it() {
    let foreign = |n, resurrect| (id(n), JobView { resurrect, ..job(kind(9, "web"), Phase::Up) });
    let jobs = vec![foreign(1, false), foreign(2, true), foreign(3, false)];
    let mut now = snapshot(three([jobs, vec![], vec![]]), [formation(0, &[])]);
    now.left_over = [id(1), id(2)].into();
    assert_eq!(plan(&now).stop["host0"], [id(1)]);
    now.stops.insert(id(1));
    assert!(plan(&now).is_empty(), "it is told once");
}

#[test]
fn an_order_that_is_under_way_counts_and_is_not_told_of() {
    let ordered = (id(1), job(kind(0, "web"), Phase::Ordered));
    let wanted = [formation(0, &[("web", 1, false)])];
    let mut now = snapshot(three([vec![ordered], vec![], vec![]]), wanted);
    now.ordering.insert(id(1));
    let plan = plan(&now);
    assert!(plan.is_empty());
    assert_eq!(crate::domain::reports(&now, &plan)[&id(1)], None);
}

/// Hosts that drain, are away, refuse and are full; types that keep data on some host, also on one that is away.
fn clusters() -> impl Strategy<Value = Snapshot> {
    let phase = prop_oneof![
        2 => Just(Phase::Up),
        1 => Just(Phase::Starting),
        1 => Just(Phase::Stopping),
        1 => (0i64..400).prop_map(|s| crashed(ago(s))),
        1 => (0i64..400).prop_map(|s| refused(ago(s))),
    ];
    let present = prop::collection::vec((0u8..4, phase, 0usize..3), 0..4);
    let place = (1u64..9, prop::bool::weighted(0.9), prop::bool::weighted(0.2));
    let homes = prop::collection::vec(prop::option::of(0usize..4), 4);
    (present, prop::collection::vec(place, 3), homes, 0u32..3).prop_map(
        |(present, hosts, homes, wanted)| {
            let mut jobs: [Vec<(JobId, JobView)>; 3] = Default::default();
            let mut homes: BTreeMap<u8, usize> =
                (0..).zip(homes).filter_map(|(app, home)| Some((app, home?))).collect();
            for (n, (app, phase, on)) in present.into_iter().enumerate() {
                // A job is where its data is.
                let on = *homes.entry(app).or_insert(on) % 3;
                homes.insert(app, on);
                let restarts = u32::from(app);
                let view = JobView { restarts, ..bound(kind(app, "db"), phase) };
                jobs[on].push((id(n as u128 + 1), view));
            }
            let hosts = hosts.into_iter().zip(jobs).enumerate().map(|(n, (host_parts, jobs))| {
                let (slots, connected, draining) = host_parts;
                (format!("host{n}"), HostView { connected, draining, ..host(slots, jobs) })
            });
            let formation = |app| with_volumes(&formation(app, &[("db", wanted, false)]), &["db"]);
            let mut snapshot = snapshot(hosts, (0..4).map(formation));
            let name = |app: u8| volume(&kind(app, "db")).name;
            snapshot.volumes =
                homes.into_iter().map(|(app, on)| (name(app), format!("host{on}"))).collect();
            snapshot
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn data_is_written_by_one_job_and_on_the_host_that_has_it(snapshot in clusters()) {
        let plan = plan(&snapshot);
        let mut writers: BTreeMap<&str, u32> = BTreeMap::new();
        for (_, job) in snapshot.hosts.values().flat_map(|host| host.jobs.iter()) {
            if job.ending().is_none() {
                *writers.entry(&job.volumes[0].name).or_default() += 1;
            }
        }
        let before = writers.clone();
        for (host, jobs) in &plan.start {
            prop_assert!(snapshot.hosts[host].connected);
            for job in jobs {
                let name = job.config.volumes[0].name.as_str();
                let home = snapshot.volumes.get(name);
                prop_assert!(home.is_none_or(|home| home == host), "{name} on {host}");
                *writers.entry(name).or_default() += 1;
                prop_assert_eq!((before.get(name), writers[name]), (None, 1));
            }
        }
    }

    #[test]
    fn what_keeps_data_comes_to_rest_with_a_reason(snapshot in clusters()) {
        let first = plan(&snapshot);
        let after = snapshot.apply(&first);
        prop_assert!(plan(&after).start.is_empty());
        let later = after.stopped();
        let rest = later.apply(&plan(&later)).stopped();
        prop_assert!(plan(&rest).is_empty());
        prop_assert!(first.waiting.iter().all(|waiting| !waiting.reason.is_empty()));
    }
}
