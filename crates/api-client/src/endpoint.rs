use std::{fmt, sync::Arc};

use tokio::sync::watch;

/// Where a service is.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// Always there: `http://127.0.0.1:1111`, without a slash at the end.
    Fixed(Arc<[String]>),
    /// Wherever somebody who watches says, best first.
    Watched {
        /// Its name, for errors.
        service: String,
        /// Base URLs; the last answer stands while the watcher is cut off.
        bases: watch::Receiver<Arc<[String]>>,
    },
}

impl Endpoint {
    /// The base URLs to try, best first.
    pub fn bases(&self) -> Arc<[String]> {
        match self {
            Self::Fixed(bases) => bases.clone(),
            Self::Watched { bases, .. } => bases.borrow().clone(),
        }
    }
}

impl From<&str> for Endpoint {
    fn from(base: &str) -> Self {
        Self::Fixed([base.trim_end_matches('/').to_owned()].into())
    }
}

impl From<String> for Endpoint {
    fn from(base: String) -> Self {
        Self::from(base.as_str())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bases) => f.write_str(&bases.join(", ")),
            Self::Watched { service, .. } => f.write_str(service),
        }
    }
}
