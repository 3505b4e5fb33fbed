//! What an operator sets.

use std::net::SocketAddr;

use clap::Args;

/// Automatic certificates.
#[derive(Debug, Clone, Args)]
pub struct AcmeSettings {
    /// URL of the directory of an ACME authority; none are ordered if it is empty.
    #[arg(long = "acme-directory", env = "ACME_DIRECTORY", default_value = "")]
    pub directory: String,
    /// Mail addresses that the authority may write to, separated by commas.
    #[arg(long = "acme-contact", env = "ACME_CONTACT", default_value = "")]
    pub contact: String,
    /// Whom to trust about the directory instead of the usual authorities: a PEM file, or its text.
    #[arg(long = "acme-ca", env = "ACME_CA", default_value = "")]
    pub ca: String,
    /// `ip:port` of a DNS server that is asked where a name leads; this host's if it is empty.
    #[arg(long = "acme-dns", env = "ACME_DNS", default_value = "")]
    pub dns: String,
    /// Whether it is tried out that a name leads here before a certificate for it is ordered.
    #[arg(long = "acme-check", env = "ACME_CHECK", default_value_t = true, action = clap::ArgAction::Set)]
    pub check: bool,
    /// The port at which the authority asks over HTTP.
    #[arg(
        id = "acme_http_port",
        long = "acme-http-port",
        env = "ACME_HTTP_PORT",
        default_value_t = 80
    )]
    pub http_port: u16,
    /// The port at which the authority asks over TLS.
    #[arg(
        id = "acme_tls_port",
        long = "acme-tls-port",
        env = "ACME_TLS_PORT",
        default_value_t = 443
    )]
    pub tls_port: u16,
}

impl Default for AcmeSettings {
    fn default() -> Self {
        Self {
            directory: String::new(),
            contact: String::new(),
            ca: String::new(),
            dns: String::new(),
            check: true,
            http_port: 80,
            tls_port: 443,
        }
    }
}

/// A setting cannot be obeyed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The directory is no URL.
    #[error("ACME_DIRECTORY must be the https URL of a directory, not {0:?}")]
    Directory(String),
    /// Whom to trust is no PEM.
    #[error("ACME_CA is neither a PEM certificate nor a file with one")]
    Ca(#[source] Option<reqwest::Error>),
    /// The file cannot be read.
    #[error("ACME_CA names the file {0}, which cannot be read")]
    File(String, #[source] std::io::Error),
    /// The DNS server is no address.
    #[error("ACME_DNS must be ip:port, not {0:?}")]
    Dns(String),
    /// An address is none.
    #[error("ACME_CONTACT must be mail addresses, separated by commas, not {0:?}")]
    Contact(String),
    /// The client of the directory cannot be made.
    #[error("the client of the ACME directory cannot be made")]
    Client(#[source] reqwest::Error),
}

impl AcmeSettings {
    /// The directory, if there is one.
    pub(crate) fn directory(&self) -> Result<Option<String>, SettingsError> {
        let text = self.directory.trim();
        if text.is_empty() {
            return Ok(None);
        }
        match reqwest::Url::parse(text) {
            Ok(url) if url.scheme() == "https" && url.has_host() => Ok(Some(text.to_owned())),
            _ => Err(SettingsError::Directory(text.to_owned())),
        }
    }

    /// The addresses as the authority takes them.
    pub(crate) fn contact(&self) -> Result<Vec<String>, SettingsError> {
        let each = self.contact.split(',').map(str::trim).filter(|one| !one.is_empty());
        each.map(|one| {
            let address = one.strip_prefix("mailto:").unwrap_or(one);
            match address.split_once('@') {
                Some((user, host)) if !user.is_empty() && host.contains('.') => {
                    Ok(format!("mailto:{address}"))
                }
                _ => Err(SettingsError::Contact(one.to_owned())),
            }
        })
        .collect()
    }

    /// The DNS server, if there is one.
    pub(crate) fn dns(&self) -> Result<Option<SocketAddr>, SettingsError> {
        match self.dns.trim() {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| SettingsError::Dns(text.to_owned())),
        }
    }

    /// The certificates of whom to trust; none for the usual ones.
    pub(crate) fn ca(&self) -> Result<Vec<reqwest::Certificate>, SettingsError> {
        let text = match self.ca.trim() {
            "" => return Ok(Vec::new()),
            text if text.starts_with("-----BEGIN") => text.as_bytes().to_vec(),
            file => std::fs::read(file).map_err(|err| SettingsError::File(file.to_owned(), err))?,
        };
        match reqwest::Certificate::from_pem_bundle(&text) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => Err(SettingsError::Ca(None)),
            Err(err) => Err(SettingsError::Ca(Some(err))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_obeyed_is_refused_and_nothing_is_set_by_default() {
        let settings = AcmeSettings::default();
        assert_eq!(settings.directory().unwrap(), None);
        assert!(settings.contact().unwrap().is_empty() && settings.ca().unwrap().is_empty());
        let said = AcmeSettings {
            directory: "http://ca.example/dir".into(),
            contact: "nobody".into(),
            ca: "/nowhere/ca.pem".into(),
            dns: "8.8.8.8".into(),
            ..settings
        };
        assert!(said.directory().is_err() && said.contact().is_err());
        assert!(said.ca().is_err() && said.dns().is_err());
        let said = AcmeSettings { contact: "a@b.example, mailto:c@d.example".into(), ..said };
        assert_eq!(said.contact().unwrap(), ["mailto:a@b.example", "mailto:c@d.example"]);
    }
}
