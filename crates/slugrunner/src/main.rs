//! `slugrunner`: the first process of app containers.
#![expect(clippy::print_stderr, reason = "the app's owner reads its log, which is stderr")]

use std::process::ExitCode;

use clap::Parser;
use slugrunner::{Config, bring, domain::Task, init, site};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Config::parse()).await {
        Ok(code) => code,
        Err(err) => {
            eprintln!("slugrunner: {err:#}");
            let unknown = err.is::<slugrunner::domain::NoSuchType>();
            ExitCode::from(if unknown { 2 } else { 1 })
        }
    }
}

async fn run(config: Config) -> anyhow::Result<ExitCode> {
    // These two are made of what the slug holds; any other command may need nothing of it.
    let needed = matches!(config.words.first().map(String::as_str), Some("start" | "static"));
    bring::bring(&config.app_dir, config.slug_url.as_deref(), needed).await?;
    let slug = init::read_slug(&config.app_dir)?;
    match slug.task(&config.words)? {
        Task::Site(directory) => {
            site::serve(&config.app_dir.join(directory), &config.port).await?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Command(command) => {
            init::run(&config.app_dir, &slug, &command, config.terminal_size()).await
        }
    }
}
