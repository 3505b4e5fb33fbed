//! What was asked for.

use std::path::PathBuf;

use clap::Parser;

/// Runs a slug.
#[derive(Debug, Clone, Parser)]
#[command(version, about, disable_help_subcommand = true)]
pub struct Config {
    /// Where the slug is unpacked.
    #[arg(long, env = "FLYNN_APP_DIR", default_value = "/app", hide = true)]
    pub app_dir: PathBuf,
    /// Where `static` listens.
    #[arg(long, env = "PORT", default_value = "8080", hide = true)]
    pub port: String,
    /// Where the slug is got, if there is none yet. Without it, it is read from stdin.
    #[arg(long, env = "SLUG_URL", hide = true, hide_env_values = true)]
    pub slug_url: Option<String>,
    /// Rows of the terminal, where there is one.
    #[arg(long, env = "LINES", hide = true)]
    pub lines: Option<String>,
    /// Its columns.
    #[arg(long, env = "COLUMNS", hide = true)]
    pub columns: Option<String>,
    /// `start <type>`, `static <directory>`, or a command.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "COMMAND"
    )]
    pub words: Vec<String>,
}

impl Config {
    /// The terminal's rows and columns, unless an app means something else by these names.
    pub fn terminal_size(&self) -> Option<(u16, u16)> {
        Some((self.lines.as_ref()?.parse().ok()?, self.columns.as_ref()?.parse().ok()?))
    }
}
