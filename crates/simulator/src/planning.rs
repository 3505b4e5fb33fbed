//! Schedulers: the production loop, with the simulated network in place of the real one.

use api::{
    cluster::State,
    discoverd::{META_JOB, Term},
    host::{Event, EventKind},
};
use rand::RngExt;
use scheduler::{
    domain::plan,
    execute::{Part, parts},
};

use crate::{
    host::{HOSTS, SCHEDULERS, number},
    message::{Answer, Happening, Message, Node, Outcome, Request},
    planner::{Planner, Round},
    world::World,
};

/// Between two rounds at the latest, in ms.
const SWEEP: u64 = 2000;
/// After a refusal the cluster is looked at again so soon.
const LOOK_AGAIN: u64 = 200;
/// Longest time the leader may take to tell the state, and to commit.
const STATE_ANSWER: u64 = 10_000;
const COMMIT_ANSWER: u64 = 60_000;

impl World {
    pub(crate) fn start_planner(&mut self, n: usize) {
        let (host, life) = (self.planners[n].host, self.planners[n].life + 1);
        let nonce = self.random_id();
        self.planners[n] = Planner { life, ..Planner::new(host, nonce) };
        let delay = self.between(20, 400);
        self.after(delay, Happening::Formations { scheduler: n, life });
        self.after(delay, Happening::Round { scheduler: n, life, sweep: true });
        self.follow_hosts(host);
    }

    fn random_id(&mut self) -> uuid::Uuid {
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }

    /// The controller lists all formations; it is where etcd is.
    pub(crate) fn list_formations(&mut self, n: usize, life: u32) {
        if !self.planners[n].up || self.planners[n].life != life {
            return;
        }
        if self.cut.contains(&self.planners[n].host) {
            return self.after(1000, Happening::Formations { scheduler: n, life });
        }
        if let Err(err) = self.planners[n].observed.listed(self.formations.clone()) {
            self.check(Err(err.to_string()));
        }
    }

    /// Lets the schedulers on a host hear of the hosts its discoverd names, and of no others.
    pub(crate) fn follow_hosts(&mut self, place: usize) {
        let named = self.hosts[place].named();
        for n in 0..self.planners.len() {
            if self.planners[n].host != place || !self.planners[n].up {
                continue;
            }
            let gone: Vec<usize> = self.planners[n]
                .streams
                .keys()
                .filter(|host| !named.contains(host))
                .copied()
                .collect();
            for host in gone {
                if let Some(stream) = self.planners[n].streams.remove(&host) {
                    self.streams.remove(&stream);
                    self.planners[n].observed.lost(&format!("host{host}"));
                }
            }
            let life = self.planners[n].life;
            let new: Vec<usize> = named
                .iter()
                .filter(|host| !self.planners[n].streams.contains_key(host))
                .copied()
                .collect();
            for host in new {
                // Named now: a number that no stream has says that it is being opened.
                self.planners[n].streams.insert(host, 0);
                self.after(1, Happening::Subscribe { scheduler: n, life, host });
            }
            self.nudge(n);
        }
    }

    pub(crate) fn subscribe(&mut self, n: usize, life: u32, host: usize) {
        let planner = &self.planners[n];
        if !planner.up || planner.life != life || planner.streams.get(&host) != Some(&0) {
            return;
        }
        if !self.connects(planner.host, host) || !self.hosts[host].up {
            let pause = self.between(100, 1000);
            return self.after(pause, Happening::Subscribe { scheduler: n, life, host });
        }
        let stream = self.next_call();
        self.streams.insert(stream, (n, host, self.now));
        self.planners[n].streams.insert(host, stream);
        self.planners[n].observed.opened(&format!("host{host}"));
        let known: Vec<_> = self.hosts[host].jobs.values().cloned().collect();
        for job in known {
            self.tell(stream, Event { event: EventKind::Current, job: Some(job) });
        }
        self.tell(stream, Event { event: EventKind::Synced, job: None });
    }

    pub(crate) fn told(&mut self, n: usize, host: usize, stream: u64, event: Event) {
        if self.planners[n].streams.get(&host) != Some(&stream)
            || !self.streams.contains_key(&stream)
        {
            return;
        }
        let now = self.timestamp();
        self.planners[n].observed.told(&format!("host{host}"), event, now);
        self.nudge(n);
    }

    pub(crate) fn lost(&mut self, n: usize, host: usize, stream: u64) {
        if self.planners[n].streams.get(&host) != Some(&stream) {
            return;
        }
        self.planners[n].observed.lost(&format!("host{host}"));
        self.planners[n].streams.insert(host, 0);
        let (life, pause) = (self.planners[n].life, self.between(100, 1000));
        self.after(pause, Happening::Subscribe { scheduler: n, life, host });
        self.nudge(n);
    }

    fn nudge(&mut self, n: usize) {
        let life = self.planners[n].life;
        if !std::mem::replace(&mut self.planners[n].nudged, true) {
            self.after(1, Happening::Round { scheduler: n, life, sweep: false });
        }
    }

    /// The term under which a scheduler leads, if its host's discoverd says so.
    pub(crate) fn planner_term(&self, n: usize) -> Option<Term> {
        let planner = &self.planners[n];
        let leader = self.hosts[planner.host].directory.leader(SCHEDULERS)?;
        (leader.instance.meta.get(META_JOB) == Some(&planner.job(n))).then_some(leader.term)
    }

    pub(crate) fn leading_host(&self, n: usize) -> Option<usize> {
        let leader = self.hosts[self.planners[n].host].directory.leader(HOSTS)?;
        number(leader.instance.meta.get("id")?)
    }

    pub(crate) fn round(&mut self, n: usize, life: u32, sweep: bool) {
        if !self.planners[n].up || self.planners[n].life != life {
            return;
        }
        if sweep {
            self.after(SWEEP, Happening::Round { scheduler: n, life, sweep });
        }
        if !matches!(self.planners[n].round, Round::Idle) {
            self.planners[n].nudged = true;
            return;
        }
        self.planners[n].nudged = false;
        let (Some(term), Some(leader)) = (self.planner_term(n), self.leading_host(n)) else {
            return;
        };
        self.planners[n].observed.begin_look();
        let call = self.call(n, leader, Request::State, STATE_ANSWER);
        self.planners[n].round = Round::Asked { call, term };
    }

    fn call(&mut self, n: usize, host: usize, request: Request, limit: u64) -> u64 {
        let call = self.next_call();
        self.send(Node::Scheduler(n), Node::Host(host), call, Message::Ask(request));
        self.after(limit, Happening::Timeout { at: Node::Scheduler(n), call });
        call
    }

    pub(crate) fn planner_answered(&mut self, n: usize, call: u64, answer: Option<Answer>) {
        match (&mut self.planners[n].round, answer) {
            (Round::Asked { call: asked, term }, answer) if *asked == call => {
                let term = *term;
                match answer {
                    Some(Answer::State(Some(state))) => self.plan_and_commit(n, term, &state),
                    _ => self.end_round(n, true, None),
                }
            }
            (Round::Committing { parts, .. }, answer) => {
                let Some((part, again)) = parts.remove(&call) else { return };
                self.part_answered(n, part, again, answer);
            }
            _ => {}
        }
    }

    fn plan_and_commit(&mut self, n: usize, term: Term, state: &State) {
        let seed = self.random_id();
        let now = self.timestamp();
        let Some(snapshot) = self.planners[n].observed.snapshot(state, seed, now) else {
            return self.end_round(n, false, None);
        };
        let plan = plan(&snapshot);
        self.planners[n].observed.waiting(plan.waiting.clone());
        let wake_at = plan.wake_at;
        self.planners[n].round =
            Round::Committing { term, parts: Default::default(), again: false, wake_at };
        for part in parts(plan) {
            self.planners[n].observed.stopping(&part.stop, now);
            self.commit_part(n, part, false);
        }
        self.conclude(n);
    }

    fn commit_part(&mut self, n: usize, part: Part, second: bool) {
        let Round::Committing { term, .. } = &self.planners[n].round else { return };
        let request = Request::Commit { planner: *term, tx: Box::new(part.tx.clone()) };
        let Some(leader) = self.leading_host(n) else {
            self.planners[n].observed.not_stopping(&part.stop);
            return;
        };
        let call = self.call(n, leader, request, COMMIT_ANSWER);
        if let Round::Committing { parts, .. } = &mut self.planners[n].round {
            parts.insert(call, (part, second));
        }
    }

    fn part_answered(&mut self, n: usize, part: Part, second: bool, answer: Option<Answer>) {
        let now = self.timestamp();
        let outcome = match answer {
            Some(Answer::Committed(outcome)) => Some(*outcome),
            _ => None,
        };
        let look_again = match outcome {
            Some(Outcome::Done(committed)) => {
                part.committed(&self.planners[n].observed, &committed, now) || second
            }
            Some(Outcome::Rejected) => {
                if second {
                    self.planners[n].observed.not_stopping(&part.stop);
                } else if let Some(stops) = part.refused(&self.planners[n].observed, now) {
                    self.commit_part(n, stops, true);
                }
                true
            }
            Some(Outcome::NotLeading) | None => {
                part.unanswered(&self.planners[n].observed, now);
                true
            }
        };
        if let Round::Committing { again, .. } = &mut self.planners[n].round {
            *again |= look_again;
        }
        self.conclude(n);
    }

    fn conclude(&mut self, n: usize) {
        if let Round::Committing { parts, again, wake_at, .. } = &self.planners[n].round
            && parts.is_empty()
        {
            let (again, wake_at) = (*again, *wake_at);
            self.end_round(n, again, wake_at);
        }
    }

    fn end_round(&mut self, n: usize, again: bool, wake_at: Option<jiff::Timestamp>) {
        self.planners[n].round = Round::Idle;
        let life = self.planners[n].life;
        let round = || Happening::Round { scheduler: n, life, sweep: false };
        if again {
            self.after(LOOK_AGAIN, round());
        }
        if let Some(at) = wake_at {
            let left = at.duration_since(self.timestamp()).as_millis().max(0);
            self.after(u64::try_from(left).unwrap_or(SWEEP), round());
        }
        if std::mem::take(&mut self.planners[n].nudged) {
            self.nudge(n);
        }
    }
}
