//! The loop over the steps.

use std::io::Write;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::{
    cluster::Cluster,
    domain::{
        interpolate::{Facts, interpolate},
        manifest::{Action, Step},
    },
    error::StepError,
    state::State,
    steps,
};

/// A line of `--json`. Results are left out: they hold secrets.
#[derive(Debug, Serialize)]
struct StepInfo<'a> {
    id: &'a str,
    action: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    ts: Timestamp,
}

/// Says what happens, to a person or to a program.
pub struct Reporter<W> {
    /// Where to.
    pub out: W,
    /// One JSON object a line.
    pub json: bool,
}

impl<W: Write> Reporter<W> {
    fn say(&mut self, step: &Step, state: &str, error: Option<String>) {
        let ts = Timestamp::now();
        let (id, action) = (step.id.as_str(), step.action.as_str());
        // Whoever reads has gone away: that is no reason to stop half-way.
        let _ = if self.json {
            let info = StepInfo { id, action, state, error, ts };
            writeln!(self.out, "{}", serde_json::to_string(&info).unwrap_or_default())
        } else {
            let error = error.map(|error| format!(": {error}")).unwrap_or_default();
            writeln!(self.out, "{ts:.3} {action} {id} {state}{error}")
        };
    }

    fn log(&mut self, text: &str) {
        if !self.json {
            let _ = writeln!(self.out, "{text}");
        }
    }
}

/// Carries out every step that is not done. The first error ends it; run again, it goes on there.
pub async fn run<W: Write>(
    manifest: &[Step],
    cluster: &Cluster,
    state: &mut State,
    mut facts: Facts,
    reporter: &mut Reporter<W>,
) -> Result<(), StepError> {
    for step in manifest {
        let known = state.step(&step.id);
        if known.done && step.action != "log" {
            reporter.say(step, "was done before", None);
            continue;
        }
        reporter.say(step, "start", None);
        match one(step, cluster, state, &facts).await {
            Ok(result) => {
                if let (true, Value::String(text)) = (step.action == "log", &result) {
                    reporter.log(text);
                } else {
                    facts.steps.insert(step.id.clone(), result.clone());
                    state.finish(&step.id, result)?;
                }
                reporter.say(step, "done", None);
            }
            Err(err) => {
                reporter.say(step, "error", Some(chain(&err)));
                return Err(err);
            }
        }
    }
    Ok(())
}

async fn one(
    step: &Step,
    cluster: &Cluster,
    state: &mut State,
    facts: &Facts,
) -> Result<Value, StepError> {
    let body = interpolate(&step.body, facts).map_err(StepError::Template)?;
    let action: Action = serde_json::from_value(body).map_err(StepError::Fields)?;
    let controller_key = facts.steps.values().find_map(|result| {
        let is_key = result.get("controller_key").and_then(Value::as_bool)?;
        is_key.then(|| result.get("data")?.as_str().map(str::to_owned)).flatten()
    });
    steps::run(action, steps::Context { cluster, state, id: &step.id, controller_key }).await
}

/// An error with all its causes.
pub fn chain(err: &(dyn std::error::Error + 'static)) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(err) = cause {
        text = format!("{text}: {err}");
        cause = err.source();
    }
    text
}
