//! Which jobs can run beside each other.

use api::host::Job;

/// Whether both would write to one folder.
pub(crate) fn shares_volume(one: &Job, other: &Job) -> bool {
    let names = |job: &'_ Job| {
        job.config.volumes.iter().map(|volume| volume.name.clone()).collect::<Vec<_>>()
    };
    let of_other = names(other);
    names(one).iter().any(|name| of_other.contains(name))
}
