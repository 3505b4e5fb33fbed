//! What a key may push to.

use std::sync::Arc;

use api::{controller::Key, id::AppId};

/// The apps a key opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Every app.
    All,
    /// These.
    Apps(Arc<[AppId]>),
}

impl Reach {
    /// What the controller says of a key.
    pub(crate) fn of(key: &Key) -> Self {
        if key.apps.is_empty() { Self::All } else { Self::Apps(key.apps.clone().into()) }
    }

    /// Whether it may push to an app.
    pub(crate) fn opens(&self, app: AppId) -> bool {
        match self {
            Self::All => true,
            Self::Apps(apps) => apps.contains(&app),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_bound_opens_its_apps_and_no_others() {
        let (one, two) = (AppId::random(), AppId::random());
        let key = |apps: &[AppId]| Key {
            fingerprint: String::new(),
            key: String::new(),
            comment: String::new(),
            apps: apps.to_vec(),
            created_at: jiff::Timestamp::UNIX_EPOCH,
        };
        let bound = Reach::of(&key(&[one]));
        assert!(bound.opens(one) && !bound.opens(two));
        assert!(Reach::of(&key(&[])).opens(two));
    }
}
