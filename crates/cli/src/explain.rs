//! Errors as sentences that say what to do.

use std::error::Error;

use controller_client::Error as ClientError;

use crate::{domain::flynnrc::Server, http::WrongCertificate};

/// What to tell the person about an error of a command on a server.
pub(crate) fn sentence(err: &anyhow::Error, server: Option<&Server>) -> String {
    let client = err.chain().find_map(|cause| cause.downcast_ref::<ClientError>());
    let (Some(client), Some(server)) = (client, server) else { return format!("{err:#}") };
    let explained = of_client(client, server);
    // What we were doing, if somebody said so above the client's error.
    let doing: Vec<String> = err
        .chain()
        .take_while(|cause| !cause.is::<ClientError>())
        .map(ToString::to_string)
        .collect();
    doing.into_iter().chain([explained]).collect::<Vec<_>>().join(": ")
}

fn of_client(err: &ClientError, server: &Server) -> String {
    let (name, url) = (&server.name, server.base());
    match err {
        ClientError::Connect { source, .. } => unconnected(source, server),
        ClientError::NoInstance { .. } => format!("no address of server {name:?} is known"),
        ClientError::Lost { source, .. } => format!(
            "the connection to the controller at {url} was lost before its answer ({}). Whether it did what was \
             asked is not known: look, then try again",
            root(source)
        ),
        ClientError::Silent { .. } => {
            format!("the controller at {url} fell silent; try again in some seconds")
        }
        ClientError::Decode { source, .. } => format!(
            "what answers at {url} does not speak as a Flynn controller does ({source}). Is the URL of server \
             {name:?} in ~/.flynnrc right?"
        ),
        ClientError::NotUpgraded { status, .. } => format!(
            "the controller at {url} answered {status} instead of attaching to the job; a proxy between may not let \
             connections be upgraded"
        ),
        ClientError::Api { status, body } => of_answer(*status, body, server),
        other => other.to_string(),
    }
}

fn of_answer(status: u16, body: &api::error::ErrorBody, server: &Server) -> String {
    let (name, url) = (&server.name, server.base());
    match status {
        401 | 403 => format!(
            "the controller at {url} refuses the key. Check `Key` of server {name:?} in ~/.flynnrc, or set it anew with \
             `flynn server-add -f …`"
        ),
        300..=399 => format!(
            "{url} answers with a redirect ({status}). Is the URL of server {name:?} in ~/.flynnrc right, https:// \
             perhaps?"
        ),
        // A bare one is of whatever is in front of the controller.
        502..=504 if body.message.starts_with(&status.to_string()) => format!(
            "the controller at {url} cannot answer now ({}); try again in some seconds",
            body.message
        ),
        500 => format!(
            "the controller failed: {}; its log says more: `flynn -a controller log`",
            body.message
        ),
        // A bare 404 has only its name for a message.
        404 if body.message.starts_with("404") => format!(
            "the controller at {url} knows no such thing; it may have been removed meanwhile"
        ),
        _ => body.message.clone(),
    }
}

fn unconnected(source: &reqwest::Error, server: &Server) -> String {
    let (name, url) = (&server.name, server.base());
    if let Some(wrong) = tls_error(source).and_then(wrong_certificate) {
        return format!(
            "the certificate of {url} is not the one pinned for server {name:?}, so nothing was sent.\n  \
             pinned:    {}\n  presented: {}\n\
             Either somebody is between you and the server, or it has a new certificate. Ask its operator for the pin; \
             if it is the one presented: flynn server-add -f -p {} …",
            wrong.pinned, wrong.presented, wrong.presented
        );
    }
    match tls_error(source) {
        Some(rustls::Error::InvalidCertificate(why)) => format!(
            "the certificate of {url} cannot be trusted ({why}). If it is self-signed, pin it: \
             `flynn server-add -f -p <TLS pin> …` with the pin in the line that `script/up` prints"
        ),
        Some(err) => {
            format!("no TLS connection to {url}: {err}. Is the URL of server {name:?} right?")
        }
        None => format!(
            "the controller at {url} cannot be reached ({}). Is it up, and is the URL of server {name:?} in \
             ~/.flynnrc right?",
            root(source)
        ),
    }
}

/// The TLS error at the bottom of a failed connection. IO errors hold it where `source` does not show it.
fn tls_error<'a>(err: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(err);
    while let Some(err) = next {
        if let Some(tls) = err.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = err.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match inner {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => err.source(),
        };
    }
    None
}

fn wrong_certificate(err: &rustls::Error) -> Option<WrongCertificate> {
    match err {
        rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) => {
            other.0.downcast_ref::<WrongCertificate>().copied()
        }
        _ => None,
    }
}

/// The innermost cause: the others only say that a request failed.
fn root(err: &(dyn Error + 'static)) -> String {
    let mut root = err;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
