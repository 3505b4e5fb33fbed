//! Hosts, and apps that come one after another.

use std::{collections::BTreeMap, ops::Div};

use api::{
    cluster::Capacity,
    controller::{App, Artifact, ArtifactType, ExpandedFormation, ProcessType, Release, Strategy},
    discoverd::Term,
    expand::slug_process,
    host::Limits,
};
use jiff::Timestamp;
use sampi::{Cluster, HostInfo};
use uuid::Uuid;

/// How much is simulated.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) hosts: usize,
    /// Jobs in the end.
    pub(super) jobs: usize,
    /// Jobs that are missing when a round begins: what comes in a second at the rate to reach.
    pub(super) round: usize,
}

impl Div<usize> for Size {
    type Output = Self;

    fn div(self, by: usize) -> Self {
        Self { hosts: self.hosts / by, jobs: self.jobs / by, round: self.round / by }
    }
}

/// The instant of everything: nothing waits for time to pass.
pub(super) const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Memory of a web process; a worker has twice as much.
const MEMORY: u64 = 64 << 20;

/// In the end a host has so much of its memory left for each it has given: a cluster is never full to the last byte.
const SLACK: u64 = 25;

pub(super) fn host_name(n: usize) -> String {
    format!("host-{n:04}")
}

/// Hosts that all jobs together just fit on.
pub(super) fn cluster(size: &Size) -> Cluster {
    let mut cluster = Cluster::new(Term::default(), 0);
    // Of three jobs two are web processes.
    let taken = (size.jobs / size.hosts) as u64 * MEMORY * 4 / 3;
    for n in 0..size.hosts {
        let info = HostInfo {
            addr: format!("10.{}.{}.1:1113", n / 256, n % 256),
            tags: BTreeMap::new(),
            capacity: Capacity { memory: taken + taken / SLACK, cpu: 64_000, addresses: 510 },
            jobs: BTreeMap::new(),
            as_of: 0,
        };
        cluster.upsert_host(&host_name(n), info);
    }
    cluster
}

/// Apps of all sizes, of which most are small. Those of different lines have different ids.
#[derive(Debug)]
pub(super) struct Apps {
    line: u64,
    made: u64,
}

/// Web processes of the largest app.
const LARGEST: u32 = 256;

impl Apps {
    pub(super) fn new(line: u64) -> Self {
        Self { line, made: 0 }
    }

    /// New apps with so many processes together, or a few more.
    pub(super) fn more(&mut self, jobs: usize) -> Vec<ExpandedFormation> {
        let mut apps = Vec::new();
        let mut wanted = 0;
        while wanted < jobs {
            let left = u32::try_from(jobs - wanted).unwrap_or(u32::MAX);
            let web = LARGEST >> (self.made % 9);
            let app = self.app(web.min(left.div_ceil(2)));
            wanted += app.processes.values().sum::<u32>() as usize;
            apps.push(app);
        }
        apps
    }

    fn app(&mut self, web: u32) -> ExpandedFormation {
        self.made += 1;
        let name = format!("app-{}-{}", self.line, self.made);
        let id = scattered(self.line, self.made);
        let process = |kind: &str, memory| ProcessType {
            limits: Some(Limits { memory, ..Limits::default() }),
            ..slug_process(&name, kind)
        };
        let processes =
            [("web", process("web", MEMORY)), ("worker", process("worker", 2 * MEMORY))];
        let env = ["DATABASE_URL", "LANG", "NODE_ENV", "PATH", "SECRET_KEY_BASE"];
        let env = env.map(|name| (name.to_owned(), format!("the value of {name}")));
        ExpandedFormation {
            tags: BTreeMap::new(),
            release: Release {
                id: id.into(),
                app_id: Some(id.into()),
                artifacts: Vec::new(),
                env: env.into(),
                meta: BTreeMap::new(),
                processes: processes.map(|(kind, process)| (kind.to_owned(), process)).into(),
                created_at: NOW,
            },
            artifacts: vec![Artifact {
                id: id.into(),
                kind: ArtifactType::Docker,
                uri: "docker:///flynn/slugrunner".into(),
                meta: BTreeMap::new(),
                created_at: NOW,
            }],
            processes: [("web".to_owned(), web), ("worker".to_owned(), web.div_ceil(2))].into(),
            updated_at: NOW,
            app: App {
                id: id.into(),
                name,
                meta: BTreeMap::new(),
                strategy: Strategy::default(),
                release: Some(id.into()),
                deploy_timeout: 120,
                created_at: NOW,
                updated_at: NOW,
            },
        }
    }
}

/// Ids in no order, as random ones are, and the same in every run.
fn scattered(line: u64, n: u64) -> Uuid {
    let bits = ((u128::from(line) << 64) | u128::from(n))
        .wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid()
}
