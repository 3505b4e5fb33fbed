//! The command line. Each command's own options are beside the command.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{
    check, config, create, delete, deployment, docker, env, events, git_deploy, help, keys, limit,
    log, meta, ps, releases, resources, routes, run, scale, servers, volumes,
};

const AFTER: &str = "\
The app of a command is the one -a names (an app or a git remote), else FLYNN_APP, else the git remote that
`git config flynn.remote` names, else the only git remote that is a Flynn app. Its remote picks the server; without
one it is -c, FLYNN_CLUSTER or FLYNN_SERVER, the default of ~/.flynnrc, its first. FLYNNRC names another file.

`flynn help <command>` explains one, `flynn help commands` lists the usage of all.
Spelled apart they work too: `flynn env set`, `flynn route add http`, `flynn key add`, `flynn cluster add`.";

/// Deploys and runs apps on Flynn.
#[derive(Debug, Parser)]
#[command(name = "flynn", version, disable_help_subcommand = true, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What may be said with any command.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Globals {
    /// The app, or the git remote of one
    #[arg(short = 'a', long, global = true, value_name = "APP", display_order = 900)]
    pub(crate) app: Option<String>,
    /// The server of ~/.flynnrc
    #[arg(short = 'c', long, global = true, value_name = "SERVER", display_order = 901)]
    pub(crate) cluster: Option<String>,
    #[arg(long, env = "FLYNN_APP", hide = true, global = true)]
    pub(crate) env_flynn_app: Option<String>,
    #[arg(long, env = "FLYNN_CLUSTER", hide = true, global = true)]
    pub(crate) env_flynn_cluster: Option<String>,
    #[arg(long, env = "FLYNN_SERVER", hide = true, global = true)]
    pub(crate) env_flynn_server: Option<String>,
    #[arg(long, env = "FLYNNRC", hide = true, global = true)]
    pub(crate) env_flynnrc: Option<PathBuf>,
    #[arg(long, env = "HOME", hide = true, global = true)]
    pub(crate) env_home: Option<PathBuf>,
    #[arg(long, env = "TERM", hide = true, global = true)]
    pub(crate) env_term: Option<String>,
}

/// The commands, in the order `flynn help` lists them.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Remember a server
    ServerAdd(servers::AddArgs),
    /// List the servers
    Servers(Listing),
    /// Forget a server
    ServerRemove(servers::NameArgs),
    /// Show or choose the server used where nothing else says
    ServerDefault(servers::DefaultArgs),
    /// Create an app, and the git remote to push it to
    Create(create::CreateArgs),
    /// Delete an app with its jobs and routes
    Delete(delete::DeleteArgs),
    /// List the apps
    Apps(Listing),
    /// Show where to push an app and where to see it
    Info(Listing),
    /// Deploy a git repository by its URL
    Deploy(git_deploy::DeployArgs),
    /// List the jobs
    Ps(ps::PsArgs),
    /// Stop jobs
    Kill(ps::KillArgs),
    /// Show what the jobs print
    Log(log::LogArgs),
    /// Show or change how many processes of each type run
    Scale(scale::ScaleArgs),
    /// Run a command in a new job
    Run(run::RunArgs),
    /// Show or change how the app is deployed: deploy-branch
    Config(config::ConfigArgs),
    /// List the environment variables
    Env(env::EnvArgs),
    /// Set environment variables, and restart with them
    EnvSet(env::SetArgs),
    /// Show an environment variable
    EnvGet(env::GetArgs),
    /// Remove environment variables, and restart without them
    EnvUnset(env::UnsetArgs),
    /// Show the limits of the process types
    Limit(limit::LimitArgs),
    /// Set limits of a process type, and restart with them
    LimitSet(limit::SetArgs),
    /// Show how the processes are checked
    Check(check::CheckArgs),
    /// Set how the processes of a type are checked, and restart with it
    CheckSet(check::SetArgs),
    /// Send requests to the processes of a type without a check, and restart so
    CheckUnset(check::UnsetArgs),
    /// Replace all processes by new ones of the same release
    Restart(Listing),
    /// List the facts about the app
    Meta(Listing),
    /// Set facts about the app
    MetaSet(meta::SetArgs),
    /// Remove facts about the app
    MetaUnset(meta::UnsetArgs),
    /// List the releases
    Releases(Listing),
    /// Show a release
    ReleaseShow(releases::ShowArgs),
    /// Deploy an image of a registry
    ReleaseAddDocker(docker::AddArgs),
    /// Deploy an image of this machine
    DockerPush(docker::PushArgs),
    /// Delete a release
    ReleaseDelete(releases::ReleaseDeleteArgs),
    /// Go back to an earlier release
    Rollback(releases::RollbackArgs),
    /// List the deployments
    Deployments(Listing),
    /// Take a deployment back
    DeploymentCancel(deployment::CancelArgs),
    /// Show or change how deployments replace jobs
    DeploymentStrategy(deployment::StrategyArgs),
    /// Show or change how long a step of a deployment may take
    DeploymentTimeout(deployment::TimeoutArgs),
    /// Show or change how many jobs are replaced at a time, in batches
    DeploymentBatchSize(deployment::BatchSizeArgs),
    /// List the routes
    Routes(Listing),
    /// Send a domain to the app
    RouteAddHttp(routes::AddHttpArgs),
    /// Send a port of the routers to the app
    RouteAddTcp(routes::AddTcpArgs),
    /// Change a route
    RouteUpdate(routes::UpdateArgs),
    /// Remove a route
    RouteRemove(routes::RemoveArgs),
    /// List who makes resources: databases, and what else was added
    Providers(Listing),
    /// Make a provider of resources known
    ProviderAdd(resources::AddProviderArgs),
    /// Forget a provider of which no resource is left
    ProviderRemove(resources::RemoveProviderArgs),
    /// List the app's resources
    Resources(resources::ResourcesArgs),
    /// Make a resource for the app, and restart with it
    ResourceAdd(resources::AddArgs),
    /// Restart without a resource, and remove it
    ResourceRemove(resources::RemoveArgs),
    /// Bring a removed resource back
    ResourceRestore(resources::RestoreArgs),
    /// Show who uses the disk
    Usage(Listing),
    /// List the app's volumes, with host and size
    Volumes(volumes::VolumesArgs),
    /// Remove a volume that is not in use, with its data
    VolumeRemove(volumes::RemoveArgs),
    /// Delete what is no longer kept of the app: old releases, and what only they need
    Gc(Listing),
    /// List the SSH keys that may push
    Keys(Listing),
    /// Let SSH keys push
    KeyAdd(keys::AddArgs),
    /// Let an SSH key push no longer
    KeyRemove(keys::RemoveArgs),
    /// List what happened
    Events(events::EventsArgs),
    /// Show the version
    Version,
    /// Explain a command
    Help(help::HelpArgs),
}

/// How a command shows what it lists or has made.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct Listing {
    /// As JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::Cli;

    /// Commands that neither list nor make anything: they take something away, or say one word.
    const NOTHING_TO_SHOW: [&str; 7] = [
        "server-remove",
        "delete",
        "kill",
        "release-delete",
        "route-remove",
        "key-remove",
        "version",
    ];

    #[test]
    fn every_command_that_lists_or_makes_something_has_json() {
        let root = Cli::command();
        for command in root.get_subcommands() {
            let name = command.get_name();
            let json = command.get_arguments().any(|arg| arg.get_long() == Some("json"));
            assert_ne!(json, NOTHING_TO_SHOW.contains(&name), "flynn {name} --json");
        }
    }
}
