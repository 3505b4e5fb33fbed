//! Commands of the later `flynn` that do not exist here, each with the way that does.

/// The first words of such a command, and what to do instead. Longer ones come before what they begin with.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (
        &["docker", "set-push-url"],
        "images need no registry: `flynn docker-push <image>` sends one to the cluster",
    ),
    (
        &["docker", "login"],
        "images need no registry and no login: `flynn docker-push <image>` sends one to the cluster",
    ),
    (
        &["docker", "logout"],
        "images need no registry and no login: `flynn docker-push <image>` sends one to the cluster",
    ),
    (
        &["cluster", "backup"],
        "there is no backup by command yet: keep a copy of the data folder (/var/lib/flynn) of the hosts with data, made while they are down",
    ),
    (
        &["cluster", "migrate-domain"],
        "a cluster keeps the domain it was made with; add names with `flynn route-add-http`",
    ),
    (
        &["cluster", "log-sink"],
        "logs are not sent elsewhere by the cluster yet (a sink that is made by `POST /sinks` is kept, and gets nothing); `flynn log -f --json` follows them",
    ),
    (
        &["log-sink"],
        "logs are not sent elsewhere by the cluster yet (a sink that is made by `POST /sinks` is kept, and gets nothing); `flynn log -f --json` follows them",
    ),
    (&["volume", "show"], "`flynn volumes --json` shows everything about each"),
    (
        &["remote", "add"],
        "`flynn info` shows the Git URL of an app: `git remote add flynn <Git URL>`",
    ),
    (
        &["release", "update"],
        "a release never changes: `flynn env-set`, `flynn limit-set` and `flynn check-set` make the next one",
    ),
    (&["git-credentials"], "code is pushed over SSH: `flynn key-add` lets your key push"),
    (
        &["login"],
        "servers are added with their key: `flynn server-add`; ask the operator for the line",
    ),
    (&["install"], "a cluster is installed on its first host by `script/up`; see the README"),
    (
        &["update"],
        "this program is updated with the cluster's own version, by whoever installed it",
    ),
    (
        &["export"],
        "an app is its repository, `flynn env` and its databases: push the repository to another cluster, and set the same variables there",
    ),
    (&["import"], "an app is made by `flynn create`, `flynn env-set` and `git push flynn master`"),
    (
        &["pg"],
        "the database is where `flynn env-get DATABASE_URL` says: `flynn run -- psql`, if the app's image has psql, opens it",
    ),
    (
        &["psql"],
        "the database is where `flynn env-get DATABASE_URL` says: `flynn run -- psql`, if the app's image has psql, opens it",
    ),
    (
        &["mysql"],
        "there is no MySQL here by itself; one of your own is a provider: see docs/providers.md and `flynn provider-add`",
    ),
    (
        &["mongodb"],
        "there is no MongoDB here by itself; one of your own is a provider: see docs/providers.md and `flynn provider-add`",
    ),
    (
        &["redis"],
        "there is no Redis here by itself; one of your own is a provider: see docs/providers.md and `flynn provider-add`",
    ),
];

/// What to say to the words a command line begins with, if they are such a command's.
pub(crate) fn way_instead(words: &[&str]) -> Option<String> {
    let fits = |(command, _): &&(&[&str], &str)| words.starts_with(command);
    let (command, way) = ELSEWHERE.iter().find(fits)?;
    Some(format!("there is no command `flynn {}` here: {way}", command.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_of_later_gets_one_sentence_with_the_way_that_works() {
        let said = way_instead(&["pg", "psql", "--", "-c", "x"]).unwrap();
        assert!(said.starts_with("there is no command `flynn pg` here: "), "{said}");
        assert!(way_instead(&["cluster", "backup"]).unwrap().contains("backup"));
        assert_eq!(way_instead(&["cluster", "add"]), None);
        assert_eq!(way_instead(&["run", "pg"]), None);
        assert_eq!(way_instead(&[]), None);
    }

    #[test]
    fn every_sentence_is_one() {
        for (command, way) in ELSEWHERE {
            assert!(!way.contains('\n') && !way.ends_with('.'), "{command:?}: {way}");
        }
    }
}
