//! What breaks, what is wanted, and how all of it is mended.

use std::collections::BTreeMap;

use api::controller::ExpandedFormation;
use sampi::{Moments, Silence};

use crate::{
    host::{Call, Leading},
    message::{Fault, Happening},
    world::{TROUBLE, World},
};

/// Apps.
const APPS: u128 = 4;

impl World {
    pub(crate) fn make_formations(&mut self) {
        for app in 0..APPS {
            let count = self.between(1, 8);
            let formation = self.formation(app, count);
            self.formations.push(formation);
        }
    }

    fn formation(&self, app: u128, count: u64) -> ExpandedFormation {
        let id = |n: u128| uuid::Uuid::from_u128(n);
        let at = self.timestamp();
        let limits = serde_json::json!({
            "memory": 1u64 << 30, "cpu": 100, "max_procs": 10, "max_fd": 10, "temp_disk": 1 << 20,
        });
        let formation = serde_json::json!({
            "app": { "id": id(app + 1), "name": format!("app{app}"), "created_at": at, "updated_at": at },
            "release": {
                "id": id(app + 100), "app_id": id(app + 1), "created_at": at,
                "processes": { "web": { "limits": limits } },
            },
            "artifacts": [{ "id": id(7), "type": "docker", "uri": "docker:///flynn/app", "created_at": at }],
            "processes": { "web": count },
            "updated_at": at,
        });
        serde_json::from_value(formation).expect("the formation is one")
    }

    /// Somebody scales an app.
    pub(crate) fn scale(&mut self) {
        if self.now >= TROUBLE {
            return;
        }
        let delay = self.between(2000, 12_000);
        self.after(delay, Happening::Scale);
        let (app, count) = (self.between(0, APPS as u64 - 1), self.between(0, 9));
        let formation = self.formation(app.into(), count);
        self.say(|| format!("app{app} is scaled to {count}"));
        self.formations[app as usize] = formation.clone();
        for n in 0..self.planners.len() {
            if self.planners[n].up && !self.cut.contains(&self.planners[n].host) {
                self.planners[n].observed.changed(formation.clone());
            }
        }
    }

    /// Chooses when what breaks.
    pub(crate) fn plan_faults(&mut self) {
        for _ in 0..self.between(26, 44) {
            let host = self.between(0, self.hosts.len() as u64 - 1) as usize;
            let planner = self.between(0, self.planners.len() as u64 - 1) as usize;
            let fault = match self.between(0, 13) {
                0..=2 => Fault::Daemon(host),
                3 | 4 => Fault::Machine(host),
                5 => Fault::Scheduler(planner),
                6 | 7 => Fault::Partition(host),
                8 => Fault::Etcd,
                9 => Fault::Deaf(host),
                10 | 11 => Fault::HangUp,
                12 => {
                    let away = self.between(1, self.hosts.len() as u64 - 1) as usize;
                    Fault::OneWay(host, (host + away) % self.hosts.len())
                }
                _ => Fault::Storm,
            };
            let at = self.between(3000, TROUBLE - 5000);
            self.after(at, Happening::Break(fault));
        }
    }

    pub(crate) fn break_it(&mut self, fault: Fault) {
        let lasts = match fault {
            Fault::Daemon(host) if self.hosts[host].up => {
                self.daemon_off(host);
                self.break_streams(false, |_, at| at == host);
                self.between(200, 14_000)
            }
            Fault::Machine(host) if self.hosts[host].powered => {
                self.daemon_off(host);
                self.hosts[host].powered = false;
                for n in 0..self.planners.len() {
                    if self.planners[n].host == host {
                        self.planner_off(n);
                    }
                }
                self.break_streams(true, |_, at| at == host);
                self.between(2000, 40_000)
            }
            Fault::Scheduler(n) if self.planners[n].up => {
                self.planner_off(n);
                self.between(500, 8000)
            }
            Fault::Partition(host) if !self.cut.contains(&host) => {
                self.cut.insert(host);
                let places: Vec<usize> = self.planners.iter().map(|planner| planner.host).collect();
                self.break_streams(true, |n, at| (places[n] == host) != (at == host));
                self.between(1000, 40_000)
            }
            Fault::Deaf(host) if !self.deaf.contains(&host) => {
                self.deaf.insert(host);
                let places: Vec<usize> = self.planners.iter().map(|planner| planner.host).collect();
                self.break_streams(true, |n, at| at == host && places[n] != host);
                self.between(5000, 60_000)
            }
            Fault::OneWay(from, to) if !self.one_way.contains(&(from, to)) => {
                self.one_way.insert((from, to));
                let places: Vec<usize> = self.planners.iter().map(|planner| planner.host).collect();
                self.break_streams(true, |n, at| at == to && places[n] == from);
                self.between(5000, 60_000)
            }
            Fault::HangUp => {
                self.hanging_up += 1;
                1
            }
            Fault::Etcd if self.etcd.up => {
                self.etcd.up = false;
                self.between(1000, 15_000)
            }
            Fault::Storm if !self.storm => {
                self.storm = true;
                self.between(3000, 20_000)
            }
            // It is broken already: later, then.
            _ if self.now + 6000 < TROUBLE => {
                let delay = self.between(1000, 5000);
                return self.after(delay, Happening::Break(fault));
            }
            _ => return,
        };
        self.say(|| format!("{fault:?} breaks for {lasts} ms"));
        *self.coverage.faults.entry(kind(fault)).or_default() += 1;
        self.after(lasts, Happening::Mend(fault));
    }

    pub(crate) fn mend(&mut self, fault: Fault) {
        self.say(|| format!("{fault:?} is mended"));
        match fault {
            Fault::Daemon(host) => self.daemon_on(host, false),
            Fault::Machine(host) => self.power_on(host),
            Fault::Scheduler(n)
                if !self.planners[n].up && self.hosts[self.planners[n].host].powered =>
            {
                self.start_planner(n);
            }
            Fault::Scheduler(_) => {}
            Fault::Partition(host) => {
                self.cut.remove(&host);
                for n in 0..self.planners.len() {
                    if self.planners[n].host == host {
                        let life = self.planners[n].life;
                        self.after(100, Happening::Formations { scheduler: n, life });
                    }
                }
                self.spread();
            }
            Fault::Deaf(host) => _ = self.deaf.remove(&host),
            Fault::OneWay(from, to) => _ = self.one_way.remove(&(from, to)),
            Fault::HangUp => {}
            Fault::Etcd => {
                self.etcd.up = true;
                self.etcd.extend_all(self.now);
                self.spread();
            }
            Fault::Storm => self.storm = false,
        }
    }

    /// All is well from now on.
    pub(crate) fn mend_all(&mut self) {
        self.storm = false;
        self.hanging_up = 0;
        self.one_way.clear();
        self.mend(Fault::Etcd);
        for host in 0..self.hosts.len() {
            self.mend(Fault::Partition(host));
            self.mend(Fault::Deaf(host));
            if !self.hosts[host].powered {
                self.power_on(host);
            }
            self.daemon_on(host, false);
        }
        for n in 0..self.planners.len() {
            self.mend(Fault::Scheduler(n));
        }
    }

    /// The worst leader: it forgets every transaction that is under way. What its hosts answer is for nobody.
    pub(crate) fn forget(&mut self, host: usize) {
        let this = &mut self.hosts[host];
        this.commits.clear();
        this.calls.retain(|_, call| matches!(call, Call::List { .. }));
    }

    fn daemon_off(&mut self, host: usize) {
        let now = self.now;
        let this = &mut self.hosts[host];
        if this.up {
            (this.up, this.down_since) = (false, now);
        }
        this.leading = Leading::No;
        this.silence = Silence::default();
        this.moments = Moments::default();
        this.calls = BTreeMap::new();
        this.commits = BTreeMap::new();
    }

    fn daemon_on(&mut self, host: usize, rebooted: bool) {
        if self.hosts[host].up || !self.hosts[host].powered {
            return;
        }
        self.hosts[host].up = true;
        self.hosts[host].life += 1;
        let life = self.hosts[host].life;
        self.restore(host, rebooted);
        self.after(1, Happening::Sweep { host, life });
    }

    /// A machine starts: its discoverd knows nothing, and ends the lease of the boot before.
    pub(crate) fn power_on(&mut self, host: usize) {
        let first = self.hosts[host].boot == 0;
        if self.hosts[host].powered && !first {
            return;
        }
        let this = &mut self.hosts[host];
        (this.powered, this.up) = (true, false);
        this.boot += 1;
        (this.directory, this.heard) = (Default::default(), 0);
        let boot = this.boot;
        if self.reaches_etcd(host) {
            self.etcd.revoke(host);
        }
        self.daemon_on(host, true);
        let delay = self.between(1, 300);
        self.after(delay, Happening::Renew { host, boot });
        self.after(delay, Happening::Hear { host });
        for n in 0..self.planners.len() {
            if self.planners[n].host == host && !first {
                self.start_planner(n);
            }
        }
    }

    fn planner_off(&mut self, n: usize) {
        self.planners[n].up = false;
        let gone: Vec<u64> =
            self.streams.iter().filter(|(_, open)| open.0 == n).map(|(id, _)| *id).collect();
        for stream in gone {
            self.streams.remove(&stream);
        }
    }
}

fn kind(fault: Fault) -> &'static str {
    match fault {
        Fault::Daemon(_) => "daemon",
        Fault::Machine(_) => "machine",
        Fault::Scheduler(_) => "scheduler",
        Fault::Partition(_) => "partition",
        Fault::Deaf(_) => "deaf",
        Fault::OneWay(..) => "one-way",
        Fault::HangUp => "hang-up",
        Fault::Etcd => "etcd",
        Fault::Storm => "storm",
    }
}
