//! What holds for every plan.

use proptest::{prelude::*, strategy::Strategy};

use super::*;

/// A job of any phase; the numbers say whose and how old.
fn jobs() -> impl Strategy<Value = Vec<(u128, JobView)>> {
    let phase = prop_oneof![
        2 => Just(Phase::Ordered),
        2 => Just(Phase::Starting),
        6 => Just(Phase::Up),
        1 => Just(Phase::Stopping),
        4 => (0i64..400).prop_map(|s| crashed(ago(s))),
    ];
    let job = (1u128..1_000_000, 0u8..4, prop_oneof![Just("web"), Just("worker")], phase, 0u32..9)
        .prop_map(|(id, app, name, phase, restarts)| {
            (id, JobView { restarts, ..job(kind(app, name), phase) })
        });
    prop::collection::vec(job, 0..12)
}

fn snapshots() -> impl Strategy<Value = Snapshot> {
    let host_parts = (0u64..14, jobs(), prop::bool::weighted(0.9), prop::bool::weighted(0.2));
    let hosts = prop::collection::vec(host_parts, 0..4);
    // App 3 is never listed: its jobs are foreign.
    let counts = prop::collection::vec((0u32..5, 0u32..5, prop::bool::weighted(0.2)), 0..3);
    (hosts, counts).prop_map(|(hosts, counts)| {
        let hosts = hosts.into_iter().enumerate().map(|(n, (slots, jobs, connected, full))| {
            // A job is on one host only, so ids are made different.
            let jobs = jobs.into_iter().map(|(i, job)| (id(i * 10 + n as u128), job));
            (format!("host{n}"), HostView { connected, full, ..host(slots, jobs) })
        });
        let formations = counts.into_iter().enumerate().map(|(app, (web, worker, omni))| {
            let app = u8::try_from(app).expect("three apps");
            formation(app, &[("web", web, false), ("worker", worker, omni)])
        });
        snapshot(hosts, formations)
    })
}

fn started(plan: &Plan) -> impl Iterator<Item = (&String, &api::host::Job)> {
    plan.start.iter().flat_map(|(host, jobs)| jobs.iter().map(move |job| (host, job)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn a_plan_reaches_its_goal_and_then_rests(snapshot in snapshots()) {
        let first = plan(&snapshot);
        let after = snapshot.apply(&first);
        let second = plan(&after);
        prop_assert!(second.is_empty(), "{second:?}");
        prop_assert_eq!(&second.waiting, &first.waiting);
        let later = after.stopped();
        let rest = plan(&later.apply(&plan(&later)).stopped());
        prop_assert!(rest.is_empty(), "{rest:?}");
        for (kind, (wanted, omni)) in snapshot.kinds() {
            let running: u32 = after.running(&kind).values().sum();
            let waiting: u32 = first.waiting.iter().filter(|w| w.kind == kind).map(|w| w.count).sum();
            let wanted = match omni && wanted > 0 {
                true => snapshot.hosts.len() as u32,
                false => wanted,
            };
            prop_assert_eq!(running + waiting, wanted, "{:?}", kind);
        }
    }

    #[test]
    fn nothing_is_started_beyond_what_is_wanted(snapshot in snapshots()) {
        let plan = plan(&snapshot);
        let wanted = snapshot.kinds();
        for (_, job) in started(&plan) {
            let Owner::Process(kind) = Owner::of(&job.metadata) else { panic!("{job:?}") };
            let starts = started(&plan).filter(|(_, other)| Owner::of(&other.metadata) == Owner::Process(kind.clone()));
            let running: u32 = snapshot.running(&kind).values().sum();
            let (count, omni) = wanted[&kind];
            let most = if omni { snapshot.hosts.len() as u32 } else { count };
            prop_assert!(omni || running + starts.count() as u32 <= most);
        }
    }

    #[test]
    fn nothing_is_placed_where_there_is_no_host_or_no_room(snapshot in snapshots()) {
        for (host, jobs) in &plan(&snapshot).start {
            let host = &snapshot.hosts[host];
            prop_assert!(host.connected && !host.full);
            let memory: u64 = jobs.iter().map(|job| job.limits.memory).sum();
            prop_assert!(memory <= host.room.memory);
        }
    }

    #[test]
    fn a_fresh_formation_is_spread_evenly_over_the_hosts_with_room(hosts in 1usize..6, web in 0u32..30) {
        let hosts = (0..hosts).map(|n| (format!("host{n}"), host(100, [])));
        let snapshot = snapshot(hosts, [formation(0, &[("web", web, false)])]);
        let after = snapshot.apply(&plan(&snapshot));
        let counts = after.running(&kind(0, "web"));
        let (most, least) = (counts.values().max().unwrap(), counts.values().min().unwrap());
        prop_assert!(most - least <= 1, "{counts:?}");
        prop_assert_eq!(counts.values().sum::<u32>(), web);
    }

    #[test]
    fn a_drained_host_empties_and_as_many_serve_at_every_step(
        web in 1u32..6,
        on in prop::collection::vec(0usize..3, 1..6),
        drained in 0usize..3,
    ) {
        let of = |n: usize| on.iter().enumerate().filter(move |(_, host)| **host == n)
            .map(|(i, _)| (id(i as u128 + 1), job(kind(0, "web"), Phase::Up)));
        let hosts = (0..3).map(|n| (format!("host{n}"), HostView { draining: n == drained, ..host(50, of(n)) }));
        let mut now = snapshot(hosts, [formation(0, &[("web", web, false)])]);
        let kind = kind(0, "web");
        let serving = |s: &Snapshot| s.running(&kind).values().sum::<u32>();
        let least = serving(&now).min(web);
        for _ in 0..4 {
            now = now.apply(&plan(&now));
            prop_assert!(serving(&now) >= least);
            now = now.stopped();
        }
        prop_assert!(plan(&now).is_empty());
        prop_assert_eq!(serving(&now), web);
        prop_assert_eq!(now.running(&kind)[format!("host{drained}").as_str()], 0);
    }

    #[test]
    fn nothing_is_started_again_before_its_time(snapshot in snapshots()) {
        let plan = plan(&snapshot);
        let ended: BTreeMap<JobId, &JobView> = snapshot
            .hosts
            .values()
            .flat_map(|host| host.jobs.iter().map(|(&id, job)| (id, job)))
            .collect();
        for (_, job) in started(&plan) {
            if let Some(replaced) = job.metadata.get(META_REPLACES) {
                let replaced = ended[&replaced.parse().unwrap()];
                let wait = crate::domain::backoff::replacement(replaced, replaced.ending().unwrap());
                prop_assert!(wait.not_before <= snapshot.now);
                prop_assert_eq!(job.restarts, wait.restarts);
            }
        }
        let times = plan.waiting.iter().filter_map(|waiting| waiting.run_at);
        prop_assert_eq!(times.clone().min(), plan.wake_at);
        prop_assert!(times.into_iter().all(|at| at > snapshot.now));
    }

    #[test]
    fn a_refusal_is_real(snapshot in snapshots()) {
        let first = plan(&snapshot);
        let after = snapshot.apply(&first);
        for waiting in first.waiting.iter().filter(|waiting| waiting.run_at.is_none()) {
            let room = after.hosts.iter().any(|(id, host)| {
                let here = waiting.only.as_ref().is_none_or(|only| only == id);
                here && host.connected && !host.full && host.room.memory >= MEMORY
            });
            prop_assert!(!room, "{waiting:?}");
        }
    }

    #[test]
    fn no_plan_starts_and_stops_the_same_kind(snapshot in snapshots()) {
        let plan = plan(&snapshot);
        let omni: Vec<Kind> =
            snapshot.kinds().into_iter().filter(|(_, (_, omni))| *omni).map(|(kind, _)| kind).collect();
        for (host, stops) in &plan.stop {
            for stop in stops {
                let stopped = snapshot.hosts[host].jobs[stop].kind().unwrap();
                let same = started(&plan).any(|(on, job)| {
                    // An omni process that is doubled here may be missing there.
                    Owner::of(&job.metadata).eq(&Owner::Process(stopped.clone()))
                        && (on == host || !omni.contains(stopped))
                });
                prop_assert!(!same);
            }
        }
    }

    #[test]
    fn the_same_cluster_told_in_another_order_gives_the_same_plan(snapshot in snapshots()) {
        let mut again = snapshot.clone();
        again.hosts = snapshot.hosts.iter().rev().map(|(id, host)| {
            let jobs = host.jobs.iter().rev().map(|(&id, job)| (id, job.clone())).collect();
            (id.clone(), HostView { jobs: Arc::new(jobs), ..host.clone() })
        }).collect();
        prop_assert_eq!(plan(&again), plan(&snapshot));
    }

    #[test]
    fn jobs_of_apps_that_were_never_listed_are_left_alone(snapshot in snapshots()) {
        let plan = plan(&snapshot);
        for (host, stops) in &plan.stop {
            for stop in stops {
                let kind = snapshot.hosts[host].jobs[stop].kind().unwrap();
                prop_assert!(snapshot.formations.contains_key(&kind.app));
                prop_assert!(!plan.foreign.contains(stop));
            }
        }
    }

    #[test]
    fn a_snapshot_can_be_saved(snapshot in snapshots()) {
        serde_json::to_string(&snapshot).unwrap();
    }
}
