//! Names of services that apps cannot take: what answers under them is given the keys of the platform.

/// Layer 0 registers these itself; no job offers them, the platform's own neither.
const LAYER0: [&str; 3] = ["discoverd", "flynn-host", "sampi"];
/// The platform's own apps offer these, and every name that goes on with a dash: `postgres-api`, `strowger-api`.
const FAMILIES: [&str; 5] = ["controller", "gitreceive", "gitreceived", "postgres", "strowger"];
/// The platform's own apps offer these.
const PLATFORM: [&str; 1] = ["shelf"];

/// Whether only layer 0 offers a service: no job may, also none of the platform.
pub fn is_layer0_service(name: &str) -> bool {
    LAYER0.contains(&name)
}

/// Whether a service is the platform's: of layer 0, or of an app the platform consists of.
///
/// ```
/// assert!(api::reserved::is_reserved_service("flynn-host"));
/// assert!(api::reserved::is_reserved_service("postgres-api"));
/// assert!(!api::reserved::is_reserved_service("postgresql-web"));
/// ```
pub fn is_reserved_service(name: &str) -> bool {
    let continues = |family: &str| {
        name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    is_layer0_service(name)
        || PLATFORM.contains(&name)
        || FAMILIES.iter().any(|family| continues(family))
}

/// Whether a job or a release may offer a service. `of_platform`: it belongs to an app the platform consists of.
pub fn may_offer(name: &str, of_platform: bool) -> bool {
    !is_reserved_service(name) || (of_platform && !is_layer0_service(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_layer_0_is_for_no_job() {
        for name in ["flynn-host", "sampi", "discoverd"] {
            assert!(!may_offer(name, false) && !may_offer(name, true), "{name}");
        }
    }

    #[test]
    fn a_name_of_the_platform_is_for_its_own_apps() {
        let names = ["controller", "controller-scheduler", "postgres", "postgres-api", "shelf"];
        for name in names.into_iter().chain(["strowger-api", "gitreceive", "gitreceived"]) {
            assert!(!may_offer(name, false) && may_offer(name, true), "{name}");
        }
    }

    #[test]
    fn any_other_name_is_for_any_app() {
        for name in ["node-demo-web", "controllers-web", "postgresql", "shelf-life-web", ""] {
            assert!(may_offer(name, false) && !is_reserved_service(name), "{name}");
        }
    }
}
