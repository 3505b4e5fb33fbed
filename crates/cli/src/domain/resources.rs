//! What resources give to an app's environment, and what goes with them.

use std::{cmp::Reverse, collections::BTreeMap};

use api::controller::Resource;

use super::env::Change;

/// Variables by name.
type Env = BTreeMap<String, String>;

/// The provider that every cluster has.
const POSTGRES: &str = "postgres";
/// What it gives.
const POSTGRES_NAMES: [&str; 7] =
    [POSTGRES_MARK, "DATABASE_URL", "PGHOST", "PGPORT", "PGUSER", "PGPASSWORD", "PGDATABASE"];
/// The variable that nobody else gives.
const POSTGRES_MARK: &str = "FLYNN_POSTGRES";
/// The variable that no two databases have in common.
const POSTGRES_URL: &str = "DATABASE_URL";

/// A resource would replace what the app has of its own.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the app has {} of its own, and the resource would replace that: `flynn env-unset {}` takes it away first \
     (`flynn env` shows the values), `--replace` has it replaced",
    .0.join(", "), .0.join(" ")
)]
pub(crate) struct Replaces(Vec<String>);

/// Variables a provider will give, as far as that is known before it has made anything.
pub(crate) fn expected(provider: &str, of_provider: &[&Resource]) -> Vec<String> {
    let own = if provider == POSTGRES { &POSTGRES_NAMES[..] } else { &[] };
    let seen = of_provider.iter().flat_map(|resource| resource.env.keys().cloned());
    own.iter().map(|&name| name.to_owned()).chain(seen).collect()
}

/// Refuses names under which the environment has something that none of the resources gave.
pub(crate) fn check_own(
    env: &Env,
    names: &[String],
    resources: &[Resource],
) -> Result<(), Replaces> {
    let given = |name: &String, value: &String| {
        resources.iter().any(|resource| resource.env.get(name) == Some(value))
    };
    let is_own = |name: &&String| env.get(*name).is_some_and(|value| !given(name, value));
    let mut own: Vec<String> = names.iter().filter(is_own).cloned().collect();
    own.sort();
    own.dedup();
    if own.is_empty() { Ok(()) } else { Err(Replaces(own)) }
}

/// Sets all that a resource gives.
pub(crate) fn with(resource: &Resource) -> Change {
    resource.env.iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect()
}

/// The newest resource whose variables another one takes.
pub(crate) fn replaced<'a>(
    env: &Env,
    by: &Resource,
    resources: &'a [Resource],
) -> Option<&'a Resource> {
    let taken = |other: &&Resource| {
        let mut its = other.env.iter().filter(|(name, value)| env.get(*name) == Some(value));
        its.any(|(name, value)| by.env.get(name).is_some_and(|new| new != value))
    };
    resources.iter().filter(|other| other.id != by.id).filter(taken).max_by_key(|r| r.created_at)
}

/// Takes a resource's variables away where they still have its values. Those that another resource of the app gives, too,
/// get its value: of the same provider first, the newest first.
pub(crate) fn without(env: &Env, removed: &Resource, resources: &[Resource]) -> Change {
    let mut others: Vec<&Resource> =
        resources.iter().filter(|other| other.id != removed.id).collect();
    others.sort_by_key(|other| (other.provider != removed.provider, Reverse(other.created_at)));
    let its = removed.env.iter().filter(|(name, value)| env.get(*name) == Some(value));
    its.map(|(name, _)| {
        (name.clone(), others.iter().find_map(|other| other.env.get(name).cloned()))
    })
    .collect()
}

/// The removed resources whose variables an older environment would bring back.
pub(crate) fn brought_back<'a>(old: &Env, now: &Env, removed: &'a [Resource]) -> Vec<&'a Resource> {
    let all_in = |env: &Env, resource: &Resource| {
        resource.env.iter().all(|(name, value)| env.get(name) == Some(value))
    };
    let back = |resource: &&Resource| {
        !resource.env.is_empty() && all_in(old, resource) && !all_in(now, resource)
    };
    removed.iter().filter(back).collect()
}

/// Whether an older environment would bring back a database that the controller has forgotten.
pub(crate) fn brings_unknown_database(old: &Env, now: &Env, known: &[Resource]) -> bool {
    let url = old.get(POSTGRES_URL).filter(|_| old.contains_key(POSTGRES_MARK));
    url.is_some_and(|url| {
        now.get(POSTGRES_URL) != Some(url)
            && !known.iter().any(|resource| resource.env.get(POSTGRES_URL) == Some(url))
    })
}

#[cfg(test)]
mod tests {
    use api::id::{ProviderId, ResourceId};
    use jiff::Timestamp;

    use super::*;

    fn map(list: &[(&str, &str)]) -> Env {
        list.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn resource(provider: ProviderId, second: i64, env: &[(&str, &str)]) -> Resource {
        Resource {
            id: ResourceId::random(),
            provider,
            external_id: "x".into(),
            env: map(env),
            apps: vec![],
            created_at: Timestamp::from_second(second).unwrap(),
            deleted_at: None,
            purge_at: None,
            purging: false,
        }
    }

    fn database(provider: ProviderId, second: i64, url: &str) -> Resource {
        let env = [("DATABASE_URL", url), ("PGHOST", "leader"), ("FLYNN_POSTGRES", "postgres")];
        resource(provider, second, &env)
    }

    fn applied(env: &Env, change: Change) -> Env {
        let mut env = env.clone();
        for (name, value) in change {
            match value {
                Some(value) => drop(env.insert(name, value)),
                None => drop(env.remove(&name)),
            }
        }
        env
    }

    #[test]
    fn removing_a_resource_leaves_variables_that_somebody_changed() {
        let resource = resource(ProviderId::random(), 1, &[("DATABASE_URL", "a"), ("PGHOST", "b")]);
        let change = without(&map(&[("DATABASE_URL", "a"), ("PGHOST", "mine")]), &resource, &[]);
        assert_eq!(change, [("DATABASE_URL".to_owned(), None)].into());
    }

    #[test]
    fn removing_one_of_two_databases_leaves_the_app_with_the_other() {
        let provider = ProviderId::random();
        let (old, new) = (database(provider, 1, "old"), database(provider, 2, "new"));
        let both = [new.clone(), old.clone()];
        let now = applied(&applied(&map(&[("A", "1")]), with(&old)), with(&new));
        let with_old = applied(&map(&[("A", "1")]), with(&old));
        assert_eq!(applied(&now, without(&now, &new, &both)), with_old);
        assert_eq!(applied(&now, without(&now, &old, &both)), now);
        let none = without(&with_old, &old, std::slice::from_ref(&old));
        assert_eq!(applied(&with_old, none), map(&[("A", "1")]));
        assert_eq!(replaced(&with_old, &new, &both).map(|r| r.id), Some(old.id));
        assert_eq!(replaced(&now, &new, &both).map(|r| r.id), None);
    }

    #[test]
    fn what_another_provider_gives_stays() {
        let other = resource(ProviderId::random(), 1, &[("PGHOST", "theirs")]);
        let removed = database(ProviderId::random(), 2, "x");
        let env = map(&[("DATABASE_URL", "x"), ("PGHOST", "theirs")]);
        let change = without(&env, &removed, &[other.clone(), removed.clone()]);
        assert_eq!(applied(&env, change), map(&[("PGHOST", "theirs")]));
    }

    #[test]
    fn only_what_no_resource_gave_is_the_app_s_own() {
        let known = database(ProviderId::random(), 1, "given");
        let names = expected("postgres", &[&known]);
        let all = [known];
        let check = |env: &[(&str, &str)]| check_own(&map(env), &names, &all);
        assert_eq!(check(&[("DATABASE_URL", "given"), ("A", "1")]), Ok(()));
        let err = check(&[("DATABASE_URL", "mine"), ("PGHOST", "me")]).unwrap_err();
        assert_eq!(err, Replaces(vec!["DATABASE_URL".into(), "PGHOST".into()]));
        assert!(err.to_string().contains("`flynn env-unset DATABASE_URL PGHOST`"), "{err}");
        assert!(expected("boxes", &[]).is_empty());
    }

    #[test]
    fn an_old_environment_brings_back_only_the_database_it_had() {
        let provider = ProviderId::random();
        let removed = [database(provider, 1, "one"), database(provider, 2, "two")];
        let (old, none) = (removed[0].env.clone(), Env::new());
        let ids = |old: &Env, now: &Env| -> Vec<ResourceId> {
            brought_back(old, now, &removed).iter().map(|resource| resource.id).collect()
        };
        assert_eq!(ids(&old, &none), [removed[0].id]);
        assert_eq!(ids(&old, &old), []);
        assert_eq!(ids(&none, &old), []);
        assert!(!brings_unknown_database(&old, &none, &removed));
        assert!(brings_unknown_database(&old, &none, &removed[1..]));
        assert!(!brings_unknown_database(&old, &old, &[]));
        assert!(!brings_unknown_database(&map(&[("DATABASE_URL", "x")]), &none, &[]));
    }
}
