//! How routes stand with their certificates, as a router tells.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// How an http route stands with the certificate of its domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Whose it is.
    pub issuer: CertificateIssuer,
    /// How it stands.
    pub state: CertificateState,
    /// When the one that is served ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// What is in the way of one, or of its renewal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<CertificateProblem>,
    /// More of the problem, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Timestamp>,
}

/// Who brought a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateIssuer {
    /// The route, or another one of its domain.
    Own,
    /// The router, from an authority.
    Automatic,
}

/// How far a certificate is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateState {
    /// It is served.
    Served,
    /// There is none yet; it is on its way.
    Ordered,
    /// There is none, and the last try failed.
    Failing,
    /// There is none, and none is asked for.
    Impossible,
}

/// Why there is no certificate, or no new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateProblem {
    /// The name has no address.
    NoAddress,
    /// The name leads to something that is no router of this cluster.
    PointsElsewhere,
    /// Nobody can be connected to at the name's address.
    PortClosed,
    /// The authority gives no more for now.
    LimitReached,
    /// The authority refused.
    Refused,
    /// The authority does not answer.
    AuthorityAway,
    /// Authorities give certificates for wildcards only to who controls the name's DNS.
    Wildcard,
    /// No authority knows such a name: an address, or one of this machine alone.
    NotPublic,
    /// One that this version does not know.
    #[serde(other)]
    Unknown,
}

impl fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => "the name has no address in DNS",
            Self::PointsElsewhere => "DNS points elsewhere",
            Self::PortClosed => "port 80 is closed",
            Self::LimitReached => "the limit of the authority is reached",
            Self::Refused => "the authority refused",
            Self::AuthorityAway => "the authority does not answer",
            Self::Wildcard => "a wildcard's certificate has to be brought with the route",
            Self::NotPublic => "the name is not a public one",
            Self::Unknown => "for a reason that this version does not know",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_of_a_later_version_does_not_hide_the_rest() {
        let told = r#"{"issuer":"automatic","state":"failing","problem":"moon-phase"}"#;
        let status: CertificateStatus = serde_json::from_str(told).unwrap();
        assert_eq!(status.problem, Some(CertificateProblem::Unknown));
    }
}
