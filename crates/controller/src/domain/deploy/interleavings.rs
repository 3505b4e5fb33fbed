//! Any interleaving of wishes and mishaps over the deployments of one app: what a controller would do with its rows, played
//! with the pure decisions, a scheduler and hosts that lose, refuse, crash and report late.

use api::{
    controller::{Job, JobState, Release, Strategy},
    host::EndReason,
    id::JobId,
};
use proptest::{prelude::*, strategy::Strategy as Choice};

use super::{
    tests::{job, release, strategies},
    *,
};

const KINDS: [&str; 2] = ["web", "worker"];
/// Rounds without a mishap in which everything has to come to its end: the longest a deployment may take, several times.
const QUIET: usize = 20_000;
/// A round is a second.
const ROUND: Duration = Duration::from_secs(1);

/// What happens in a round.
#[derive(Debug, Clone)]
enum Happening {
    /// Nothing but the work that is to be done.
    Work,
    /// Somebody deploys a new release; it can serve or not.
    Deploy { serves: bool },
    /// Somebody deploys one of the releases before.
    Rollback { back: usize },
    /// Somebody scales a type.
    Scale { kind: usize, count: u32 },
    /// Somebody cancels what runs.
    Cancel,
    /// The process of a job ends by itself.
    Crash { job: usize },
    /// Somebody stops a job.
    Kill { job: usize },
    /// A host is gone, and all its jobs.
    LoseHost { host: usize },
    /// A host refuses the next order.
    Refuse,
    /// Reports of jobs are held back for this many rounds, then come out of order.
    Hold { rounds: usize },
    /// The controller is killed: for this many rounds nobody works.
    KillController { rounds: usize },
}

fn happenings() -> impl Choice<Value = Happening> {
    prop_oneof![
        20 => Just(Happening::Work),
        3 => any::<bool>().prop_map(|serves| Happening::Deploy { serves }),
        1 => (0usize..4).prop_map(|back| Happening::Rollback { back }),
        3 => (0usize..2, 0u32..5).prop_map(|(kind, count)| Happening::Scale { kind, count }),
        1 => Just(Happening::Cancel),
        2 => (0usize..8).prop_map(|job| Happening::Crash { job }),
        1 => (0usize..8).prop_map(|job| Happening::Kill { job }),
        1 => (0usize..3).prop_map(|host| Happening::LoseHost { host }),
        1 => Just(Happening::Refuse),
        1 => (1usize..20).prop_map(|rounds| Happening::Hold { rounds }),
        1 => (1usize..20).prop_map(|rounds| Happening::KillController { rounds }),
    ]
}

/// A deployment's row.
#[derive(Debug, Clone)]
struct Running {
    new: usize,
    old: Option<usize>,
    target: Counts,
    original: Counts,
    going_back: bool,
    began: Timestamp,
    step_at: Timestamp,
    stopped: u32,
}

/// A job, as it is; and whether the controller was told so.
#[derive(Debug, Clone)]
struct Real {
    job: Job,
    host: usize,
    /// Counts changes, so that an older report does not undo a newer one.
    told: Option<JobState>,
}

#[derive(Debug)]
struct World {
    strategy: Strategy,
    now: Timestamp,
    releases: Vec<(Release, bool)>,
    serving: Option<usize>,
    formations: BTreeMap<usize, Counts>,
    running: Option<Running>,
    pending: Option<usize>,
    real: Vec<Real>,
    rows: BTreeMap<JobId, Reported>,
    held: usize,
    away: usize,
    refuses: bool,
    /// Releases that were asked for, in order, and how the last deployment of each ended.
    completed: Vec<usize>,
}

impl World {
    fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            now: Timestamp::UNIX_EPOCH,
            releases: Vec::new(),
            serving: None,
            formations: BTreeMap::new(),
            running: None,
            pending: None,
            real: Vec::new(),
            rows: BTreeMap::new(),
            held: 0,
            away: 0,
            refuses: false,
            completed: Vec::new(),
        }
    }

    fn formation(&self, release: usize) -> Counts {
        self.formations.get(&release).cloned().unwrap_or_default()
    }

    fn happen(&mut self, happening: &Happening) {
        match *happening {
            Happening::Work => {}
            Happening::Deploy { serves } => {
                self.releases.push((release(&KINDS), serves));
                self.pending = Some(self.releases.len() - 1);
            }
            Happening::Rollback { back } => {
                if !self.releases.is_empty() {
                    self.pending = Some(self.releases.len().saturating_sub(back + 1));
                }
            }
            Happening::Scale { kind, count } => self.scale(KINDS[kind], count),
            Happening::Cancel => {
                if let Some(running) = self.running.as_mut().filter(|running| !running.going_back) {
                    (running.going_back, running.step_at) = (true, self.now);
                }
            }
            Happening::Crash { job } => self.end(job, EndReason::Exited),
            Happening::Kill { job } => self.end(job, EndReason::Stopped),
            Happening::LoseHost { host } => {
                for at in 0..self.real.len() {
                    if self.real[at].host == host {
                        self.end(at, EndReason::HostLost);
                    }
                }
            }
            Happening::Refuse => self.refuses = true,
            Happening::Hold { rounds } => self.held = rounds,
            Happening::KillController { rounds } => self.away = rounds,
        }
    }

    fn scale(&mut self, kind: &str, count: u32) {
        let change = Change::Some(BTreeMap::from([(kind.to_owned(), count)]));
        if let Some(running) = &mut self.running {
            let old = running.old.map(|old| &self.releases[old].0);
            let new = &self.releases[running.new].0;
            let wanted = retarget(&running.target, &running.original, (old, new), &change);
            (running.target, running.original) = (wanted.target, wanted.original);
            if running.old.is_none() && self.serving != Some(running.new) {
                running.original.clear();
            }
        } else if let Some(serving) = self.serving {
            let counts = patched(&self.formation(serving), &change);
            self.formations.insert(serving, counts);
        }
    }

    fn end(&mut self, at: usize, reason: EndReason) {
        let now = self.now;
        let Some(real) = self.real.get_mut(at).filter(|real| !real.job.state.is_over()) else {
            return;
        };
        let asked = reason == EndReason::Stopped;
        real.job.state = if asked { JobState::Down } else { JobState::Crashed };
        real.job.exit_status = (reason == EndReason::Exited).then_some(1);
        real.job.end_reason = Some(reason);
        real.job.updated_at = Some(now);
    }

    /// The scheduler and the hosts do what the formations say.
    fn schedule(&mut self) {
        for at in 0..self.releases.len() {
            let (of_release, serves) = self.releases[at].clone();
            for kind in KINDS {
                let wanted = of(&self.formation(at), kind) as usize;
                let ours = |real: &Real| {
                    real.job.release == of_release.id
                        && real.job.kind == kind
                        && !real.job.state.is_over()
                };
                let alive: Vec<usize> =
                    (0..self.real.len()).filter(|&at| ours(&self.real[at])).collect();
                for &surplus in alive.iter().skip(wanted) {
                    self.end(surplus, EndReason::Stopped);
                }
                if alive.len() < wanted {
                    self.start(&of_release, kind);
                }
                for &at in alive.iter().take(wanted) {
                    if serves {
                        self.real[at].job.state = JobState::Up;
                    } else {
                        self.end(at, EndReason::Exited);
                    }
                }
            }
        }
    }

    fn start(&mut self, of_release: &Release, kind: &str) {
        let job = Job {
            kind: kind.into(),
            updated_at: Some(self.now),
            ..job(of_release, JobState::Starting)
        };
        let host = self.real.len() % 3;
        self.real.push(Real { job, host, told: None });
        if std::mem::take(&mut self.refuses) {
            self.end(self.real.len() - 1, EndReason::Refused);
        }
    }

    /// Reports reach the controller, the last one first; one about an ended job that is older changes nothing.
    fn report(&mut self) {
        if self.held > 0 {
            self.held -= 1;
            return;
        }
        for real in self.real.iter_mut().rev() {
            if real.told == Some(real.job.state) {
                continue;
            }
            real.told = Some(real.job.state);
            let known = self.rows.entry(real.job.uuid).or_insert_with(|| Reported {
                job: real.job.clone(),
                since: self.now,
                first_restarts: real.job.restarts,
            });
            known.job = Job { updated_at: Some(self.now), ..real.job.clone() };
        }
        self.real.retain(|real| !real.job.state.is_over());
    }

    /// The controller's worker takes a step.
    fn work(&mut self) {
        if self.away > 0 {
            self.away -= 1;
            return;
        }
        if self.running.is_none() {
            let Some(new) = self.pending.take() else { return };
            let old = self.serving;
            let original = old.map(|old| self.formation(old)).unwrap_or_default();
            let (of_old, of_new) = (old.map(|old| &self.releases[old].0), &self.releases[new].0);
            let target = target(of_old, &original, of_new, &self.formation(new));
            self.running = Some(Running {
                new,
                old: old.filter(|old| *old != new),
                target,
                original,
                going_back: false,
                began: self.now,
                step_at: self.now,
                stopped: 0,
            });
        }
        let Some(running) = self.running.clone() else { return };
        let state = self.state(&running);
        match next_step(&state) {
            Step::Wait => {}
            Step::Scale { old, new } => self.step(&state, running, old, new),
            Step::Fail(_) => {
                self.running = Some(Running { going_back: true, step_at: self.now, ..running });
            }
            Step::Complete => {
                if let Some(old) = running.old {
                    self.formations.remove(&old);
                }
                self.formations.entry(running.new).or_default();
                self.serving = Some(running.new);
                self.completed.push(running.new);
                self.running = None;
            }
            Step::WentBack => {
                if let Some(old) = running.old {
                    self.formations.insert(old, running.original);
                }
                if self.serving != Some(running.new) {
                    self.formations.remove(&running.new);
                }
                self.running = None;
            }
        }
    }

    fn step(&mut self, state: &DeployState, running: Running, old: Counts, new: Counts) {
        self.nobody_is_left_alone(state, &old, &new);
        let fewer = |(kind, before): (&String, &u32)| before.saturating_sub(of(&new, kind));
        let stopped: u32 = state.new.iter().map(fewer).sum();
        if let Some(release) = running.old {
            self.formations.insert(release, old);
        }
        self.formations.insert(running.new, new);
        let stopped = running.stopped + stopped;
        self.running = Some(Running { step_at: self.now, stopped, ..running });
    }

    /// A step takes the last process of a type of one release only when the other serves, as far as was told.
    fn nobody_is_left_alone(&self, state: &DeployState, old: &Counts, new: &Counts) {
        if state.strategy == Strategy::OneDownOneUp {
            return;
        }
        for kind in KINDS {
            let wanted = of(&state.target, kind) > 0 && of(&state.original, kind) > 0;
            let goes =
                |before: &Counts, after: &Counts| of(before, kind) > 0 && of(after, kind) == 0;
            if wanted && goes(&state.old, old) {
                assert!(of(&state.seen.new_up, kind) > 0, "{kind} has nobody: {state:?}");
            }
            let gave_up = state.waited() >= GO_BACK;
            if wanted && state.has_old && goes(&state.new, new) && !gave_up {
                assert!(of(&state.seen.old_up, kind) > 0, "{kind} has nobody: {state:?}");
            }
        }
    }

    fn state(&self, running: &Running) -> DeployState {
        let (old, new) =
            (running.old.map(|old| &self.releases[old].0), &self.releases[running.new].0);
        let jobs: Vec<Reported> = self
            .rows
            .values()
            .filter(|row| !row.job.state.is_over() || row.job.updated_at >= Some(running.began))
            .cloned()
            .collect();
        DeployState {
            strategy: self.strategy,
            target: running.target.clone(),
            original: running.original.clone(),
            has_old: old.is_some(),
            over_itself: self.serving == Some(running.new),
            going_back: running.going_back,
            old: running.old.map(|old| self.formation(old)).unwrap_or_default(),
            new: self.formation(running.new),
            seen: seen(&jobs, (old, new), running.began, running.stopped, &running.target),
            omni: BTreeSet::new(),
            hosts: Some(3),
            batch: 3,
            now: self.now,
            began: running.began,
            step_at: running.step_at,
            limit: Duration::from_secs(120),
        }
    }

    fn round(&mut self) {
        self.schedule();
        self.report();
        self.work();
        self.now += ROUND;
    }

    /// Whether all work has ended and everything that shall run runs.
    fn is_settled(&self) -> bool {
        let serving =
            self.serving.map(|serving| (&self.releases[serving], self.formation(serving)));
        let serves = serving.is_none_or(|((of_release, _), wanted)| {
            KINDS.iter().all(|kind| {
                let up = |real: &&Real| {
                    real.job.release == of_release.id
                        && real.job.kind == *kind
                        && real.job.state == JobState::Up
                };
                self.real.iter().filter(up).count() == of(&wanted, kind) as usize
            })
        });
        self.running.is_none() && self.pending.is_none() && serves
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn the_last_wish_that_can_serve_serves_and_every_deployment_ends(
        strategy in strategies(), happenings in prop::collection::vec(happenings(), 0..120),
    ) {
        let mut world = World::new(strategy);
        world.happen(&Happening::Deploy { serves: true });
        for happening in &happenings {
            world.happen(happening);
            world.round();
        }
        let mut quiet = 0;
        // What crashes whenever it runs never settles, should nothing else have ever been deployed.
        let can_settle = |world: &World| world.serving.is_none_or(|at| world.releases[at].1);
        while !(world.is_settled() || (world.running.is_none() && world.pending.is_none() && !can_settle(&world))) {
            world.round();
            quiet += 1;
            prop_assert!(quiet < QUIET, "it does not end: {world:?}");
        }
        // Only one release has processes, and it is the one that was completed last.
        let live: Vec<usize> = world
            .formations
            .iter()
            .filter(|(_, counts)| counts.values().any(|&count| count > 0))
            .map(|(release, _)| *release)
            .collect();
        prop_assert!(live.iter().all(|at| Some(*at) == world.serving), "{world:?}");
        prop_assert_eq!(world.completed.last().copied(), world.serving);
    }

    #[test]
    fn a_wish_made_when_all_is_quiet_serves_whatever_was_before(
        strategy in strategies(), happenings in prop::collection::vec(happenings(), 0..60), web in 1u32..5,
    ) {
        let mut world = World::new(strategy);
        world.happen(&Happening::Deploy { serves: true });
        for happening in &happenings {
            world.happen(happening);
            world.round();
        }
        world.happen(&Happening::Deploy { serves: true });
        let wish = world.releases.len() - 1;
        for _ in 0..QUIET {
            if world.running.is_none() && world.pending.is_none() {
                break;
            }
            world.round();
        }
        prop_assert_eq!(world.serving, Some(wish));
        world.happen(&Happening::Scale { kind: 0, count: web });
        for _ in 0..20 {
            world.round();
        }
        prop_assert!(world.is_settled(), "{world:?}");
        prop_assert_eq!(of(&world.formation(wish), "web"), web);
    }
}
