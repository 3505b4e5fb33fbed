//! The release a push makes out of the one before it.

use std::collections::BTreeMap;

use api::{
    controller::{App, NewPush, NewRelease, ProcessType, Release},
    expand::slug_process,
    id::ArtifactId,
};

/// Environment and process types of the release a push makes: what is said of a type is kept, a type no longer declared
/// goes, and variables of the buildpack are defaults.
pub(crate) fn release(
    app: &App,
    base: Option<&Release>,
    push: &NewPush,
    artifacts: Vec<ArtifactId>,
) -> NewRelease {
    let mut env = push.config_vars.clone();
    env.extend(base.map(|base| base.env.clone()).unwrap_or_default());
    let process = |kind: &String| (kind.clone(), process(app, base, kind));
    NewRelease {
        id: None,
        app_id: Some(app.id),
        artifacts,
        env,
        meta: push.meta.clone(),
        processes: push.types.iter().map(process).collect::<BTreeMap<_, _>>(),
    }
}

fn process(app: &App, base: Option<&Release>, kind: &str) -> ProcessType {
    let fresh = slug_process(&app.name, kind);
    match base.and_then(|base| base.processes.get(kind)) {
        // Whatever ran before, this is a slug now.
        Some(before) => ProcessType {
            args: fresh.args,
            entrypoint: None,
            ports: if before.ports.is_empty() { fresh.ports } else { before.ports.clone() },
            ..before.clone()
        },
        None => fresh,
    }
}
