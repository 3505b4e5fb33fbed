//! `help`.

use std::collections::BTreeMap;

use clap::{Args, Command, CommandFactory};

use super::Usage;
use crate::{
    args::Cli,
    domain::{suggest::nearest, table},
    output,
};

#[derive(Debug, Args)]
pub(crate) struct HelpArgs {
    /// A command, or `commands` for the usage of all
    topic: Option<String>,
    /// The usage of every command, as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn help(args: &HelpArgs) -> anyhow::Result<()> {
    let mut root = Cli::command();
    root.build();
    if args.json {
        let map: BTreeMap<String, String> = usages(&mut root).into_iter().collect();
        return output::json(&map);
    }
    let text = match args.topic.as_deref() {
        None => root.render_help().to_string(),
        Some("commands") => {
            let row = |(_, usage): (String, String)| vec![usage];
            let rows: Vec<_> = usages(&mut root).into_iter().map(row).collect();
            table::render(&[], &rows)
        }
        Some(topic) => match root.find_subcommand_mut(topic) {
            Some(command) => command.render_help().to_string(),
            None => return Err(unknown(&root, topic).into()),
        },
    };
    Ok(output::text(&text)?)
}

fn usages(root: &mut Command) -> Vec<(String, String)> {
    let usage = |command: &mut Command| {
        let usage = command.render_usage().to_string();
        (command.get_name().to_owned(), usage.trim_start_matches("Usage: ").to_owned())
    };
    root.get_subcommands_mut().map(usage).collect()
}

fn unknown(root: &Command, topic: &str) -> Usage {
    let near = nearest(topic, root.get_subcommands().map(Command::get_name));
    let near = near.map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default();
    Usage(format!("there is no command {topic:?}{near}; `flynn help` lists them"))
}
