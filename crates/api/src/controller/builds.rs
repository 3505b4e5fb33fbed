//! Turns to build: a cluster builds a few apps at once, the others wait in line.

use serde::{Deserialize, Serialize};

/// Seconds after which a build that no longer asks has lost its turn.
pub const TURN_TTL_SECONDS: u32 = 60;

/// Body of `PUT /builds/:id`, which asks for a turn and, again and again, keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTurn {
    /// Name or id of the app that is built.
    pub app: String,
}

/// Answer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Place in the line: 1 begins next; 0: the build may begin, or goes on.
    pub place: u32,
}
