//! Pure rules: which paths exist, which part of a blob a request gets.

pub mod path;
pub mod range;

pub use path::BlobPath;
