//! What is configured, by flags or environment.

use std::net::{Ipv4Addr, SocketAddr};

use clap::{Parser, builder::NonEmptyStringValueParser};

/// Makes the cluster run what the formations say.
#[derive(Debug, Clone, Parser)]
#[command(name = "scheduler", version, about)]
pub struct Args {
    /// Port to answer /ping on.
    #[arg(long, env = "PORT", default_value_t = 3000)]
    pub port: u16,
    /// A key of the controller.
    #[arg(long, env = "CONTROLLER_KEY", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub controller_key: String,
    /// Key of flynn-host and sampi.
    #[arg(long, env = "HOST_KEY", hide_env_values = true, value_parser = NonEmptyStringValueParser::new())]
    pub host_key: String,
    /// URL of discoverd.
    #[arg(long, env = "DISCOVERD", default_value = "http://127.0.0.1:1111")]
    pub discoverd: String,
    /// The job this scheduler is. It leads when discoverd says that this job does.
    #[arg(long, env = "FLYNN_JOB_ID", value_parser = NonEmptyStringValueParser::new())]
    pub job_id: String,
}

/// What the scheduler works with.
#[derive(Clone)]
pub struct Config {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// A key of the controller.
    pub controller_key: String,
    /// Key of flynn-host and sampi.
    pub host_key: String,
    /// URL of discoverd.
    pub discoverd: String,
    /// The job this scheduler is.
    pub job_id: String,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Config({}, {}, job {})", self.listen, self.discoverd, self.job_id)
    }
}

impl From<Args> for Config {
    fn from(Args { port, controller_key, host_key, discoverd, job_id }: Args) -> Self {
        let listen = (Ipv4Addr::UNSPECIFIED, port).into();
        Self { listen, controller_key, host_key, discoverd, job_id }
    }
}
