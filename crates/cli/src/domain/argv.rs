//! The command line before clap sees it: later spellings of commands, and options that mean something else in one
//! command than everywhere.

use std::ffi::OsString;

/// What people who know the later `flynn` type, and our name for it. Longer spellings come before what they begin with.
const SPELLINGS: &[(&[&str], &str)] = &[
    (&["route", "add", "http"], "route-add-http"),
    (&["route", "add", "tcp"], "route-add-tcp"),
    (&["route", "update"], "route-update"),
    (&["route", "remove"], "route-remove"),
    (&["route"], "routes"),
    (&["env", "set"], "env-set"),
    (&["env", "get"], "env-get"),
    (&["env", "unset"], "env-unset"),
    (&["provider", "add"], "provider-add"),
    (&["provider", "remove"], "provider-remove"),
    (&["provider"], "providers"),
    (&["resource", "add"], "resource-add"),
    (&["resource", "remove"], "resource-remove"),
    (&["resource", "restore"], "resource-restore"),
    (&["resource"], "resources"),
    (&["key", "add"], "key-add"),
    (&["key", "remove"], "key-remove"),
    (&["key"], "keys"),
    (&["cluster", "add"], "server-add"),
    (&["cluster", "remove"], "server-remove"),
    (&["cluster", "default"], "server-default"),
    (&["cluster"], "servers"),
    (&["server", "add"], "server-add"),
    (&["server", "remove"], "server-remove"),
    (&["server", "default"], "server-default"),
    (&["server"], "servers"),
    (&["volume", "list"], "volumes"),
    (&["volume", "remove"], "volume-remove"),
    (&["volume", "decommission"], "volume-remove"),
    (&["volume"], "volumes"),
    (&["release", "rollback"], "rollback"),
    (&["release", "add", "docker"], "release-add-docker"),
    (&["release", "show"], "release-show"),
    (&["docker", "push"], "docker-push"),
    (&["release", "delete"], "release-delete"),
    (&["limit", "set"], "limit-set"),
    (&["check", "set"], "check-set"),
    (&["check", "unset"], "check-unset"),
    (&["meta", "set"], "meta-set"),
    (&["meta", "unset"], "meta-unset"),
    (&["release"], "releases"),
    (&["deployment", "list"], "deployments"),
    (&["deployment", "cancel"], "deployment-cancel"),
    (&["deployment", "strategy"], "deployment-strategy"),
    (&["deployment", "timeout"], "deployment-timeout"),
    (&["deployment", "batch-size"], "deployment-batch-size"),
    (&["deployment"], "deployments"),
];

/// What to say to a command line whose command is one of the later `flynn` that does not exist here.
pub(crate) fn way_instead(args: &[OsString]) -> Option<String> {
    let words: Option<Vec<&str>> = words(args).into_iter().map(|at| args[at].to_str()).collect();
    super::later::way_instead(&words?)
}

/// Rewrites a command line; the first argument is the program.
pub(crate) fn rewrite(mut args: Vec<OsString>) -> Vec<OsString> {
    let mut words = words(&args);
    if words.first().is_some_and(|&at| args[at] == "help") {
        words.remove(0);
    }
    for (spelling, name) in SPELLINGS {
        let matches = spelling.len() <= words.len()
            && spelling.iter().zip(&words).all(|(word, &at)| args[at] == **word);
        if matches {
            args[words[0]] = name.into();
            for &at in words[1..spelling.len()].iter().rev() {
                args.remove(at);
            }
            break;
        }
    }
    if let Some(&command) = words.first() {
        own_meanings(&mut args, command);
    }
    args
}

/// Indices of the words the command line begins with; the options that go with any command may stand between them.
fn words(args: &[OsString]) -> Vec<usize> {
    let mut found = Vec::new();
    let mut at = 1;
    while let Some(arg) = args.get(at).and_then(|arg| arg.to_str()) {
        match arg {
            "-a" | "--app" | "-c" | "--cluster" => at += 2,
            _ if arg.starts_with("--app=") || arg.starts_with("--cluster=") => at += 1,
            _ if !arg.starts_with("--") && (arg.starts_with("-a") || arg.starts_with("-c")) => {
                at += 1;
            }
            _ if arg.starts_with('-') => break,
            _ => {
                found.push(at);
                at += 1;
            }
        }
    }
    found
}

/// `-a` is the app everywhere, but in `ps` and `scale`, with no app after it, it is "all"; `-c` is the cluster
/// everywhere but in `route-add-http` and `route-update`, where it is the certificate. A key may be for several apps.
fn own_meanings(args: &mut [OsString], command: usize) {
    let name = args[command].clone();
    for at in command + 1..args.len() {
        if args[at] == "--" {
            break;
        }
        if args[at] == "-a" && (name == "ps" || name == "scale") {
            let next = args.get(at + 1).map(|next| next.to_string_lossy());
            if next.is_none_or(|next| next.starts_with('-') || next.contains('=')) {
                args[at] = "--all".into();
            }
        } else if (args[at] == "-a" || args[at] == "--app") && name == "key-add" {
            args[at] = "--for-app".into();
        } else if args[at] == "-c" && (name == "route-add-http" || name == "route-update") {
            args[at] = "--tls-cert".into();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rewritten(line: &str) -> String {
        let args = line.split_whitespace().map(OsString::from).collect();
        let args = rewrite(args).into_iter().map(|arg| arg.into_string().unwrap());
        args.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn later_spellings_become_ours() {
        for (typed, meant) in [
            ("flynn env set A=1", "flynn env-set A=1"),
            ("flynn -a x env set A=1", "flynn -a x env-set A=1"),
            ("flynn -ax --cluster=y env get A", "flynn -ax --cluster=y env-get A"),
            ("flynn env -a x set A=1", "flynn env-set -a x A=1"),
            ("flynn env -t web", "flynn env -t web"),
            ("flynn route add http a.b", "flynn route-add-http a.b"),
            ("flynn route", "flynn routes"),
            ("flynn resource add postgres", "flynn resource-add postgres"),
            ("flynn resource", "flynn resources"),
            ("flynn provider add x http://y/z", "flynn provider-add x http://y/z"),
            ("flynn route remove http/1", "flynn route-remove http/1"),
            ("flynn cluster add n u k", "flynn server-add n u k"),
            ("flynn cluster", "flynn servers"),
            ("flynn release rollback -y", "flynn rollback -y"),
            ("flynn help env set", "flynn help env-set"),
            ("flynn run env set", "flynn run env set"),
            ("flynn run -- route", "flynn run -- route"),
            ("flynn", "flynn"),
        ] {
            assert_eq!(rewritten(typed), meant);
        }
    }

    #[test]
    fn an_option_means_what_its_command_says() {
        for (typed, meant) in [
            ("flynn ps -a", "flynn ps --all"),
            ("flynn ps -a --json", "flynn ps --all --json"),
            ("flynn ps -a myapp", "flynn ps -a myapp"),
            ("flynn -a myapp ps -a", "flynn -a myapp ps --all"),
            ("flynn scale -a myapp web=2", "flynn scale -a myapp web=2"),
            ("flynn scale -a web=2", "flynn scale --all web=2"),
            ("flynn apps -a", "flynn apps -a"),
            ("flynn key add f --app a -a b", "flynn key-add f --for-app a --for-app b"),
            ("flynn -c x route add http -c f d", "flynn -c x route-add-http --tls-cert f d"),
            ("flynn run -- ps -a", "flynn run -- ps -a"),
        ] {
            assert_eq!(rewritten(typed), meant);
        }
    }

    proptest! {
        #[test]
        fn any_command_line_is_rewritten_without_panic_and_once(
            args in prop::collection::vec("(-a|-c|--|env|set|route|add|http|help|ps|cluster|[a-z=-]{0,6})", 0..8)
        ) {
            let args: Vec<OsString> = args.into_iter().map(OsString::from).collect();
            let once = rewrite(args);
            prop_assert_eq!(rewrite(once.clone()).len(), once.len());
        }
    }
}
