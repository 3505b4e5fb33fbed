//! The keys by which the parts of Flynn open each other.
//!
//! What a part needs it finds out itself before it serves: one with a wrong key never comes to serve. Whom it opens to it
//! cannot find out, for it looks well to itself. So what is deployed is asked beforehand whether those that serve now
//! could still come in.

use std::collections::BTreeMap;

/// An environment.
pub(crate) type Env = BTreeMap<String, String>;

/// A part of Flynn and who comes in there.
struct Lock {
    part: &'static str,
    /// Its variables with the keys it accepts.
    accepts: &'static [&'static str],
    /// Apps, and the variable each has its key in.
    holders: &'static [(&'static str, &'static str)],
}

/// All of them, as bootstrap makes them.
const LOCKS: [Lock; 4] = [
    Lock {
        part: "controller",
        accepts: &["AUTH_KEY", "GITRECEIVE_KEY"],
        holders: &[("scheduler", "CONTROLLER_KEY"), ("gitreceived", "CONTROLLER_KEY")],
    },
    Lock {
        part: "shelf",
        accepts: &["SHELF_KEY"],
        holders: &[("controller", "SHELF_KEY"), ("gitreceived", "SHELF_KEY")],
    },
    Lock {
        part: "strowger",
        accepts: &["STROWGER_KEY"],
        holders: &[("controller", "STROWGER_KEY")],
    },
    Lock {
        part: "postgres",
        accepts: &["POSTGRES_API_KEY"],
        holders: &[("controller", "POSTGRES_API_KEY")],
    },
];

/// The apps that hold keys of a part of Flynn.
pub(crate) fn holders(part: &str) -> Vec<&'static str> {
    let lock = LOCKS.iter().find(|lock| lock.part == part);
    lock.into_iter().flat_map(|lock| lock.holders).map(|(app, _)| *app).collect()
}

/// Why a part of Flynn must not be deployed with this environment: whom, of those whose environments these are, it would
/// lock out.
pub(crate) fn locked_out(part: &str, env: &Env, others: &BTreeMap<&str, Env>) -> Option<String> {
    let lock = LOCKS.iter().find(|lock| lock.part == part)?;
    let accepted: Vec<&str> =
        lock.accepts.iter().filter_map(|name| env.get(*name)).flat_map(|keys| each(keys)).collect();
    let out = |(app, variable): &&(&str, &str)| {
        // Who has several sends the first.
        let held = others.get(app).and_then(|env| each(env.get(*variable)?).next());
        held.is_some_and(|held| !accepted.contains(&held))
    };
    let out: Vec<_> = lock.holders.iter().filter(out).collect();
    let (_, variable) = out.first()?;
    let names: Vec<_> = out.iter().map(|(app, _)| *app).collect();
    Some(format!(
        "would lock out {}, which came in with {variable} until now: let {} hold the new key and \
         the old one, separated by a comma, and take the old one away when {} been deployed with \
         the new one",
        names.join(" and "),
        lock.accepts[0],
        if names.len() == 1 { "it has" } else { "they have" },
    ))
}

fn each(keys: &str) -> impl Iterator<Item = &str> {
    keys.split(',').map(str::trim).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn a_part_goes_on_to_open_to_the_keys_that_the_others_have() {
        let others = BTreeMap::from([
            ("scheduler", env(&[("CONTROLLER_KEY", "people")])),
            ("gitreceived", env(&[("CONTROLLER_KEY", "pushes"), ("SHELF_KEY", "blobs")])),
            ("controller", env(&[("SHELF_KEY", "blobs,older"), ("STROWGER_KEY", "")])),
        ]);
        let out = |part, pairs: &[_]| locked_out(part, &env(pairs), &others);
        assert_eq!(
            out("controller", &[("AUTH_KEY", "people"), ("GITRECEIVE_KEY", "pushes")]),
            None
        );
        assert_eq!(out("controller", &[("AUTH_KEY", "new, people,pushes")]), None);
        let said = out("controller", &[("AUTH_KEY", "new"), ("GITRECEIVE_KEY", "pushes")]).unwrap();
        assert!(said.contains("lock out scheduler,") && said.contains("let AUTH_KEY"), "{said}");
        let said = out("shelf", &[("SHELF_KEY", "new")]).unwrap();
        assert!(said.contains("lock out controller and gitreceived"), "{said}");
        assert_eq!(out("shelf", &[("SHELF_KEY", "new,blobs")]), None);
        assert_eq!(out("strowger", &[("STROWGER_KEY", "new")]), None, "nobody holds one");
        assert_eq!(out("shop", &[]), None);
        assert_eq!(holders("shelf"), ["controller", "gitreceived"]);
    }

    #[test]
    fn what_bootstrap_starts_opens_to_each_other() {
        // The variables are those that bootstrap gives.
        let manifest = include_str!("../../../../bootstrap/manifest.json");
        for Lock { part, accepts, holders } in &LOCKS {
            let names = accepts.iter().copied().chain(holders.iter().map(|(_, name)| *name));
            for name in names {
                assert!(manifest.contains(&format!("\"{name}\": \"{{{{")), "{part}: {name}");
            }
        }
    }
}
