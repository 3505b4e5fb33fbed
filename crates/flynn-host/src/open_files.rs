//! How many files this process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Lets the process have as many files as it may: every job takes some, and every connection of its own.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(err) = setrlimit(Resource::Nofile, all) {
        warn!(error = %err, "the limit of open files could not be raised");
    }
}
