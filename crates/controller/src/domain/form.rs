//! Bodies in the forms of the original clients, made into ours.
//!
//! A field that says something is obeyed, or refused with a sentence; it is never accepted and left aside. A field of an
//! original client that says nothing (`null`, `false`, 0, `""`, `[]`, `{}`) is left aside.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Number of a port that has none; the next ones have the next numbers. It is also where slugs listen, and what `PORT` says.
const FIRST_PORT: u64 = 8080;

/// What a field cannot be obeyed for.
type Refusal = (&'static str, &'static str);

const OF_PROCESS: [Refusal; 5] = [
    ("mounts", "is not supported: use volumes for what shall outlive a process"),
    ("profiles", "is not supported: a process is given no devices or file systems of its host"),
    ("host_pid_namespace", "is not supported: a process sees only its own processes"),
    ("allowed_devices", "is not supported: a process is given no devices of its host"),
    ("writeable_cgroups", "is not supported: use limits"),
];
const OF_JOB: [Refusal; 5] = [
    ("data", "is not supported for one-off jobs: they have no volumes"),
    ("volumes", "is not supported for one-off jobs: they have no volumes"),
    ("profiles", "is not supported: a job is given no devices or file systems of its host"),
    ("mounts_from", "is not supported: a job has the files of its artifacts alone"),
    ("disable_log", "is not supported: every job has a log"),
];
const OF_APP: [Refusal; 1] = [(
    "protected",
    "is not supported: who has the key may delete any app that is no part of Flynn",
)];
const OF_ARTIFACT: [Refusal; 3] = [
    ("manifest", "is not supported: push the image to a registry, and give its docker:// URI"),
    ("layer_url_template", "is not supported: push the image to a registry, and give its URI"),
    ("hashes", "is not supported: a slug's sha256 belongs into its meta"),
];
const OF_ROUTE: [Refusal; 1] =
    [("disable_keep_alives", "is not supported by the router: leave it out")];
const OF_CHECK: [Refusal; 4] = [
    ("interval", "of a check cannot be chosen: leave it out"),
    ("threshold", "of a check cannot be chosen: leave it out"),
    ("host", "of a check cannot be chosen: leave it out"),
    ("match", "of a check is not supported: check its status"),
];

/// Whether a field says something.
fn says(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
    }
}

fn refuse(fields: &Map<String, Value>, refusals: &[Refusal]) -> Result<()> {
    match refusals.iter().find(|(field, _)| fields.get(*field).is_some_and(says)) {
        Some((field, why)) => Err(Error::invalid(field, *why)),
        None => Ok(()),
    }
}

/// The value of a field that says something, taken out.
fn take(fields: &mut Map<String, Value>, field: &str) -> Option<Value> {
    fields.remove(field).filter(says)
}

/// Appends what one field lists to what another does.
fn append(fields: &mut Map<String, Value>, from: &'static str, to: &'static str) -> Result<()> {
    let Some(items) = take(fields, from) else { return Ok(()) };
    let Value::Array(items) = items else {
        return Err(Error::invalid(from, "must be a list of words"));
    };
    match fields.entry(to).or_insert(Value::Null) {
        Value::Array(there) => there.extend(items),
        there @ Value::Null => *there = items.into(),
        _ => return Err(Error::invalid(to, "must be a list")),
    }
    Ok(())
}

/// The single `artifact` of the first clients.
fn single_artifact(fields: &mut Map<String, Value>) -> Result<()> {
    let Some(single) = take(fields, "artifact") else { return Ok(()) };
    match fields.get("artifacts") {
        Some(Value::Array(all)) if !all.is_empty() && !all.contains(&single) => {
            Err(Error::invalid("artifact", "is none of artifacts: leave it out"))
        }
        Some(Value::Array(all)) if !all.is_empty() => Ok(()),
        _ => {
            fields.insert("artifacts".into(), vec![single].into());
            Ok(())
        }
    }
}

/// `resources: {memory: {request, limit}, …}` as `limits`; what `limits` says wins.
fn resources(fields: &mut Map<String, Value>) -> Result<()> {
    const KNOWN: [&str; 5] = ["memory", "cpu", "max_procs", "max_fd", "temp_disk"];
    let Some(resources) = take(fields, "resources") else { return Ok(()) };
    let Value::Object(resources) = resources else {
        return Err(Error::invalid("resources", "must be an object"));
    };
    let limits = fields.entry("limits").or_insert(Value::Null);
    if limits.is_null() {
        *limits = Map::new().into();
    }
    let Value::Object(limits) = limits else {
        return Err(Error::invalid("limits", "must be an object"));
    };
    for (name, spec) in resources {
        if !KNOWN.contains(&name.as_str()) {
            let message = format!("names {name:?}: choose of {}", KNOWN.join(", "));
            return Err(Error::invalid("resources", message));
        }
        let limit =
            ["limit", "request"].iter().find_map(|field| spec.get(*field).filter(|v| says(v)));
        if let Some(limit) = limit {
            limits.entry(name).or_insert(limit.clone());
        }
    }
    Ok(())
}

/// The body of `POST /releases`.
pub(crate) fn release(fields: &mut Map<String, Value>) -> Result<()> {
    single_artifact(fields)?;
    let Some(Value::Object(processes)) = fields.get_mut("processes") else { return Ok(()) };
    for (_, process) in processes {
        if let Value::Object(process) = process {
            self::process(process)?;
        }
    }
    Ok(())
}

fn process(fields: &mut Map<String, Value>) -> Result<()> {
    refuse(fields, &OF_PROCESS)?;
    append(fields, "cmd", "args")?;
    resources(fields)?;
    data(fields)?;
    ports(fields)?;
    service(fields)
}

/// `data: true` is a volume at `/data`.
fn data(fields: &mut Map<String, Value>) -> Result<()> {
    if take(fields, "data").is_some() {
        fields.insert("volume".into(), serde_json::json!([{ "path": "/data" }]));
        append(fields, "volume", "volumes")?;
    }
    let Some(Value::Array(volumes)) = fields.get("volumes") else { return Ok(()) };
    if volumes.iter().any(|volume| volume.get("delete_on_stop").is_some_and(says)) {
        let message = "asks for delete_on_stop, which is not supported: what shall go with the process needs no volume";
        return Err(Error::invalid("volumes", message));
    }
    Ok(())
}

fn ports(fields: &mut Map<String, Value>) -> Result<()> {
    let Some(ports) = fields.get_mut("ports") else { return Ok(()) };
    if let Value::Object(counts) = ports {
        *ports = counted(counts)?;
    }
    let Value::Array(ports) = ports else { return Ok(()) };
    let mut taken: Vec<u64> =
        ports.iter().filter_map(|port| port.get("port")?.as_u64().filter(|n| *n > 0)).collect();
    for (at, port) in ports.iter_mut().enumerate() {
        let Value::Object(port) = port else { continue };
        if !port.get("port").is_some_and(says) {
            let mut number = FIRST_PORT + at as u64;
            while taken.contains(&number) {
                number += 1;
            }
            taken.push(number);
            port.insert("port".into(), number.into());
        }
        let check = port.get("service").and_then(|service| service.get("check"));
        if let Some(Value::Object(check)) = check {
            refuse(check, &OF_CHECK)?;
            if check.get("type").is_some_and(|kind| kind == "https") {
                return Err(Error::invalid("type", "of a check must be tcp or http"));
            }
        }
    }
    Ok(())
}

/// 2014's `{tcp: n}`.
fn counted(counts: &Map<String, Value>) -> Result<Value> {
    if counts.get("udp").is_some_and(says) {
        return Err(Error::invalid("ports", "asks for udp, which is not supported: use tcp"));
    }
    let tcp = counts.get("tcp").map_or(Some(0), Value::as_u64);
    let tcp = tcp.filter(|tcp| *tcp <= 100);
    let tcp =
        tcp.ok_or_else(|| Error::invalid("ports", "must have a number of tcp ports, at most 100"))?;
    Ok((0..tcp).map(|_| serde_json::json!({ "proto": "tcp" })).collect())
}

/// `service` of a process is the one that its first port without a service offers.
fn service(fields: &mut Map<String, Value>) -> Result<()> {
    let Some(name) = take(fields, "service") else { return Ok(()) };
    let mut none = Vec::new();
    let ports = fields.get_mut("ports").and_then(Value::as_array_mut).unwrap_or(&mut none);
    let offers =
        |port: &Value| port.get("service").and_then(|service| service.get("name")) == Some(&name);
    if ports.iter().any(offers) {
        return Ok(());
    }
    let free = ports.iter_mut().filter_map(Value::as_object_mut);
    let free = free.into_iter().find(|port| !port.get("service").is_some_and(says));
    let free =
        free.ok_or_else(|| Error::invalid("service", "is offered by no port: give it to one"))?;
    free.insert("service".into(), serde_json::json!({ "name": name }));
    Ok(())
}

/// The body of `POST /apps/:app/jobs`.
pub(crate) fn job(fields: &mut Map<String, Value>) -> Result<()> {
    refuse(fields, &OF_JOB)?;
    single_artifact(fields)?;
    append(fields, "cmd", "args")?;
    resources(fields)?;
    let partition = take(fields, "partition");
    if partition.is_some_and(|partition| partition != "user") {
        return Err(Error::invalid(
            "partition",
            "must be user: there is no other for jobs of apps",
        ));
    }
    let Some(Value::Object(meta)) = fields.get("meta") else { return Ok(()) };
    if let Some(key) = meta.keys().find(|key| key.starts_with("flynn-controller.")) {
        let message =
            format!("has the key {key:?}: those of flynn-controller say whose the job is");
        return Err(Error::invalid("meta", message));
    }
    Ok(())
}

/// The body of `POST /apps` and of `POST /apps/:app`.
pub(crate) fn app(fields: &mut Map<String, Value>) -> Result<()> {
    refuse(fields, &OF_APP)
}

/// The body of `POST /artifacts`; without a type it is an image.
pub(crate) fn artifact(fields: &mut Map<String, Value>) -> Result<()> {
    refuse(fields, &OF_ARTIFACT)?;
    let kind = fields.entry("type").or_insert("docker".into());
    if !says(kind) {
        *kind = "docker".into();
    }
    if kind == "flynn" {
        let message = "flynn cannot be run here: push the image to a registry, and use docker";
        return Err(Error::invalid("type", message));
    }
    Ok(())
}

/// The body of `POST /apps/:app/routes`.
pub(crate) fn route(fields: &mut Map<String, Value>) -> Result<()> {
    if let Some(Value::Object(config)) = fields.get_mut("config") {
        self::route(config)?;
    }
    refuse(fields, &OF_ROUTE)?;
    if fields.get("drain_backends") == Some(&Value::Bool(false)) {
        let message = "cannot be switched off: requests under way are always let finish";
        return Err(Error::invalid("drain_backends", message));
    }
    let Some(certificate) = take(fields, "certificate") else { return Ok(()) };
    for (from, to) in [("cert", "tls_cert"), ("key", "tls_key")] {
        if let Some(pem) = certificate.get(from).filter(|pem| says(pem)) {
            fields.entry(to).or_insert(pem.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    type Translate = fn(&mut Map<String, Value>) -> Result<()>;

    fn translated(translate: Translate, body: Value) -> Result<Value> {
        let Value::Object(mut fields) = body else { unreachable!("the tests give objects") };
        translate(&mut fields)?;
        Ok(fields.into())
    }

    fn refused(translate: Translate, body: Value) -> String {
        translated(translate, body).unwrap_err().to_string()
    }

    #[test]
    fn a_release_of_the_first_clients_is_a_release() {
        let body = json!({ "artifact": "a", "processes": { "web": {
            "cmd": ["start", "web"], "ports": { "tcp": 2 }, "data": true,
            "resources": { "memory": { "limit": 7 }, "max_fd": { "request": 9 } },
        } } });
        let process = json!({
            "args": ["start", "web"], "volumes": [{ "path": "/data" }],
            "ports": [{ "proto": "tcp", "port": 8080 }, { "proto": "tcp", "port": 8081 }],
            "limits": { "memory": 7, "max_fd": 9 },
        });
        let release = json!({ "artifacts": ["a"], "processes": { "web": process } });
        assert_eq!(translated(super::release, body).unwrap(), release);
    }

    #[test]
    fn a_port_without_a_number_takes_none_that_another_has() {
        let body =
            json!({ "processes": { "web": { "ports": [{}, { "port": 8080 }, { "port": 0 }] } } });
        let release = translated(super::release, body).unwrap();
        assert_eq!(
            release["processes"]["web"]["ports"],
            json!([{ "port": 8081 }, { "port": 8080 }, { "port": 8082 }])
        );
    }

    #[test]
    fn the_service_of_a_process_is_offered_by_its_first_free_port() {
        let body =
            json!({ "processes": { "web": { "service": "x-web", "ports": [{ "port": 1 }] } } });
        let release = translated(super::release, body).unwrap();
        assert_eq!(
            release["processes"]["web"]["ports"],
            json!([{ "port": 1, "service": { "name": "x-web" } }])
        );
        let body = json!({ "processes": { "web": { "service": "x-web" } } });
        assert!(refused(super::release, body).contains("give it to one"));
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused_with_its_field() {
        for (field, value) in [("mounts", json!([{}])), ("profiles", json!(["kvm"]))] {
            let body = json!({ "processes": { "web": { field: value } } });
            assert!(refused(super::release, body).starts_with(field));
        }
        assert!(refused(job, json!({ "mounts_from": "web" })).starts_with("mounts_from"));
        assert!(
            refused(job, json!({ "meta": { "flynn-controller.app": "x" } })).starts_with("meta")
        );
        assert!(refused(app, json!({ "protected": true })).starts_with("protected"));
        let disabled = json!({ "config": { "disable_keep_alives": true } });
        assert!(refused(route, disabled).starts_with("disable_keep_alives"));
        assert!(refused(artifact, json!({ "type": "flynn", "uri": "x" })).starts_with("type"));
    }

    #[test]
    fn a_field_that_says_nothing_is_left_aside() {
        let body = json!({ "protected": false, "data": null, "profiles": [], "mounts_from": "" });
        assert!(translated(job, body.clone()).is_ok() && translated(app, body).is_ok());
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z_]{0,8}|\\PC{0,4}".prop_map(Value::from),
        ];
        const FIELDS: &str = "artifact|artifacts|processes|web|cmd|args|ports|tcp|port|service|name|check|data|volumes|\
             resources|limits|memory|limit|meta|config|certificate|cert|type|partition";
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(FIELDS, inner, 0..5)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn translating_never_panics(body in any_value()) {
            let Value::Object(fields) = body else { return Ok(()) };
            for translate in [super::release, job, app, artifact, route] {
                let _ = translate(&mut fields.clone());
            }
        }
    }
}
