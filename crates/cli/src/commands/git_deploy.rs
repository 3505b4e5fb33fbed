//! `deploy`: a repository is deployed by its URL.

use std::{fs::File, io::Read, process::ExitCode};

use anyhow::{Context, ensure};
use clap::Args;

use super::{Usage, run};
use crate::{
    attached::{self, Input, Stdout},
    domain::git_source::{SECRET_MAX, Said, source},
    output,
    session::Session,
    stdio,
};

#[derive(Args)]
pub(crate) struct DeployArgs {
    /// Branch, tag or commit; the repository's default branch if left out
    #[arg(long, value_name = "REF")]
    r#ref: Option<String>,
    /// Whose the token is, where the server asks
    #[arg(long)]
    user: Option<String>,
    /// A file with a token or password for an https:// URL, `-` for stdin; else FLYNN_GIT_TOKEN is used
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// A file with a private SSH key for an ssh:// or user@host:path URL, `-` for stdin
    #[arg(long, value_name = "FILE", conflicts_with = "token_file")]
    deploy_key: Option<String>,
    /// The release that then serves as JSON; what the build says goes to stderr
    #[arg(long)]
    json: bool,
    #[arg(long, env = "FLYNN_GIT_TOKEN", hide = true, hide_env_values = true)]
    env_flynn_git_token: Option<String>,
    /// https://host/path, ssh://user@host/path, user@host:path or git://host/path
    #[arg(value_name = "GIT-URL")]
    url: String,
}

impl std::fmt::Debug for DeployArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeployArgs")
    }
}

pub(crate) async fn deploy(session: &Session, args: &DeployArgs) -> anyhow::Result<ExitCode> {
    let read = |file: &Option<String>| file.as_deref().map(secret).transpose();
    let said = Said {
        url: args.url.clone(),
        branch: args.r#ref.clone(),
        user: args.user.clone(),
        token: read(&args.token_file)?,
        env_token: args.env_flynn_git_token.clone(),
        key: read(&args.deploy_key)?,
    };
    let source = source(said).map_err(|err| Usage(err.to_string()))?;
    let target = session.app()?;
    let starting = target.controller.deploy_repository(&target.name);
    let connection = run::started(starting).await?.map_err(|err| target.explained(err))?;
    let input = Input::Given(serde_json::to_vec(&source)?.into());
    let stdout = if args.json { Stdout::WithStderr } else { Stdout::Apart };
    let status = attached::converse(connection, input, stdout).await?;
    if status == 0 && args.json {
        let (_, release) = target.release().await?;
        output::json(&release)?;
    }
    Ok(ExitCode::from(run::exit_code(status)))
}

/// The text of a file, `-` for stdin.
fn secret(file: &str) -> anyhow::Result<String> {
    let reader: Box<dyn Read> = match file {
        "-" => Box::new(stdio::stdin()),
        _ => Box::new(File::open(file).with_context(|| format!("reading {file}"))?),
    };
    let mut text = String::new();
    let read = reader.take(SECRET_MAX + 1).read_to_string(&mut text);
    let length = read.with_context(|| format!("reading {file}"))?;
    ensure!(length as u64 <= SECRET_MAX, "{file} is too long for a token or a key");
    Ok(text)
}
