//! Which jobs can run beside each other.

use api::host::Job;

/// Whether both would write to one folder that is made for one writer.
pub(crate) fn shares_volume(one: &Job, other: &Job) -> bool {
    one.config.volumes.iter().any(|volume| {
        let same = other.config.volumes.iter().find(|other| other.name == volume.name);
        same.is_some_and(|other| !(volume.shared && other.shared))
    })
}
