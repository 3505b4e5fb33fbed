//! The command line.

use std::{collections::BTreeMap, net::IpAddr};

use clap::{ArgAction, Parser, Subcommand};

use crate::words::{Needed, Offer};

/// Service discovery from a shell.
#[derive(Debug, Clone, Parser)]
#[command(name = "sdutil", version)]
pub struct Args {
    /// Where discoverd is. Its key may be in it: http://:KEY@127.0.0.1:1111
    #[arg(
        long,
        env = "DISCOVERD",
        hide_env_values = true,
        default_value = "http://127.0.0.1:1111"
    )]
    pub discoverd: String,
    /// The key registering needs.
    #[arg(long, env = "DISCOVERD_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Tell whether discoverd answers.
    Check {
        /// Say nothing, only exit.
        #[arg(short)]
        silent: bool,
    },
    /// Register a service until interrupted.
    #[command(disable_help_flag = true)]
    Register {
        /// Which address.
        #[command(flatten)]
        address: Address,
        /// What is registered besides.
        #[command(flatten)]
        labels: Labels,
        /// The service and the port it is offered at.
        #[arg(value_name = "NAME:PORT")]
        offer: Offer,
    },
    /// Print the addresses of a service, oldest first.
    Services {
        /// Only the first.
        #[arg(short = '1')]
        one: bool,
        /// The service.
        name: String,
    },
    /// Run a command, and register services while it runs.
    #[command(disable_help_flag = true)]
    Exec {
        /// Which address.
        #[command(flatten)]
        address: Address,
        /// What is registered besides.
        #[command(flatten)]
        labels: Labels,
        /// A service and the port the command offers it at.
        #[arg(short, value_name = "NAME:PORT", required = true)]
        service: Vec<Offer>,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
    /// Run a command while services have leaders, with the leaders' addresses in its environment.
    Expose {
        /// A service, and the variable its leader's address goes to.
        #[arg(short = 'd', value_name = "[VAR:]SERVICE", required = true)]
        depend: Vec<Needed>,
        /// The command.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

/// Which address of this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct Address {
    /// This one.
    #[arg(short = 'h', long, conflicts_with = "interface")]
    pub host: Option<IpAddr>,
    /// That of this network interface.
    #[arg(short, long)]
    pub interface: Option<String>,
    /// The one to use when none is given.
    #[arg(long, env = "EXTERNAL_IP", hide = true)]
    pub external_ip: Option<IpAddr>,
    /// Print help.
    #[arg(long, action = ArgAction::Help)]
    pub help: Option<bool>,
}

/// What flynn-host tells every job about itself, for those who look.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Meta")]
pub struct Labels {
    #[arg(long, env = "FLYNN_APP_ID", hide = true)]
    flynn_app_id: Option<String>,
    #[arg(long, env = "FLYNN_APP_NAME", hide = true)]
    flynn_app_name: Option<String>,
    #[arg(long, env = "FLYNN_RELEASE_ID", hide = true)]
    flynn_release_id: Option<String>,
    #[arg(long, env = "FLYNN_PROCESS_TYPE", hide = true)]
    flynn_process_type: Option<String>,
    #[arg(long, env = "FLYNN_JOB_ID", hide = true)]
    flynn_job_id: Option<String>,
}

impl Labels {
    /// As an instance's meta.
    pub fn meta(&self) -> BTreeMap<String, String> {
        let all = [
            ("FLYNN_APP_ID", &self.flynn_app_id),
            ("FLYNN_APP_NAME", &self.flynn_app_name),
            ("FLYNN_RELEASE_ID", &self.flynn_release_id),
            ("FLYNN_PROCESS_TYPE", &self.flynn_process_type),
            ("FLYNN_JOB_ID", &self.flynn_job_id),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.map(|(name, value)| (name.to_owned(), value.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let words =
            ["sdutil", "exec", "-h", "10.0.0.1", "-s", "web:80", "-s", "api:81", "ls", "-l"];
        let Command::Exec { service, command, address, .. } =
            Args::try_parse_from(words).unwrap().command
        else {
            panic!("not exec")
        };
        assert_eq!((service.len(), command), (2, vec!["ls".to_owned(), "-l".to_owned()]));
        assert_eq!(address.host, Some([10, 0, 0, 1].into()));
        let both = ["sdutil", "register", "-h", "10.0.0.1", "-i", "eth0", "web:80"];
        assert!(Args::try_parse_from(both).is_err());
    }
}
