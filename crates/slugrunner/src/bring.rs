//! Bringing a slug into a container that was made without one: from a URL, or from stdin.

use std::{
    io::{self, IsTerminal, Read, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

/// How a gzip stream begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why no slug could be brought.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum BringError {
    #[error(
        "there is no slug: give one on stdin (the tar.gz that slugbuilder made) or its address in SLUG_URL"
    )]
    Nothing,
    #[error("what came on stdin is no slug: give the tar.gz that slugbuilder made")]
    NoSlug,
    #[error("SLUG_URL is no address that begins with http:// or https://")]
    Url,
    #[error("the slug could not be got from SLUG_URL; curl's reason is above")]
    NotGot,
    #[error("the slug could not be unpacked; tar's reason is above")]
    NotUnpacked,
    #[error("{0} could not be run, or broke off")]
    Program(&'static str, #[source] io::Error),
}

/// Unpacks a slug into an empty app directory. One that has files has its slug, and stdin is then the app's. An empty stdin
/// is no slug, and an error only where one is `needed`: a command may do without.
pub async fn bring(app_dir: &Path, url: Option<&str>, needed: bool) -> Result<(), BringError> {
    let has_slug = std::fs::read_dir(app_dir).map_or(true, |mut entries| entries.next().is_some());
    if has_slug {
        return Ok(());
    }
    let (app_dir, url) = (app_dir.to_owned(), url.map(str::to_owned));
    let brought = tokio::task::spawn_blocking(move || match url {
        Some(url) => from_url(&app_dir, &url),
        None => from_stdin(&app_dir, needed),
    });
    brought.await.unwrap_or_else(|err| Err(BringError::Program("tar", io::Error::other(err))))
}

fn from_url(app_dir: &Path, url: &str) -> Result<(), BringError> {
    if !url.starts_with("http://") && !url.starts_with("https://") {
        return Err(BringError::Url);
    }
    let mut curl = Command::new("curl");
    // The URL may be a permission: it is in no argument, where everybody could read it.
    curl.args(["--fail", "--silent", "--show-error", "--location", "--retry", "5"]);
    curl.args(["--retry-connrefused", "--connect-timeout", "10", "--speed-limit", "1"]);
    curl.args(["--speed-time", "60", "--config", "-"]);
    let mut curl = spawn("curl", curl.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let told = curl.stdin.take().map(|mut stdin| writeln!(stdin, "url = {}", quoted(url)));
    told.transpose().map_err(|err| BringError::Program("curl", err))?;
    let slug = curl.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let mut tar = spawn("tar", unpacking(app_dir).stdin(slug))?;
    let unpacked = ended("tar", &mut tar)?;
    if !ended("curl", &mut curl)? {
        return Err(BringError::NotGot);
    }
    if unpacked { Ok(()) } else { Err(BringError::NotUnpacked) }
}

fn from_stdin(app_dir: &Path, needed: bool) -> Result<(), BringError> {
    let nothing = || if needed { Err(BringError::Nothing) } else { Ok(()) };
    let mut stdin = io::stdin().lock();
    if stdin.is_terminal() {
        return nothing();
    }
    let mut start = Vec::new();
    let read = stdin.by_ref().take(GZIP.len() as u64).read_to_end(&mut start);
    read.map_err(|err| BringError::Program("reading stdin", err))?;
    if start.is_empty() {
        return nothing();
    }
    if start != GZIP {
        return Err(BringError::NoSlug);
    }
    let mut tar = spawn("tar", unpacking(app_dir).stdin(Stdio::piped()))?;
    if let Some(mut into) = tar.stdin.take() {
        let passed_on = into.write_all(&start).and_then(|()| io::copy(&mut stdin, &mut into));
        // That tar ended before its input did is told by its status.
        match passed_on {
            Err(err) if err.kind() != io::ErrorKind::BrokenPipe => {
                return Err(BringError::Program("tar", err));
            }
            _ => {}
        }
    }
    if ended("tar", &mut tar)? { Ok(()) } else { Err(BringError::NotUnpacked) }
}

fn unpacking(app_dir: &Path) -> Command {
    let mut tar = Command::new("tar");
    tar.args(["--extract", "--gzip", "--no-same-owner", "--directory"]).arg(app_dir);
    tar
}

fn spawn(name: &'static str, command: &mut Command) -> Result<Child, BringError> {
    command.spawn().map_err(|err| BringError::Program(name, err))
}

fn ended(name: &'static str, child: &mut Child) -> Result<bool, BringError> {
    let status = child.wait().map_err(|err| BringError::Program(name, err))?;
    Ok(status.success())
}

/// A value as curl's configuration files quote it.
fn quoted(text: &str) -> String {
    let text = text.replace('\\', r"\\").replace('"', r#"\""#).replace(['\n', '\r', '\0'], "");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_cannot_become_an_option_of_curl() {
        assert_eq!(quoted("http://h/a\"\noutput = \"/x"), r#""http://h/a\"output = \"/x""#);
    }
}
