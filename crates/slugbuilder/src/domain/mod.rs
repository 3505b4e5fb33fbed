//! What may be unpacked, what is left out, what buildpacks say. Pure.

pub mod entry;
pub mod env;
pub mod ignore;
pub mod order;
pub mod output;
pub mod release;
pub mod source;
pub mod target;
