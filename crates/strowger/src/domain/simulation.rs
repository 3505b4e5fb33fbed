//! What choosing well is worth: a service with bad backends, its requests one event after the other, the same for each way
//! of choosing. Everything that chance decides comes from a seed.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    fmt,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    budget::Budget,
    ewma::Latency,
    outlier::{Fault, Outlier, Peers, Success},
    pick::{Asker, Candidate, Standing, Tried, pick},
    warmth::warmth,
};

/// Requests a process works on at once.
const THREADS: usize = 8;
/// What a page costs on average, in microseconds.
const WORK: f64 = 5_000.0;
/// After how long a process that loses all it gets does so.
const LOSS: u64 = 200;
const SECOND: u64 = 1_000_000;

/// How a backend is bad.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Good,
    /// Takes ten times as long.
    Slow,
    /// Stands still for two of each ten seconds.
    Pausing,
    /// Takes every connection and closes it, at once.
    Losing,
    /// Is registered so late, and takes eight times as long for its first 500 requests.
    Cold(u64),
}

/// How a backend is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Policy {
    Random,
    RoundRobin,
    /// The less busy of two.
    InFlight,
    /// What the router does.
    Ours,
}

struct Backend {
    kind: Kind,
    since: u64,
    in_flight: u32,
    working: usize,
    queue: VecDeque<Request>,
    served: u32,
    latency: Latency,
    outlier: Outlier,
    knows: bool,
}

impl Candidate for Backend {
    fn standing(&self, now_ms: u64) -> Standing {
        match now_ms * 1_000 < self.since {
            true => Standing::Gone,
            false if self.knows => self.outlier.standing(now_ms),
            false => Standing::Good,
        }
    }
    fn load(&self) -> u32 {
        self.in_flight
    }
    fn latency(&self) -> Latency {
        if self.knows { self.latency } else { Latency::default() }
    }
    fn warmth(&self, now_ms: u64) -> f32 {
        if self.knows { warmth(self.since / 1_000, now_ms) } else { 1.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Request {
    begun: u64,
    sent: u64,
    is_repeatable: bool,
    was_lost: Option<usize>,
    /// What it costs a good backend.
    work: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Answer(usize, Request),
    Loss(usize, Request),
}

struct Scenario {
    kinds: Vec<Kind>,
    /// Requests a second.
    rate: f64,
    seconds: u64,
    /// One of so many requests is a report, which costs a hundred times as much; 0 is none.
    reports: u32,
}

struct World {
    policy: Policy,
    backends: Vec<Backend>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    order: u64,
    turn: usize,
    requests: u64,
    budget: Budget,
    /// One for what comes, the same for all policies, and one for what is chosen.
    chance: StdRng,
    choice: StdRng,
    waits: Vec<u64>,
    failed: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    mean_ms: f64,
    p99_ms: f64,
    failed: u64,
    requests: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { mean_ms, p99_ms, failed, requests } = self;
        write!(f, "mean {mean_ms:8.2} ms, p99 {p99_ms:9.2} ms, {failed:5} of {requests} failed")
    }
}

impl World {
    fn new(scenario: &Scenario, policy: Policy, seed: u64) -> Self {
        let backend = |&kind: &Kind| Backend {
            kind,
            since: if let Kind::Cold(since) = kind { since } else { 0 },
            in_flight: 0,
            working: 0,
            queue: VecDeque::new(),
            served: 0,
            latency: Latency::default(),
            outlier: Outlier::default(),
            knows: policy == Policy::Ours,
        };
        Self {
            policy,
            backends: scenario.kinds.iter().map(backend).collect(),
            events: BinaryHeap::new(),
            order: 0,
            turn: 0,
            requests: 0,
            budget: Budget::default(),
            chance: StdRng::seed_from_u64(seed),
            choice: StdRng::seed_from_u64(seed + 1),
            waits: Vec::new(),
            failed: 0,
        }
    }

    fn run(mut self, scenario: &Scenario) -> Outcome {
        self.at(0, Event::Arrival);
        while let Some(Reverse((now, _, event))) = self.events.pop() {
            match event {
                Event::Arrival => {
                    let request = self.arrive(now, scenario);
                    self.send(now, request);
                }
                Event::Answer(index, request) => self.answer(now, index, request),
                Event::Loss(index, request) => self.lose(now, index, request),
            }
        }
        self.waits.sort_unstable();
        let mean = self.waits.iter().sum::<u64>() as f64 / self.waits.len() as f64;
        let p99 = self.waits[self.waits.len() * 99 / 100] as f64;
        Outcome {
            mean_ms: mean / 1e3,
            p99_ms: p99 / 1e3,
            failed: self.failed,
            requests: self.requests,
        }
    }

    fn at(&mut self, time: u64, event: Event) {
        self.order += 1;
        self.events.push(Reverse((time, self.order, event)));
    }

    fn arrive(&mut self, now: u64, scenario: &Scenario) -> Request {
        let mut exponential = |mean: f64| {
            let chance: f64 = self.chance.random();
            (-(1.0 - chance).ln() * mean) as u64
        };
        let (pause, mut work) = (exponential(1e6 / scenario.rate), exponential(WORK));
        if scenario.reports > 0 && self.chance.random_range(0..scenario.reports) == 0 {
            work *= 100;
        }
        let is_repeatable = self.chance.random_range(0..10) < 7;
        if now + pause < scenario.seconds * SECOND {
            self.at(now + pause, Event::Arrival);
        }
        self.requests += 1;
        Request { begun: now, sent: now, is_repeatable, was_lost: None, work }
    }

    fn send(&mut self, now: u64, mut request: Request) {
        let index = self.choose(now / 1_000, &request);
        let backend = &mut self.backends[index];
        if let Some(tried) = backend.outlier.try_again(now / 1_000) {
            backend.outlier = tried;
        }
        request.sent = now;
        backend.in_flight += 1;
        if backend.kind == Kind::Losing {
            self.at(now + LOSS, Event::Loss(index, request));
        } else if backend.working < THREADS {
            self.work(now, index, request);
        } else {
            backend.queue.push_back(request);
        }
    }

    fn choose(&mut self, now_ms: u64, request: &Request) -> usize {
        let mut tried = Tried::default();
        request.was_lost.into_iter().for_each(|index| tried.add(index));
        let n = self.backends.len();
        let is_there = |index: usize| {
            self.backends[index].standing(now_ms) != Standing::Gone && !tried.has(index)
        };
        let asker = Asker { tried: &tried, is_repeatable: request.is_repeatable, now_ms };
        match self.policy {
            Policy::Random => loop {
                let index = self.choice.random_range(0..n);
                if is_there(index) {
                    return index;
                }
            },
            Policy::RoundRobin => loop {
                self.turn = (self.turn + 1) % n;
                if is_there(self.turn) {
                    return self.turn;
                }
            },
            Policy::InFlight | Policy::Ours => {
                pick(&self.backends, &asker, |n| self.choice.random_range(0..n)).unwrap()
            }
        }
    }

    fn work(&mut self, now: u64, index: usize, request: Request) {
        let backend = &mut self.backends[index];
        backend.working += 1;
        backend.served += 1;
        let factor = match backend.kind {
            Kind::Slow => 10,
            Kind::Cold(_) if backend.served <= 500 => 8,
            _ => 1,
        };
        let mut end = now + request.work * factor;
        if backend.kind == Kind::Pausing {
            let in_pause = |time: u64| time % (10 * SECOND) < 2 * SECOND;
            let pause_end = |time: u64| time - time % (10 * SECOND) + 2 * SECOND;
            if in_pause(now) {
                end += pause_end(now) - now;
            } else if in_pause(end) {
                end += 2 * SECOND;
            }
        }
        self.at(end, Event::Answer(index, request));
    }

    fn answer(&mut self, now: u64, index: usize, request: Request) {
        let backend = &mut self.backends[index];
        backend.in_flight -= 1;
        backend.working -= 1;
        backend.latency = backend.latency.observe((now - request.sent) as u32, now / 1_000);
        backend.outlier = backend.outlier.succeed(Success::Answered, now / 1_000);
        self.waits.push(now - request.begun);
        if let Some(next) = backend.queue.pop_front() {
            self.work(now, index, next);
        }
    }

    fn lose(&mut self, now: u64, index: usize, request: Request) {
        let all = self.backends.len();
        let ejected = self.backends.iter().filter(|one| !one.outlier.is_serving()).count();
        let backend = &mut self.backends[index];
        backend.in_flight -= 1;
        backend.outlier = backend.outlier.fail(Fault::Lost, Peers { ejected, all }, now / 1_000);
        if !request.is_repeatable || request.was_lost.is_some() {
            self.failed += 1;
            return;
        }
        match self.budget.spend(self.requests, now / 1_000) {
            Some(left) => {
                self.budget = left;
                self.send(now, Request { was_lost: Some(index), ..request });
            }
            None => self.failed += 1,
        }
    }
}

/// The outcome of each policy, printed.
fn compare(name: &str, scenario: &Scenario, seed: u64) -> [Outcome; 4] {
    println!("{name}, seed {seed}:");
    [Policy::Random, Policy::RoundRobin, Policy::InFlight, Policy::Ours].map(|policy| {
        let outcome = World::new(scenario, policy, seed).run(scenario);
        println!("  {:12} {outcome}", format!("{policy:?}"));
        outcome
    })
}

/// Eight backends, some of which are bad.
fn with(bad: &[Kind]) -> Scenario {
    let good = std::iter::repeat_n(Kind::Good, 8 - bad.len());
    let kinds = bad.iter().copied().chain(good).collect();
    Scenario { kinds, rate: 1_000.0, seconds: 60, reports: 0 }
}

const SEEDS: [u64; 3] = [1, 20, 300];

#[test]
fn among_bad_backends_requests_are_faster_and_fail_less_than_by_chance_or_in_turn() {
    use Kind::{Cold, Losing, Pausing, Slow};
    let new = [Cold(20 * SECOND), Cold(40 * SECOND)];
    let all = [&[Slow, Pausing, Losing][..], &new].concat();
    // Requests a second, and how much of the others' mean and p99 is left.
    let scenarios = [
        ("one is slow", &[Slow][..], 1_000.0, 0.5, 0.2),
        ("one pauses", &[Pausing], 1_000.0, 0.2, 0.05),
        ("one loses what it gets", &[Losing], 1_000.0, 1.02, 1.02),
        ("two are new", &new, 2_000.0, 0.7, 0.4),
        ("all of these", &all, 1_000.0, 0.05, 0.06),
    ];
    for seed in SEEDS {
        for (name, bad, rate, mean, p99) in scenarios {
            let scenario = Scenario { rate, ..with(bad) };
            let [random, in_turn, _, ours] = compare(name, &scenario, seed);
            for other in [random, in_turn] {
                assert!(ours.mean_ms <= other.mean_ms * mean, "{name}: {ours} {other}");
                assert!(ours.p99_ms <= other.p99_ms * p99, "{name}: {ours} {other}");
                assert!(ours.failed * 500 <= other.failed, "{name}: {ours} {other}");
            }
        }
    }
}

#[test]
fn where_no_backend_is_better_than_another_nothing_is_lost_by_looking_for_it() {
    use Kind::{Good, Pausing};
    for seed in SEEDS {
        for (name, bad, rate, reports) in [
            ("all are alike", Good, 6_000.0, 0),
            ("one page of fifty is a report", Good, 2_000.0, 50),
            ("and one pauses", Pausing, 2_000.0, 50),
        ] {
            let scenario = Scenario { rate, reports, seconds: 30, ..with(&[bad]) };
            let [random, _, in_flight, ours] = compare(name, &scenario, seed);
            assert!(ours.mean_ms <= in_flight.mean_ms * 1.05, "{name}: {ours} {in_flight}");
            assert!(ours.p99_ms <= random.p99_ms, "{name}: {ours} {random}");
        }
    }
}
