//! The world: one clock, one queue of what will happen, one stream of chance.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::{
    controller::ExpandedFormation,
    host::{ActiveJob, Status},
    id::JobId,
};
use jiff::Timestamp;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    etcd::Etcd,
    host::{HOSTS, Host, Leading, SCHEDULERS, name},
    message::{Happening, Message, Node},
    oracle::Oracle,
    planner::Planner,
    report::{Coverage, Failure},
};

/// Hosts.
const SIZE: usize = 5;
/// Schedulers.
const PLANNERS: usize = 2;
/// Things break for so long, in ms.
pub(crate) const TROUBLE: u64 = 180_000;
/// When all is mended, the cluster has so long to become what the formations say: longer than any back-off.
const RECOVERY: u64 = 600_000;
/// Between two looks at whether it has.
const LOOK: u64 = 1000;
/// A seed with more events goes round in circles.
const MOST_EVENTS: u64 = 2_000_000;
/// Things kept for the one who reads a failure.
const TRACE: usize = 60;
/// When the simulated clock begins, in seconds since 1970.
const EPOCH: i64 = 1_700_000_000;

/// Everything there is.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: StdRng,
    queue: BTreeMap<(u64, u64), Happening>,
    sequence: u64,
    pub(crate) etcd: Etcd,
    pub(crate) hosts: Vec<Host>,
    pub(crate) planners: Vec<Planner>,
    pub(crate) formations: Vec<ExpandedFormation>,
    /// Hosts that are cut off.
    pub(crate) cut: BTreeSet<usize>,
    /// Hosts that nobody opens a connection to.
    pub(crate) deaf: BTreeSet<usize>,
    /// Links on which only the second host opens connections.
    pub(crate) one_way: BTreeSet<(usize, usize)>,
    pub(crate) storm: bool,
    /// How many askers are to hang up on a leader.
    pub(crate) hanging_up: u32,
    /// Open streams: scheduler, host, and when its last event arrives.
    pub(crate) streams: BTreeMap<u64, (usize, usize, u64)>,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    trace: VecDeque<String>,
    failure: Option<String>,
}

/// Runs a seed to its end.
///
/// # Errors
/// What happened that must not.
pub fn run(seed: u64) -> Result<Coverage, Box<Failure>> {
    let mut world = World::new(seed);
    world.begin();
    let what = match world.play() {
        Ok(()) => return Ok(world.coverage),
        Err(what) => what,
    };
    Err(Box::new(Failure { seed, at: world.now, what, trace: world.trace.into() }))
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: 0,
            rng: StdRng::seed_from_u64(seed),
            queue: BTreeMap::new(),
            sequence: 0,
            etcd: Etcd::new(),
            hosts: (0..SIZE).map(Host::new).collect(),
            planners: (0..PLANNERS).map(|n| Planner::new(n, uuid::Uuid::nil())).collect(),
            formations: Vec::new(),
            cut: BTreeSet::new(),
            deaf: BTreeSet::new(),
            one_way: BTreeSet::new(),
            storm: false,
            hanging_up: 0,
            streams: BTreeMap::new(),
            oracle: Oracle::default(),
            coverage: Coverage { seeds: 1, ..Coverage::default() },
            trace: VecDeque::new(),
            failure: None,
        }
    }

    fn begin(&mut self) {
        self.make_formations();
        for host in 0..SIZE {
            self.power_on(host);
        }
        for planner in 0..PLANNERS {
            self.start_planner(planner);
        }
        self.after(500, Happening::Expire);
        self.after(5000, Happening::Scale);
        self.plan_faults();
    }

    /// Plays to the end; an error is what must not happen.
    fn play(&mut self) -> Result<(), String> {
        let (mut next_look, mut settled) = (TROUBLE + LOOK, 0);
        let mut mended = false;
        while let Some(((at, _), happening)) = self.queue.pop_first() {
            self.now = at;
            self.coverage.events += 1;
            if self.coverage.events > MOST_EVENTS {
                return Err("it does not come to rest".into());
            }
            if !mended && self.now >= TROUBLE {
                mended = true;
                self.mend_all();
            }
            self.happen(happening);
            if let Some(what) = self.failure.take() {
                return Err(what);
            }
            if self.now >= next_look {
                next_look = self.now + LOOK;
                let unsettled = self.unsettled();
                settled = if unsettled.is_none() { settled + 1 } else { 0 };
                if settled == 3 {
                    return Ok(());
                }
                if let Some(what) = unsettled.filter(|_| self.now >= TROUBLE + RECOVERY) {
                    self.say_who_leads();
                    return Err(format!("all was mended long ago, and {what}"));
                }
            }
        }
        Err("nothing happens any more".into())
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Deliver { from, to, call, message } => self.deliver(from, to, call, message),
            Happening::Timeout { at, call } => self.time_out(at, call),
            Happening::Sweep { host, life } => self.sweep(host, life),
            Happening::Round { scheduler, life, sweep } => self.round(scheduler, life, sweep),
            Happening::Step { host, boot, job, step } => self.step(host, boot, job, step),
            Happening::Renew { host, boot } => self.renew(host, boot),
            Happening::Expire => {
                if self.etcd.up {
                    self.etcd.expire(self.now);
                    self.spread();
                }
                self.after(500, Happening::Expire);
            }
            Happening::Hear { host } => self.hear(host),
            Happening::Subscribe { scheduler, life, host } => self.subscribe(scheduler, life, host),
            Happening::Tell { scheduler, host, stream, event } => {
                self.told(scheduler, host, stream, *event);
            }
            Happening::Lost { scheduler, host, stream } => self.lost(scheduler, host, stream),
            Happening::Formations { scheduler, life } => self.list_formations(scheduler, life),
            Happening::Forget { host } => self.forget(host),
            Happening::Scale => self.scale(),
            Happening::Break(fault) => self.break_it(fault),
            Happening::Mend(fault) => self.mend(fault),
        }
    }

    // Time and chance.

    pub(crate) fn after(&mut self, delay: u64, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), happening);
    }

    pub(crate) fn between(&mut self, least: u64, most: u64) -> u64 {
        self.rng.random_range(least..=most)
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.rng.random_range(0..100) < percent
    }

    pub(crate) fn timestamp(&self) -> Timestamp {
        let at = EPOCH * 1000 + i64::try_from(self.now).expect("a simulation is short");
        Timestamp::from_millisecond(at).expect("the simulated clock is near now")
    }

    pub(crate) fn next_call(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    pub(crate) fn say(&mut self, what: impl FnOnce() -> String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(format!("{:>8} {}", self.now, what()));
    }

    pub(crate) fn check(&mut self, verdict: Result<(), String>) {
        if let Err(what) = verdict
            && self.failure.is_none()
        {
            self.failure = Some(what);
        }
    }

    /// The jobs of every host.
    pub(crate) fn all_jobs(&self) -> Vec<&BTreeMap<JobId, ActiveJob>> {
        self.hosts.iter().map(|host| &host.jobs).collect()
    }

    // The network.

    pub(crate) fn place(&self, node: Node) -> usize {
        match node {
            Node::Host(host) => host,
            Node::Scheduler(planner) => self.planners[planner].host,
        }
    }

    pub(crate) fn reach(&self, a: usize, b: usize) -> bool {
        a == b || !(self.cut.contains(&a) || self.cut.contains(&b))
    }

    /// Whether a connection can be opened from one host to another. What is answered comes back on it.
    pub(crate) fn connects(&self, from: usize, to: usize) -> bool {
        let closed = self.deaf.contains(&to) || self.one_way.contains(&(from, to));
        self.reach(from, to) && (from == to || !closed)
    }

    pub(crate) fn reaches_etcd(&self, host: usize) -> bool {
        self.etcd.up && self.hosts[host].powered && !self.cut.contains(&host)
    }

    pub(crate) fn send(&mut self, from: Node, to: Node, call: u64, message: Message) {
        let (a, b) = (self.place(from), self.place(to));
        let stormy = self.storm && a != b;
        let way = match &message {
            Message::Ask(_) => self.connects(a, b),
            Message::Answer(_) => self.reach(a, b),
        };
        if !way || (stormy && self.chance(10)) {
            self.coverage.dropped += 1;
            return;
        }
        if stormy && self.chance(15) {
            let delay = self.between(1, 9000);
            let message = message.clone();
            self.after(delay, Happening::Deliver { from, to, call, message });
        }
        let late = stormy && self.chance(25);
        let delay = if late { self.between(1, 9000) } else { self.between(1, 15) };
        self.after(delay, Happening::Deliver { from, to, call, message });
    }

    fn deliver(&mut self, from: Node, to: Node, call: u64, message: Message) {
        if !self.reach(self.place(from), self.place(to)) {
            self.coverage.dropped += 1;
            return;
        }
        match (to, message) {
            (Node::Host(host), Message::Ask(request)) if self.hosts[host].up => {
                self.asked(from, host, call, request);
            }
            (Node::Host(host), Message::Answer(answer)) if self.hosts[host].up => {
                self.answered(host, call, Some(answer));
            }
            (Node::Scheduler(planner), Message::Answer(answer)) if self.planners[planner].up => {
                self.planner_answered(planner, call, Some(answer));
            }
            _ => {}
        }
    }

    fn time_out(&mut self, at: Node, call: u64) {
        match at {
            Node::Host(host) => self.answered(host, call, None),
            Node::Scheduler(planner) => self.planner_answered(planner, call, None),
        }
    }

    // etcd and discoverd.

    /// Lets every discoverd hear what is new, each in its own time.
    pub(crate) fn spread(&mut self) {
        for host in 0..self.hosts.len() {
            if self.reaches_etcd(host) && self.hosts[host].heard < self.etcd.facts.len() {
                let delay = if self.storm { self.between(1, 900) } else { self.between(1, 30) };
                self.after(delay, Happening::Hear { host });
            }
        }
    }

    fn hear(&mut self, host: usize) {
        if !self.reaches_etcd(host) || self.hosts[host].heard == self.etcd.facts.len() {
            return;
        }
        let facts = self.etcd.facts[self.hosts[host].heard..].to_vec();
        self.hosts[host].heard = self.etcd.facts.len();
        self.hosts[host].directory.learn(facts, self.etcd.revision);
        let unsettled: Vec<String> =
            self.hosts[host].directory.unsettled().map(str::to_owned).collect();
        for service in unsettled {
            let wanted = self.hosts[host].directory.service(&service).and_then(|s| s.unsettled());
            if let Some((record, at)) = wanted {
                self.etcd.record(&service, record, at);
            }
        }
        self.spread();
        if self.hosts[host].up {
            let life = self.hosts[host].life;
            self.lead(host, life);
        }
        self.follow_hosts(host);
    }

    fn renew(&mut self, host: usize, boot: u32) {
        if !self.hosts[host].powered || self.hosts[host].boot != boot {
            return;
        }
        self.after(1500, Happening::Renew { host, boot });
        if !self.reaches_etcd(host) {
            return;
        }
        self.etcd.renew(host, self.now);
        let wanted = self.wanted_instances(host);
        let keys: BTreeSet<(String, String)> =
            wanted.iter().map(|(service, one)| ((*service).to_owned(), one.id.clone())).collect();
        for (service, id) in self.etcd.of_host(host) {
            if !keys.contains(&(service.clone(), id.clone())) {
                self.etcd.withdraw(&service, &id);
            }
        }
        for (service, instance) in wanted {
            self.etcd.register(host, service, &instance);
        }
        self.spread();
    }

    fn wanted_instances(&self, host: usize) -> Vec<(&'static str, api::discoverd::Instance)> {
        let this = &self.hosts[host];
        let mut wanted = Vec::new();
        // A registration without heartbeat ends after 10 s.
        if this.up || self.now < this.down_since + 10_000 {
            wanted.push((HOSTS, this.instance()));
        }
        for (n, planner) in self.planners.iter().enumerate() {
            if planner.up && planner.host == host {
                wanted.push((SCHEDULERS, planner.instance(n)));
            }
        }
        wanted
    }

    // The end.

    /// For the one who reads a failure.
    fn say_who_leads(&mut self) {
        for n in 0..self.planners.len() {
            let (term, leader) = (self.planner_term(n), self.leading_host(n));
            let planner = &self.planners[n];
            let line = format!(
                "scheduler {n}, up: {}, on host{}, leads under {term:?}, asks host {leader:?}, {:?}",
                planner.up, planner.host, planner.round
            );
            self.say(|| line);
        }
        self.say_plans();
        for host in 0..self.hosts.len() {
            let this = &self.hosts[host];
            let line = format!(
                "host{host}, up: {}, highest {:?}, named {:?}, {:?}",
                this.up,
                this.highest,
                this.named(),
                this.shall_lead()
            );
            self.say(|| line);
        }
    }

    /// What each scheduler would do now.
    fn say_plans(&mut self) {
        let leading = self.hosts.iter().find_map(|host| match &host.leading {
            Leading::Yes(cluster) => Some(cluster.state()),
            _ => None,
        });
        for (n, state) in (0..self.planners.len()).zip(std::iter::repeat(leading)) {
            let Some(state) = state else { continue };
            let now = self.timestamp();
            let Some(snapshot) = self.planners[n].observed.snapshot(&state, uuid::Uuid::nil(), now)
            else {
                self.say(|| format!("scheduler {n} knows too little"));
                continue;
            };
            let plan = scheduler::domain::plan(&snapshot);
            let away: Vec<&String> = snapshot
                .hosts
                .iter()
                .filter(|(_, host)| !host.connected)
                .map(|(id, _)| id)
                .collect();
            let starts: usize = plan.start.values().map(Vec::len).sum();
            let line = format!(
                "scheduler {n} would start {starts}, stop {:?}, let wait {:?}; it does not hear {away:?}",
                plan.stop, plan.waiting
            );
            self.say(|| line);
        }
    }

    /// What is not yet as the formations say.
    fn unsettled(&self) -> Option<String> {
        for formation in &self.formations {
            let (app, wanted) = (formation.app.id.to_string(), formation.processes["web"]);
            let of_app = |job: &&ActiveJob| job.job.metadata[api::host::META_APP] == app;
            let jobs: Vec<&ActiveJob> =
                self.hosts.iter().flat_map(Host::active).filter(of_app).collect();
            let up = jobs.iter().filter(|job| job.status == Status::Running).count();
            if up != wanted as usize || jobs.len() != up {
                let all = jobs.len();
                return Some(format!(
                    "of {} {up} serve and {all} live, {wanted} are wanted",
                    formation.app.name
                ));
            }
        }
        let leaders: Vec<usize> = (0..self.hosts.len())
            .filter(|host| matches!(self.hosts[*host].leading, Leading::Yes(_)))
            .collect();
        let [leader] = leaders[..] else { return Some(format!("hosts {leaders:?} lead")) };
        let Leading::Yes(cluster) = &self.hosts[leader].leading else { return None };
        let state = cluster.state();
        for (n, host) in self.hosts.iter().enumerate() {
            let listed = state.hosts.get(&name(n)).map(|host| host.jobs.keys().collect::<Vec<_>>());
            if listed != Some(host.listing().keys().collect()) {
                return Some(format!("the leader has a wrong list of host{n}'s jobs"));
            }
        }
        None
    }
}
