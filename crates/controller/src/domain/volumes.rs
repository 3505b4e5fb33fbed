//! What volumes mean for a deployment.

use api::controller::{Release, Strategy};

/// How a deployment replaces jobs: where a type of both releases alone writes to its volumes, the old job has to end before
/// its successor can start.
pub(crate) fn strategy(chosen: Strategy, old: Option<&Release>, new: &Release) -> Strategy {
    let exclusive = |old: &Release| {
        let mut types = new.processes.iter();
        types.any(|(kind, process)| {
            let before = old.processes.get(kind);
            process.is_exclusive() && before.is_some_and(|before| before.is_exclusive())
        })
    };
    if old.is_some_and(exclusive) { Strategy::OneDownOneUp } else { chosen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_alone_writes_to_its_volumes_ends_before_its_successor_starts() {
        let release = |volumes: serde_json::Value| -> Release {
            serde_json::from_value(serde_json::json!({
                "id": uuid::Uuid::nil(), "created_at": "2026-01-01T00:00:00Z",
                "processes": { "db": { "volumes": volumes } },
            }))
            .expect("a release")
        };
        let none = release(serde_json::json!([]));
        let alone = release(serde_json::json!([{ "path": "/data" }]));
        let shared = release(serde_json::json!([{ "path": "/data", "shared": true }]));
        let of = |old, new| strategy(Strategy::OneByOne, old, new);
        assert_eq!(of(Some(&alone), &alone), Strategy::OneDownOneUp);
        for (old, new) in [(None, &alone), (Some(&none), &alone), (Some(&shared), &shared)] {
            assert_eq!(of(old, new), Strategy::OneByOne);
        }
    }
}
