//! `~/.flynnrc`: the servers a person uses.
//!
//! Written as 2014 wrote it, `[[server]]` with `Name`, `GitHost`, `URL`, `Key`, `TLSPin`; the later `[[cluster]]` with
//! `Name`, `Key`, `TLSPin`, `ControllerURL`, `GitURL` is read too. Keys are matched as 2014 matched them, whatever
//! their case. What we do not know is left as it is.

use toml::{Table, Value};
use url::Url;

use super::pin::{InvalidPin, Pin};

/// One server: a Flynn installation.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// What the person calls it.
    pub(crate) name: String,
    /// Where git pushes go: `host` or `host:port`.
    pub(crate) git_host: String,
    /// Base URL of its controller.
    pub(crate) url: Url,
    /// The controller key.
    pub(crate) key: String,
    /// The only certificate it may have.
    pub(crate) pin: Option<Pin>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Server({} at {})", self.name, self.url)
    }
}

impl Server {
    /// The URL git pushes an app to.
    pub(crate) fn git_url(&self, app: &str) -> String {
        format!("ssh://git@{}/{app}.git", self.git_host)
    }

    /// The base URL without a slash at its end.
    pub(crate) fn base(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }
}

/// The file as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Flynnrc {
    text: String,
    table: Table,
    /// In the file's order.
    pub(crate) servers: Vec<Server>,
    /// Name of the server to use where nothing else says.
    pub(crate) default: Option<String>,
}

/// Something is wrong with the file or with what shall be written into it.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum FlynnrcError {
    #[error("it is not TOML: {0}")]
    Syntax(String),
    #[error("`{0}` must be a list of tables, each beginning with `[[{0}]]`")]
    NotAList(&'static str),
    #[error("server {server:?} lacks {field}")]
    Missing { server: String, field: &'static str },
    #[error("server {server:?}: {url:?} is not an http:// or https:// URL")]
    BadUrl { server: String, url: String },
    #[error("server {server:?}: {host:?} is not a git host: expected `host` or `host:port`")]
    BadGitHost { server: String, host: String },
    #[error("server {server:?}: {source}")]
    BadPin { server: String, source: InvalidPin },
    #[error(
        "server {0:?} has a TLS pin but an http:// URL: the key would be sent unencrypted; make the URL https://"
    )]
    PinWithoutTls(String),
    #[error(
        "server {server:?} has the same {field} already; `flynn server-add -f …` replaces it, \
         `flynn server-remove {server}` removes it"
    )]
    Duplicate { server: String, field: &'static str },
    #[error("there is no server {0:?}; `flynn servers` lists them")]
    NoSuchServer(String),
    #[error("it cannot be written as TOML: {0}")]
    Unwritable(String),
}

impl Flynnrc {
    /// Reads the file's text.
    pub(crate) fn parse(text: &str) -> Result<Self, FlynnrcError> {
        let table: Table =
            text.parse().map_err(|err: toml::de::Error| FlynnrcError::Syntax(err.to_string()))?;
        let mut servers = Vec::new();
        for kind in ["server", "cluster"] {
            for entry in entries(&table, kind)? {
                servers.push(server(entry)?);
            }
        }
        let default = field(&table, "default").map(str::to_owned);
        Ok(Self { text: text.into(), table, servers, default })
    }

    /// The server of a name.
    pub(crate) fn server(&self, name: &str) -> Result<&Server, FlynnrcError> {
        let found = self.servers.iter().find(|server| server.name == name);
        found.ok_or_else(|| FlynnrcError::NoSuchServer(name.into()))
    }

    /// A server that has the same name, URL or git host, and which it is: such two could not be told apart.
    pub(crate) fn in_the_way_of(&self, new: &Server) -> Option<(&Server, &'static str)> {
        self.servers.iter().find_map(|old| {
            let same = [
                ("name", old.name == new.name),
                ("URL", old.url == new.url),
                ("git host", old.git_host == new.git_host),
            ];
            same.into_iter().find(|(_, same)| *same).map(|(field, _)| (old, field))
        })
    }

    /// The text with one more server, everything else untouched.
    pub(crate) fn with_server(&self, new: &Server) -> Result<String, FlynnrcError> {
        if let Some((old, field)) = self.in_the_way_of(new) {
            return Err(FlynnrcError::Duplicate { server: old.name.clone(), field });
        }
        let mut text = self.text.clone();
        if !text.is_empty() {
            text += if text.ends_with('\n') { "\n" } else { "\n\n" };
        }
        let list = |entry| Table::from_iter([("server".to_owned(), Value::Array(vec![entry]))]);
        text += &write(&list(entry(new)))?;
        if Self::parse(&text).is_ok() {
            return Ok(text);
        }
        // A list in brackets cannot be added to at the end of the file.
        let mut table = self.table.clone();
        match table.entry("server").or_insert_with(|| Value::Array(Vec::new())) {
            Value::Array(servers) => servers.push(entry(new)),
            _ => return Err(FlynnrcError::NotAList("server")),
        }
        write(&table)
    }

    /// The file without a server.
    pub(crate) fn without_server(&self, name: &str) -> Result<Self, FlynnrcError> {
        self.server(name)?;
        let mut table = self.table.clone();
        for kind in ["server", "cluster"] {
            if let Some(Value::Array(list)) = table.get_mut(kind) {
                list.retain(|entry| entry.as_table().and_then(|e| field(e, "name")) != Some(name));
            }
        }
        table.retain(|_, value| value.as_array().is_none_or(|list| !list.is_empty()));
        if self.default.as_deref() == Some(name) {
            table.retain(|key, _| !same_key(key, "default"));
        }
        Self::parse(&write(&table)?)
    }

    /// The file with another default.
    pub(crate) fn with_default(&self, name: &str) -> Result<Self, FlynnrcError> {
        self.server(name)?;
        let mut table = self.table.clone();
        table.retain(|key, _| !same_key(key, "default"));
        table.insert("default".into(), name.into());
        Self::parse(&write(&table)?)
    }

    /// The text to write.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }
}

/// Checks what a person says of a server.
pub(crate) fn new_server(
    name: &str,
    git_host: &str,
    url: &str,
    key: &str,
    pin: Option<&str>,
) -> Result<Server, FlynnrcError> {
    let parsed = Url::parse(url).ok().filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.username().is_empty()
    });
    let url =
        parsed.ok_or_else(|| FlynnrcError::BadUrl { server: name.into(), url: url.into() })?;
    if !is_host_and_port(git_host) {
        return Err(FlynnrcError::BadGitHost { server: name.into(), host: git_host.into() });
    }
    let pin = pin.filter(|pin| !pin.is_empty()).map(str::parse).transpose();
    let pin = pin.map_err(|source| FlynnrcError::BadPin { server: name.into(), source })?;
    if pin.is_some() && url.scheme() != "https" {
        return Err(FlynnrcError::PinWithoutTls(name.into()));
    }
    Ok(Server { name: name.into(), git_host: git_host.into(), url, key: key.into(), pin })
}

fn is_host_and_port(text: &str) -> bool {
    let url = Url::parse(&format!("ssh://git@{text}/"));
    url.is_ok_and(|url| {
        let host = url.host_str().is_some_and(|host| !host.is_empty() && !host.starts_with('-'));
        host && url.path() == "/" && url.username() == "git" && url.query().is_none()
    }) && !text.contains(|c: char| c.is_whitespace() || c.is_control() || "/@?#%".contains(c))
}

fn entry(server: &Server) -> Value {
    let mut entry = Table::from_iter([
        ("Name".to_owned(), Value::from(server.name.clone())),
        ("GitHost".to_owned(), server.git_host.clone().into()),
        ("URL".to_owned(), server.base().into()),
        ("Key".to_owned(), server.key.clone().into()),
    ]);
    if let Some(pin) = server.pin {
        entry.insert("TLSPin".into(), pin.to_string().into());
    }
    Value::Table(entry)
}

fn server(entry: &Table) -> Result<Server, FlynnrcError> {
    let name = field(entry, "name").unwrap_or_default().to_owned();
    let missing = |field| FlynnrcError::Missing { server: name.clone(), field };
    if name.is_empty() {
        return Err(missing("Name"));
    }
    let url = field(entry, "url").or_else(|| field(entry, "controllerurl"));
    let url = url.ok_or_else(|| missing("URL"))?;
    let key = field(entry, "key").ok_or_else(|| missing("Key"))?;
    let git_host = match (field(entry, "githost"), field(entry, "giturl")) {
        (Some(host), _) if !host.is_empty() => host.to_owned(),
        (_, Some(git)) if !git.is_empty() => host_of(git, None).unwrap_or_else(|| git.to_owned()),
        _ => host_of(url, None).unwrap_or_default(),
    };
    new_server(&name, &git_host, url, key, field(entry, "tlspin"))
}

/// The host a URL names, without its port, unless it is a URL of ssh; `port` is appended if given.
pub(crate) fn host_of(url: &str, port: Option<u16>) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let port = if url.scheme() == "ssh" { url.port() } else { port };
    Some(port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

fn entries<'a>(table: &'a Table, kind: &'static str) -> Result<Vec<&'a Table>, FlynnrcError> {
    match table.get(kind) {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => {
            let tables = list.iter().map(|entry| entry.as_table());
            tables.collect::<Option<_>>().ok_or(FlynnrcError::NotAList(kind))
        }
        Some(_) => Err(FlynnrcError::NotAList(kind)),
    }
}

fn field<'a>(table: &'a Table, name: &str) -> Option<&'a str> {
    table.iter().find(|(key, _)| same_key(key, name)).and_then(|(_, value)| value.as_str())
}

fn same_key(key: &str, name: &str) -> bool {
    key.eq_ignore_ascii_case(name)
}

fn write(table: &Table) -> Result<String, FlynnrcError> {
    toml::to_string(table).map_err(|err| FlynnrcError::Unwritable(err.to_string()))
}

#[cfg(test)]
mod tests;
