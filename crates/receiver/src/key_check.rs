//! Whether the controller knows a key.

use controller_client::Controller;

use crate::config::KeyCheckArgs;

/// Asks the controller; the whole key must be the same. A key that is bound to apps is not let in: which app is pushed to is
/// not said here.
pub async fn is_known(args: KeyCheckArgs) -> Result<bool, api_client::Error> {
    let controller =
        Controller::new(args.services.controller(), Some(args.services.controller_key.clone()));
    let keys = controller.keys().await?;
    Ok(keys.iter().any(|key| key.key.trim() == args.key.trim() && key.apps.is_empty()))
}
