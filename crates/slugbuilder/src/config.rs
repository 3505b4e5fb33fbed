//! What a build needs to know.

use std::path::PathBuf;

use clap::Parser;

/// Turns source into a slug.
#[derive(Clone, Parser)]
#[command(version, about)]
pub struct Config {
    /// Where the slug goes when the source comes from stdin: a path, `-` for stdout, or a URL to PUT it to.
    #[arg(default_value = "/tmp/slug.tgz", value_name = "SLUG")]
    pub output: String,
    /// Where the source is got, instead of from stdin.
    #[arg(long, env = "SOURCE_URL", hide_env_values = true, requires_all = ["slug_put_url", "result_put_url"])]
    pub source_url: Option<String>,
    /// Where the slug is put.
    #[arg(long, env = "SLUG_PUT_URL", hide_env_values = true)]
    pub slug_put_url: Option<String>,
    /// Where the result is put.
    #[arg(long, env = "RESULT_PUT_URL", hide_env_values = true)]
    pub result_put_url: Option<String>,
    /// Where the cache of the build before is got.
    #[arg(long, env = "CACHE_GET_URL", hide_env_values = true)]
    pub cache_get_url: Option<String>,
    /// Where the cache for the next build is put.
    #[arg(long, env = "CACHE_PUT_URL", hide_env_values = true)]
    pub cache_put_url: Option<String>,
    /// Where the app's environment is got, a JSON object of strings. It may be longer than a variable can be.
    #[arg(long, env = "ENV_URL", hide_env_values = true)]
    pub env_url: Option<String>,
    /// The app's environment itself, a JSON object of strings.
    #[arg(long, env = "BUILD_ENV", hide_env_values = true)]
    pub build_env: Option<String>,
    /// The app's name.
    #[arg(long, env = "APP_NAME", default_value = "")]
    pub app_name: String,
    /// The commit.
    #[arg(long, env = "SOURCE_VERSION", default_value = "")]
    pub source_version: String,
    /// Where the app is built, and runs later.
    #[arg(long, env = "BUILD_DIR", default_value = "/app")]
    pub build_dir: PathBuf,
    /// For the cache, buildpacks and what else is forgotten afterwards.
    #[arg(long, env = "WORK_DIR", default_value = "/tmp")]
    pub work_dir: PathBuf,
    /// Our buildpacks.
    #[arg(long, env = "BUILDPACKS_DIR", default_value = "/buildpacks")]
    pub buildpacks_dir: PathBuf,
    /// Seconds a build may take.
    #[arg(long = "timeout", env = "BUILD_TIMEOUT", default_value_t = 900)]
    pub timeout_seconds: u64,
    /// Bytes a slug may have.
    #[arg(long, env = "SLUG_LIMIT", default_value_t = 500 << 20)]
    pub slug_limit: u64,
    /// Bytes a slug may unpack to: every host that runs the app keeps that much.
    #[arg(long, env = "SLUG_UNPACKED_LIMIT", default_value_t = 3 << 30)]
    pub slug_unpacked_limit: u64,
    /// Bytes of cache that are kept from build to build, before they are packed.
    #[arg(long, env = "CACHE_LIMIT", default_value_t = 2 << 30)]
    pub cache_limit: u64,
    /// What buildpacks are told they build for.
    #[arg(long, env = "STACK", default_value = "heroku-22")]
    pub stack: String,
}
