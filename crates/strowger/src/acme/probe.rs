//! Whether a name leads to a router of this cluster: it is asked for what only such a one knows, before an authority is
//! asked to find out. Authorities count failures.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use api::certificate::CertificateProblem;

use super::{
    dns::addresses,
    failure::{Ended, Failure},
    records::{Lead, Way},
};

/// Below it, routers answer for the nonces of their cluster.
pub(crate) const NONCES: &str = "/.well-known/flynn-router/";
/// Longest time to connect to an address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest time to its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest answer that can be the right one.
const ANSWER_MAX: usize = 64;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 8;

/// How names are tried out.
#[derive(Debug, Clone)]
pub(crate) struct Probe {
    /// Who is asked where a name leads.
    pub(crate) dns: Option<SocketAddr>,
    /// The ports that the authority connects to.
    pub(crate) http_port: u16,
    pub(crate) tls_port: u16,
    /// Whether anything is tried at all.
    pub(crate) is_on: bool,
}

/// What came of asking one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// A router of this cluster.
    Router,
    /// Something else.
    Other,
    /// Nothing that takes connections.
    Nobody,
}

impl Probe {
    /// How an authority can convince itself of a name; why it could not.
    pub(crate) async fn way(&self, lead: &Lead, name: &str) -> Result<Way, Ended> {
        if !self.is_on {
            return Ok(Way::Http);
        }
        let found = addresses(self.dns, name).await.map_err(|err| {
            let detail = format!("DNS cannot be asked: {err}");
            Failure::new(CertificateProblem::NoAddress, detail)
        })?;
        if found.is_empty() {
            return Err(Failure::new(CertificateProblem::NoAddress, "").into());
        }
        let (nonce, answer) = (random(), random());
        lead.keep_nonce(&nonce, &answer).await?;
        let way = self.ask_all(&found, name, &nonce, &answer).await;
        // Left behind it would end with the lease.
        let _ = lead.forget_nonce(&nonce).await;
        Ok(way?)
    }

    async fn ask_all(
        &self,
        addresses: &[IpAddr],
        name: &str,
        nonce: &str,
        answer: &str,
    ) -> Result<Way, Failure> {
        for (way, scheme, port) in
            [(Way::Http, "http", self.http_port), (Way::Tls, "https", self.tls_port)]
        {
            let mut found = Vec::new();
            for address in addresses.iter().take(ADDRESSES_MAX) {
                let url = format!("{scheme}://{name}:{port}{NONCES}{nonce}");
                let said = ask(name, (*address, port).into(), &url, answer).await;
                found.push((*address, said));
            }
            if let Some(result) = verdict(&found) {
                return result.map(|()| way);
            }
        }
        let listed: Vec<_> = addresses.iter().map(IpAddr::to_string).collect();
        let detail = format!("nothing takes connections at {}", listed.join(", "));
        Err(Failure::new(CertificateProblem::PortClosed, detail))
    }
}

/// Whether the addresses of a name are routers, as far as they take connections: `None` if none does. One that is something
/// else is enough to fail, for the authority may choose it.
fn verdict(found: &[(IpAddr, Found)]) -> Option<Result<(), Failure>> {
    if let Some((address, _)) = found.iter().find(|(_, found)| *found == Found::Other) {
        let detail = format!("what answers at {address} is no router of this cluster");
        return Some(Err(Failure::new(CertificateProblem::PointsElsewhere, detail)));
    }
    found.iter().any(|(_, found)| *found == Found::Router).then_some(Ok(()))
}

/// Asks one address.
async fn ask(name: &str, address: SocketAddr, url: &str, answer: &str) -> Found {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        // There is no certificate yet, or one that ends.
        .tls_danger_accept_invalid_certs(true)
        .no_proxy()
        .resolve(name, address)
        .build();
    let Ok(client) = client else { return Found::Nobody };
    let mut response = match client.get(url).send().await {
        Ok(response) => response,
        Err(err) if err.is_connect() => return Found::Nobody,
        Err(_) => return Found::Other,
    };
    let is_long = response.content_length().is_none_or(|length| length > ANSWER_MAX as u64);
    if response.status() != reqwest::StatusCode::OK || is_long {
        return Found::Other;
    }
    let mut said = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        said.extend_from_slice(&piece);
    }
    if said == answer.as_bytes() { Found::Router } else { Found::Other }
}

/// 32 random hex digits.
fn random() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_that_is_something_else_is_enough_and_one_that_is_away_is_not() {
        let verdict = |found: &[Found]| {
            let found: Vec<_> = found.iter().map(|found| ([192, 0, 2, 1].into(), *found)).collect();
            verdict(&found).map(|result| result.map_err(|failure| failure.problem))
        };
        let elsewhere = Some(Err(CertificateProblem::PointsElsewhere));
        assert_eq!(verdict(&[Found::Router, Found::Nobody]), Some(Ok(())));
        assert_eq!(verdict(&[Found::Router, Found::Other]), elsewhere);
        assert_eq!(verdict(&[Found::Nobody]), None);
    }
}
