//! What the router has counted, as Prometheus reads it.

use std::{
    fmt::{self, Error},
    fs, iter,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};
use rustix::process::{Resource, getrlimit};

use crate::{
    acme::expiry,
    backend::{Census, now_ms},
    domain::{
        code::Code,
        pick::{Candidate, Standing},
    },
    live::Live,
    meters::{BOUNDS_MS, Sum},
};

/// What the kernel counts processors' time in, for a second.
const TICKS: f64 = 100.0;
/// Domains whose certificates' ends are told, those that end first.
const CERTIFICATES_MAX: usize = 2000;
/// In the place of a service's name, which has no brackets.
const NO_SERVICE: &str = "(none)";
/// The same, for all that are not told apart.
const OTHERS: &str = "(others)";

/// All that is known at this moment. Blocking: it reads `/proc`.
pub(crate) fn text(live: &Arc<Live>) -> Result<String, Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Seen(live.clone())));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Seen(Arc<Live>);

impl Collector for Seen {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let census = self.0.services.census();
        let tallies = census.services.iter().filter_map(|service| {
            let tally = service.own_tally()?;
            Some((service.name(), tally.sum()))
        });
        let all = [(NO_SERVICE, self.0.meters.unrouted.sum()), (OTHERS, census.others.sum())];
        let sums: Vec<_> = tallies.chain(all).filter(|(_, sum)| !sum.is_empty()).collect();
        let mut families = Families(encoder);
        families.requests(&sums)?;
        families.failures(&sums)?;
        families.clients(&self.0)?;
        families.backends(&census)?;
        families.routes(&self.0)?;
        families.certificates(&self.0)?;
        families.process()
    }
}

/// A value with its labels.
type Labelled<'a, const N: usize> = ([(&'a str, &'a str); N], u64);

struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'_>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    fn counters<'a, const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        values: impl IntoIterator<Item = Labelled<'a, N>>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in values {
            let mut one = family.encode_family(&labels)?;
            one.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'a, const N: usize>(
        &mut self,
        name: &'static str,
        help: &str,
        values: impl IntoIterator<Item = Labelled<'a, N>>,
    ) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter(&mut self, name: &'static str, help: &str, value: u64) -> fmt::Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn requests(&mut self, sums: &[(&str, Sum)]) -> fmt::Result {
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        let by_class = sums.iter().flat_map(|(service, sum)| {
            let ended = iter::zip(classes, sum.ended).filter(|(_, count)| *count > 0);
            ended.map(|(class, count)| ([("service", *service), ("class", class)], count))
        });
        self.counters("strowger_requests", "Requests that have ended.", by_class)?;
        let each = |value: fn(&Sum) -> u64| {
            sums.iter().map(move |(service, sum)| ([("service", *service)], value(sum)))
        };
        let under_way = each(|sum| sum.under_way);
        self.gauges("strowger_requests_under_way", "Requests that have not ended.", under_way)?;
        let help = "Bytes of requests' bodies, and of what came on TCP routes.";
        self.counters("strowger_received_bytes", help, each(|sum| sum.received))?;
        let help = "Bytes of answers' bodies, and of what was sent on TCP routes.";
        self.counters("strowger_sent_bytes", help, each(|sum| sum.sent))?;
        let help = "Time from the head of a request to the head of its answer.";
        let kind = MetricType::Histogram;
        let mut family = self.family("strowger_answer_seconds", help, kind)?;
        for (service, sum) in sums {
            let bounds = BOUNDS_MS.iter().map(|ms| *ms as f64 / 1000.0);
            let bounds = bounds.chain([f64::MAX]);
            let buckets: Vec<_> = iter::zip(bounds, sum.answered).collect();
            let (all, count) = (sum.answered_us as f64 / 1e6, sum.answered.iter().sum());
            let labels = [("service", *service)];
            let mut one = family.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(all, count, &buckets, None)?;
        }
        Ok(())
    }

    fn failures(&mut self, sums: &[(&str, Sum)]) -> fmt::Result {
        let by_code = sums.iter().flat_map(|(service, sum)| {
            let failed = iter::zip(Code::ALL, sum.failed).filter(|(_, count)| *count > 0);
            failed.map(|(code, count)| ([("service", *service), ("code", code.name())], count))
        });
        let help = "Requests that ended otherwise than their app wanted, by Heroku's code.";
        self.counters("strowger_failures", help, by_code)?;
        let some = |value: fn(&Sum) -> u64| {
            let all = sums.iter().map(move |(service, sum)| ([("service", *service)], value(sum)));
            all.filter(|(_, count)| *count > 0)
        };
        let help = "Requests that were sent again, to another backend or on another connection.";
        self.counters("strowger_resent", help, some(|sum| sum.resent))?;
        let help = "Connections to backends that could not be made.";
        self.counters("strowger_unconnected", help, some(|sum| sum.unconnected))
    }

    fn clients(&mut self, live: &Live) -> fmt::Result {
        let meters = &live.meters;
        let doors = [("http", &meters.http), ("https", &meters.https), ("tcp", &meters.tcp)];
        let counts = doors.map(|(protocol, door)| ([("protocol", protocol)], door.count()));
        let accepted = counts.map(|(labels, (accepted, _))| (labels, accepted));
        let help = "Connections of clients that were accepted.";
        self.counters("strowger_client_accepted", help, accepted)?;
        let open = counts.map(|(labels, (_, open))| (labels, open));
        let help = "Connections of clients that are open, upgraded ones included.";
        self.gauges("strowger_client_connections", help, open)?;
        let of_http = counts[0].1.1 + counts[1].1.1;
        let help = "Open connections of HTTP clients on which no request is under way.";
        let idle = of_http.saturating_sub(meters.busy_now());
        self.gauge("strowger_client_idle_connections", help, idle)?;
        let help = "Connections of clients that ended with something that is not HTTP.";
        self.counter("strowger_client_malformed", help, meters.malformed.load(Relaxed))?;
        let help = "Connections of clients that ended before TLS was agreed upon.";
        self.counter("strowger_client_unsecured", help, meters.unsecured.load(Relaxed))
    }

    fn backends(&mut self, census: &Census) -> fmt::Result {
        let sets: Vec<_> =
            census.services.iter().map(|service| (service.name(), service.set())).collect();
        let now = now_ms();
        let by_standing = sets.iter().flat_map(|(service, set)| {
            let standings = || set.backends.iter().map(|backend| backend.standing(now));
            let good = standings().filter(|standing| *standing == Standing::Good).count() as u64;
            let gone = standings().filter(|standing| *standing == Standing::Gone).count() as u64;
            let last = set.backends.len() as u64 - good - gone;
            [("good", good), ("last", last)]
                .map(|(name, count)| ([("service", *service), ("standing", name)], count))
        });
        let help = "Backends that are registered: good ones, and those that are used last.";
        self.gauges("strowger_backends", help, by_standing)?;
        let help = "Backends that were withdrawn while something was under way to them.";
        self.gauge("strowger_backends_leaving", help, census.leaving.len() as u64)?;
        let all = census.listed.iter().chain(&census.leaving).map(|backend| backend.connections());
        let (open, idle) = all.fold((0, 0), |(open, idle), one| (open + one.0, idle + one.1));
        let states = [("busy", open.saturating_sub(idle)), ("idle", idle)];
        let help = "Open connections to backends.";
        let states = states.map(|(state, count)| ([("state", state)], count));
        self.gauges("strowger_backend_connections", help, states)
    }

    fn routes(&mut self, live: &Live) -> fmt::Result {
        let table = live.table();
        let count =
            |kind: &str| table.all.iter().filter(|target| target.route.kind == kind).count() as u64;
        let kinds = ["http", "tcp"].map(|kind| ([("type", kind)], count(kind)));
        self.gauges("strowger_routes", "Routes that are served.", kinds)?;
        let revisions = [("routes", live.revision()), ("services", live.services.revision())];
        let known = revisions.iter().filter_map(|(of, seen)| {
            let revision = (*seen.borrow())?;
            Some(([("of", *of)], revision))
        });
        let help = "Revision of what is served: of the routes in etcd, of discoverd's services.";
        self.gauges("strowger_revision", help, known)
    }

    fn certificates(&mut self, live: &Live) -> fmt::Result {
        let mut ends = expiry::ends(live);
        ends.sort_by_key(|(_, end)| *end);
        ends.truncate(CERTIFICATES_MAX);
        let ends = ends.iter().map(|(domain, end)| {
            ([("domain", &**domain)], u64::try_from(end.as_second()).unwrap_or_default())
        });
        let help = "When the certificate that is served for a domain ends, in Unix time.";
        self.gauges("strowger_certificate_end_timestamp_seconds", help, ends)?;
        let help = "Domains for which no certificate can be had for now, or no new one.";
        self.gauge("strowger_certificates_failing", help, live.acme.failing())
    }

    fn process(&mut self) -> fmt::Result {
        // What cannot be read is left out.
        if let Some(bytes) = resident_bytes() {
            self.gauge("process_resident_memory_bytes", "Memory in use.", bytes)?;
        }
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            // One of them is that folder.
            let open = open.count().saturating_sub(1) as u64;
            self.gauge("process_open_fds", "File descriptors in use.", open)?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            self.gauge("process_max_fds", "File descriptors there may be.", most)?;
        }
        let Some(seconds) = cpu_seconds() else { return Ok(()) };
        let mut family =
            self.family("process_cpu_seconds", "Processor time used.", MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, _, f64>(&seconds, None)
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // After the name, which may hold anything: state, and ten more before the two times.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS)
}
