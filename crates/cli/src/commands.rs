//! One file a command, or a few that belong together.

pub(crate) mod apps;
pub(crate) mod change;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod deploy;
pub(crate) mod deployment;
pub(crate) mod docker;
pub(crate) mod env;
pub(crate) mod events;
pub(crate) mod follow;
pub(crate) mod git_deploy;
pub(crate) mod help;
pub(crate) mod keys;
pub(crate) mod limit;
pub(crate) mod log;
pub(crate) mod meta;
pub(crate) mod ps;
pub(crate) mod releases;
pub(crate) mod resources;
pub(crate) mod routes;
pub(crate) mod run;
pub(crate) mod scale;
pub(crate) mod servers;
pub(crate) mod usage;
pub(crate) mod volumes;

use std::process::ExitCode;

use crate::{args::Command, output, session::Session};

/// The command line makes no sense: status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// Carries a command out.
#[expect(clippy::too_many_lines, reason = "a table: a line a command")]
pub(crate) async fn run(command: Command, session: &Session) -> anyhow::Result<ExitCode> {
    match command {
        Command::ServerAdd(args) => servers::add(session, &args)?,
        Command::Servers(args) => servers::list(session, args)?,
        Command::ServerRemove(args) => servers::remove(session, &args)?,
        Command::ServerDefault(args) => servers::default(session, &args)?,
        Command::Create(args) => create::create(session, &args).await?,
        Command::Delete(args) => delete::delete(session, &args).await?,
        Command::Apps(args) => apps::list(session, args).await?,
        Command::Info(args) => apps::info(session, args).await?,
        Command::Ps(args) => ps::list(session, &args).await?,
        Command::Kill(args) => ps::kill(session, &args).await?,
        Command::Log(args) => log::log(session, &args).await?,
        Command::Scale(args) => scale::scale(session, &args).await?,
        Command::Deploy(args) => return git_deploy::deploy(session, &args).await,
        Command::Run(args) => return run::run(session, &args).await,
        Command::Config(args) => config::config(session, &args).await?,
        Command::Env(args) => env::list(session, &args).await?,
        Command::EnvSet(args) => env::set(session, &args).await?,
        Command::EnvGet(args) => env::get(session, &args).await?,
        Command::EnvUnset(args) => env::unset(session, &args).await?,
        Command::DockerPush(args) => docker::push(session, &args).await?,
        Command::ReleaseAddDocker(args) => docker::add_docker(session, &args).await?,
        Command::Limit(args) => limit::list(session, &args).await?,
        Command::LimitSet(args) => limit::set(session, &args).await?,
        Command::Check(args) => check::list(session, &args).await?,
        Command::CheckSet(args) => check::set(session, &args).await?,
        Command::CheckUnset(args) => check::unset(session, &args).await?,
        Command::Restart(args) => change::restart(session, args).await?,
        Command::Meta(args) => meta::list(session, args).await?,
        Command::MetaSet(args) => meta::set(session, &args).await?,
        Command::MetaUnset(args) => meta::unset(session, &args).await?,
        Command::Events(args) => events::events(session, &args).await?,
        Command::ReleaseShow(args) => releases::show(session, &args).await?,
        Command::ReleaseDelete(args) => releases::delete(session, &args).await?,
        Command::RouteAddTcp(args) => routes::add_tcp(session, &args).await?,
        Command::RouteUpdate(args) => routes::update(session, &args).await?,
        Command::Releases(args) => releases::list(session, args).await?,
        Command::Rollback(args) => releases::rollback(session, &args).await?,
        Command::Deployments(args) => releases::deployments(session, args).await?,
        Command::DeploymentCancel(args) => deployment::cancel(session, &args).await?,
        Command::DeploymentStrategy(args) => deployment::strategy(session, &args).await?,
        Command::DeploymentTimeout(args) => deployment::timeout(session, &args).await?,
        Command::DeploymentBatchSize(args) => deployment::batch_size(session, &args).await?,
        Command::Routes(args) => routes::list(session, args).await?,
        Command::RouteAddHttp(args) => routes::add_http(session, &args).await?,
        Command::RouteRemove(args) => routes::remove(session, &args).await?,
        Command::Providers(args) => resources::providers(session, args).await?,
        Command::ProviderAdd(args) => resources::add_provider(session, &args).await?,
        Command::ProviderRemove(args) => resources::remove_provider(session, &args).await?,
        Command::Resources(args) => resources::list(session, &args).await?,
        Command::ResourceAdd(args) => resources::add(session, &args).await?,
        Command::ResourceRemove(args) => resources::remove(session, &args).await?,
        Command::ResourceRestore(args) => resources::restore(session, &args).await?,
        Command::Usage(args) => usage::list(session, args).await?,
        Command::Volumes(args) => volumes::list(session, &args).await?,
        Command::VolumeRemove(args) => volumes::remove(session, &args).await?,
        Command::Gc(args) => resources::collect(session, args).await?,
        Command::Keys(args) => keys::list(session, args).await?,
        Command::KeyAdd(args) => keys::add(session, &args).await?,
        Command::KeyRemove(args) => keys::remove(session, &args).await?,
        Command::Version => output::data(env!("CARGO_PKG_VERSION"))?,
        Command::Help(args) => help::help(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
