//! flynn-host: what it answers, and how the one that leads leads.

use std::{collections::BTreeSet, time::Duration};

use api::{
    cluster::{Committed, Tx},
    discoverd::Term,
    host::Job,
    id::JobId,
};
use rand::RngExt;
use sampi::{HostInfo, LEADING_PATIENCE, Moments, Silence, TAKEOVER_PATIENCE, Takeover};

use crate::{
    host::{Asking, Call, Host, Leading, UnderWay, name, number},
    message::{Answer, Happening, Message, Node, Outcome, Request},
    world::World,
};

/// Between two rounds of a flynn-host, in ms.
const SWEEP: u64 = 3000;
/// Longest time another host may take to answer.
const ANSWER: u64 = 5000;

impl World {
    pub(crate) fn sweep(&mut self, host: usize, life: u32) {
        if !self.hosts[host].up || self.hosts[host].life != life {
            return;
        }
        self.after(SWEEP, Happening::Sweep { host, life });
        self.lead(host, life);
        self.list_all(host);
    }

    /// Begins or ends to lead, as this host's discoverd says.
    pub(crate) fn lead(&mut self, host: usize, life: u32) {
        if !self.hosts[host].up || self.hosts[host].life != life {
            return;
        }
        let shall = self.hosts[host].shall_lead();
        let leads = match &self.hosts[host].leading {
            Leading::No => None,
            Leading::Takeover { takeover, .. } => Some(takeover.term()),
            Leading::Yes(cluster) => Some(cluster.term()),
        };
        match shall {
            // While discoverd is away its last word stands.
            None if self.reaches_etcd(host) => {
                self.hosts[host].leading = Leading::No;
                self.hosts[host].silence = Silence::default();
                self.hosts[host].asking = Asking::default();
            }
            Some(term) if leads != Some(term) => self.take_over(host, term),
            _ => {}
        }
    }

    fn take_over(&mut self, host: usize, term: Term) {
        self.say(|| format!("host{host} is to lead under {term:?}"));
        let takeover = self.fresh_takeover(term);
        let takeover = Box::new(takeover);
        self.hosts[host].leading = Leading::Takeover { takeover, waiting: BTreeSet::new() };
        self.list_all(host);
    }

    fn fresh_takeover(&mut self, term: Term) -> Takeover {
        Takeover::new(term, u64::from(self.rng.random::<u32>()) << 20)
    }

    /// Asks every host for its jobs, if this one leads or is to.
    fn list_all(&mut self, host: usize) {
        let (term, as_of) = match &self.hosts[host].leading {
            Leading::Takeover { waiting, .. } if !waiting.is_empty() => return,
            Leading::Takeover { takeover, .. } => (takeover.term(), 0),
            Leading::Yes(cluster) => (cluster.term(), cluster.moment()),
            Leading::No => return,
        };
        self.note_silence(host);
        let fresh = self.fresh_takeover(term);
        if let Leading::Takeover { takeover, .. } = &mut self.hosts[host].leading {
            **takeover = fresh;
        }
        let named = self.hosts[host].named();
        self.hosts[host].asking =
            Asking { at: self.now, named: named.clone(), answered: BTreeSet::new() };
        for &other in &named {
            let request = Request::List { term };
            let call = self.ask(host, other, request, Call::List { host: other, as_of });
            if let Leading::Takeover { waiting, .. } = &mut self.hosts[host].leading {
                waiting.insert(call);
            }
        }
        let (now, this) = (Duration::from_millis(self.now), &mut self.hosts[host]);
        if let Leading::Yes(cluster) = &mut this.leading {
            if let Some(until) = this.moments.note(now, cluster.moment()) {
                cluster.give_up_orders(until);
            }
            let silent = this.silence.left_out(now, LEADING_PATIENCE);
            let gone = cluster.state().hosts.into_keys();
            let is_gone =
                |id: &String| silent.contains(id) || number(id).is_none_or(|n| !named.contains(&n));
            for id in gone.filter(is_gone) {
                cluster.remove_host(&id);
                self.coverage.hosts_lost += 1;
            }
        }
    }

    /// Notes who did not answer the round of listings that is over.
    fn note_silence(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        let names = |hosts: &BTreeSet<usize>| hosts.iter().map(|n| name(*n)).collect::<Vec<_>>();
        let (named, answered) = (names(&this.asking.named), names(&this.asking.answered));
        let answered = answered.iter().map(String::as_str).collect();
        let at = Duration::from_millis(this.asking.at);
        this.silence.asked(at, named.iter().map(String::as_str), &answered);
    }

    fn ask(&mut self, from: usize, to: usize, request: Request, call: Call) -> u64 {
        let id = self.next_call();
        self.hosts[from].calls.insert(id, call);
        self.send(Node::Host(from), Node::Host(to), id, Message::Ask(request));
        self.after(ANSWER, Happening::Timeout { at: Node::Host(from), call: id });
        id
    }

    /// A flynn-host is asked.
    pub(crate) fn asked(&mut self, from: Node, host: usize, call: u64, request: Request) {
        let answer = match request {
            Request::List { term } => Answer::Listed(self.list(host, term)),
            Request::Start { term, job } => Answer::Done(self.start(host, term, *job)),
            Request::Stop { term, job } => Answer::Done(self.stop(host, term, job)),
            Request::State => {
                let Leading::Yes(cluster) = &self.hosts[host].leading else {
                    return self.answer(host, from, call, Answer::State(None));
                };
                let state = cluster.state();
                let verdict = self.oracle.tell(&state);
                self.check(verdict);
                Answer::State(Some(Box::new(state)))
            }
            Request::Commit { planner, tx } => match self.commit(from, host, call, planner, *tx) {
                Some(outcome) => Answer::Committed(Box::new(outcome)),
                None => return,
            },
        };
        self.answer(host, from, call, answer);
    }

    fn answer(&mut self, host: usize, to: Node, call: u64, answer: Answer) {
        self.send(Node::Host(host), to, call, Message::Answer(answer));
    }

    fn list(
        &mut self,
        host: usize,
        term: Term,
    ) -> Option<(std::collections::BTreeMap<JobId, api::cluster::Placed>, api::cluster::Capacity)>
    {
        self.hosts[host].highest = sampi::obey(self.hosts[host].highest, term)?;
        self.oracle.promise(host, term);
        Some((self.hosts[host].listing(), Host::capacity()))
    }

    fn start(&mut self, host: usize, term: Term, job: Job) -> Result<(), String> {
        let (obeyed, new) = self.hosts[host].judge(term, &job)?;
        self.hosts[host].highest = obeyed;
        if !new {
            return Ok(());
        }
        let verdict = self.oracle.accept(host, term, &job, &self.all_jobs(), crate::host::MEMORY);
        self.check(verdict);
        let (id, now) = (job.id, self.timestamp());
        let replaces = job.metadata.get(scheduler::domain::job::META_REPLACES).cloned();
        self.say(|| format!("host{host} takes job {id} for {replaces:?} under {term:?}"));
        self.coverage.jobs += 1;
        self.hosts[host].take(job, now);
        self.tell_of(host, api::host::EventKind::Create, id);
        self.run_process(host, id);
        Ok(())
    }

    fn stop(&mut self, host: usize, term: Term, job: JobId) -> Result<(), String> {
        let obeyed =
            sampi::obey(self.hosts[host].highest, term).ok_or("the leader's term is over")?;
        self.hosts[host].highest = obeyed;
        self.stop_process(host, job);
        Ok(())
    }

    /// The leader is asked to commit. `None`: the answer comes later.
    fn commit(
        &mut self,
        from: Node,
        host: usize,
        call: u64,
        planner: Term,
        tx: Tx,
    ) -> Option<Outcome> {
        let Leading::Yes(cluster) = &mut self.hosts[host].leading else {
            return Some(Outcome::NotLeading);
        };
        let before = cluster.state();
        let done = cluster.obey(planner).and_then(|()| cluster.commit(tx.clone()));
        let (term, commit) = match done {
            Ok(commit) => (before.term, commit),
            Err(rejected) => {
                for refusal in rejected.hosts.values() {
                    *self.coverage.refused.entry(format!("{refusal:?}")).or_default() += 1;
                }
                return Some(Outcome::Rejected);
            }
        };
        self.coverage.commits += 1;
        let verdict = self.oracle.commit(&tx, &before);
        self.check(verdict);
        let id = self.next_call();
        let committed = Committed { versions: commit.versions, ..Committed::default() };
        let mut under_way =
            UnderWay { asker: from, call, committed, starts: Vec::new(), waiting: 0 };
        for (to, orders) in commit.dispatch {
            let Some(to) = number(&to) else { continue };
            for job in orders.stop {
                under_way.waiting += 1;
                self.ask(
                    host,
                    to,
                    Request::Stop { term, job },
                    Call::Stop { host: to, commit: id },
                );
            }
            for job in orders.start {
                under_way.waiting += 1;
                under_way.starts.push((to, job.id));
                let order = Call::Start { host: to, job: job.id, commit: id };
                self.ask(host, to, Request::Start { term, job: Box::new(job) }, order);
            }
        }
        if under_way.waiting == 0 {
            return Some(Outcome::Done(under_way.committed));
        }
        self.hosts[host].commits.insert(id, under_way);
        if self.hanging_up > 0 {
            self.hanging_up -= 1;
            let delay = self.between(1, 20);
            self.after(delay, Happening::Forget { host });
        }
        None
    }

    /// A question of a leader's is answered, or not in time.
    pub(crate) fn answered(&mut self, host: usize, call: u64, answer: Option<Answer>) {
        let Some(asked) = self.hosts[host].calls.remove(&call) else { return };
        match (asked, answer) {
            (Call::List { host: other, as_of }, answer) => {
                let listing = match answer {
                    Some(Answer::Listed(listing)) => listing,
                    _ => None,
                };
                self.listed(host, call, other, as_of, listing);
            }
            (Call::Start { host: to, job, commit }, answer) => {
                let lost = match answer {
                    Some(Answer::Done(done)) => done.err(),
                    _ => Some("no answer".into()),
                };
                if let Leading::Yes(cluster) = &mut self.hosts[host].leading {
                    match &lost {
                        None => _ = cluster.taken(&name(to), job),
                        Some(_) => _ = cluster.job_ended(&name(to), job),
                    }
                }
                self.ordered(host, to, commit, lost);
            }
            (Call::Stop { host: to, commit }, _) => {
                // It stays in the state until its host says that it ended.
                self.ordered(host, to, commit, None);
            }
        }
    }

    fn ordered(&mut self, host: usize, to: usize, commit: u64, lost: Option<String>) {
        self.coverage.orders_lost += u64::from(lost.is_some());
        let Some(under_way) = self.hosts[host].commits.get_mut(&commit) else { return };
        if let Some(reason) = lost {
            under_way.committed.lost.insert(name(to), reason);
        }
        under_way.waiting -= 1;
        if under_way.waiting > 0 {
            return;
        }
        let Some(done) = self.hosts[host].commits.remove(&commit) else { return };
        for (to, job) in done.starts {
            if !done.committed.lost.contains_key(&name(to)) {
                let verdict = self.oracle.acknowledge(job, to, &self.hosts[to].jobs);
                self.check(verdict);
            }
        }
        let outcome = Answer::Committed(Box::new(Outcome::Done(done.committed)));
        self.answer(host, done.asker, done.call, outcome);
    }

    fn listed(
        &mut self,
        host: usize,
        call: u64,
        other: usize,
        as_of: u64,
        listing: Option<(
            std::collections::BTreeMap<JobId, api::cluster::Placed>,
            api::cluster::Capacity,
        )>,
    ) {
        if listing.is_some() {
            self.hosts[host].asking.answered.insert(other);
        }
        let info = listing.map(|(jobs, capacity)| HostInfo {
            addr: format!("10.0.0.{}:1113", other + 1),
            tags: Default::default(),
            capacity,
            jobs,
            as_of,
        });
        let doubled = match (&mut self.hosts[host].leading, info) {
            (Leading::Takeover { takeover, waiting }, info) => {
                if !waiting.remove(&call) {
                    return;
                }
                let doubled = info.map(|info| takeover.heard(&name(other), info));
                if waiting.is_empty() {
                    self.finish_takeover(host);
                }
                doubled.unwrap_or_default()
            }
            (Leading::Yes(cluster), Some(info)) => cluster.upsert_host(&name(other), info),
            _ => return,
        };
        if let Some(job) = doubled.first() {
            self.check(Err(format!("job {job} is on host{other} and on another one")));
        }
    }

    /// Leads, if every host was heard that answers anybody; else begins again at the next sweep.
    fn finish_takeover(&mut self, host: usize) {
        let Leading::Takeover { takeover, .. } = std::mem::take(&mut self.hosts[host].leading)
        else {
            return;
        };
        self.note_silence(host);
        let now = Duration::from_millis(self.now);
        let silent = self.hosts[host].silence.left_out(now, TAKEOVER_PATIENCE);
        let mut named = self.hosts[host].named();
        named.retain(|n| *n == host || !silent.contains(&name(*n)));
        self.coverage.left_out += silent.len() as u64;
        let names: Vec<String> = named.iter().map(|n| name(*n)).collect();
        match takeover.finish(names.iter().map(String::as_str)) {
            Ok(cluster) => {
                let term = cluster.term();
                self.say(|| format!("host{host} leads under {term:?}"));
                self.coverage.leaders += 1;
                let verdict = self.oracle.leads(&cluster.state(), &named, &self.all_jobs());
                self.hosts[host].leading = Leading::Yes(Box::new(cluster));
                self.hosts[host].moments = Moments::default();
                self.check(verdict);
            }
            Err(takeover) => {
                let waiting = BTreeSet::new();
                self.hosts[host].leading = Leading::Takeover { takeover, waiting };
            }
        }
    }
}
