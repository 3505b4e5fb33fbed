//! Why no certificate came of a try.

use std::{error::Error as _, time::Duration};

use api::certificate::CertificateProblem;
use instant_acme::{Error, Problem};

use super::records::RecordError;

/// What every type of problem of RFC 8555 begins with.
const TYPES: &str = "urn:ietf:params:acme:error:";
/// Longest detail that is kept, in bytes.
const DETAIL_MAX: usize = 500;

/// A try that came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) problem: CertificateProblem,
    pub(crate) detail: String,
    /// How long the authority asked to wait.
    pub(crate) asked: Option<Duration>,
    /// Whether the order, if there was one, cannot come to anything any more.
    pub(crate) ends_order: bool,
}

/// How a try ended that brought no certificate.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It failed.
    Failed(Failure),
    /// etcd was away, or another router orders now: nothing is known of how it would have ended.
    Interrupted(keyspace::Error),
    /// The routers have ordered as much as they may for now.
    Postponed,
}

impl From<keyspace::Error> for Ended {
    fn from(err: keyspace::Error) -> Self {
        Self::Interrupted(err)
    }
}

impl From<RecordError> for Ended {
    fn from(err: RecordError) -> Self {
        // A key of another STROWGER_KEY, or what another version wrote: what is made anew can be read.
        Failure::new(CertificateProblem::Unknown, err.to_string()).ending().into()
    }
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Failure {
    pub(crate) fn new(problem: CertificateProblem, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        detail.truncate(detail.floor_char_boundary(DETAIL_MAX));
        Self { problem, detail, asked: None, ends_order: false }
    }

    /// The same, and the order is over.
    pub(crate) fn ending(self) -> Self {
        Self { ends_order: true, ..self }
    }

    /// What an authority, or the way to it, said.
    pub(crate) fn of(err: &Error, asked: Option<Duration>) -> Self {
        let failure = match err {
            Error::Api(problem) => Self::of_problem(problem),
            Error::Other(_) | Error::Http(_) | Error::Json(_) | Error::Timeout(_) => {
                Self::new(CertificateProblem::AuthorityAway, with_causes(err))
            }
            _ => Self::new(CertificateProblem::Refused, with_causes(err)),
        };
        Self { asked, ..failure }
    }

    /// What an authority found wrong.
    pub(crate) fn of_problem(problem: &Problem) -> Self {
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.strip_prefix(TYPES).unwrap_or(kind);
        let subproblems = problem.subproblems.iter().filter_map(|sub| sub.detail.clone());
        let details: Vec<_> = problem.detail.clone().into_iter().chain(subproblems).collect();
        let detail = if details.is_empty() { kind.to_owned() } else { details.join("; ") };
        let (said, ends_order) = match kind {
            "rateLimited" => (CertificateProblem::LimitReached, false),
            "serverInternal" => (CertificateProblem::AuthorityAway, false),
            "badNonce" => (CertificateProblem::AuthorityAway, false),
            "connection" => (CertificateProblem::PortClosed, true),
            "dns" => (CertificateProblem::NoAddress, true),
            "unauthorized" | "incorrectResponse" => (CertificateProblem::PointsElsewhere, true),
            _ => (CertificateProblem::Refused, true),
        };
        Self { ends_order, ..Self::new(said, detail) }
    }
}

fn with_causes(err: &Error) -> String {
    let causes = std::iter::successors(err.source(), |err| (**err).source());
    causes.fold(err.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_authority_says_is_told_in_our_words_with_its_own() {
        let said = |kind: &str| {
            let json = format!(r#"{{"type":"{TYPES}{kind}","detail":"because","status":400}}"#);
            Failure::of_problem(&serde_json::from_str(&json).unwrap())
        };
        use CertificateProblem::{LimitReached, NoAddress, PortClosed, Refused};
        assert_eq!(said("rateLimited").problem, LimitReached);
        assert!(!said("rateLimited").ends_order);
        assert_eq!(said("connection").problem, PortClosed);
        assert_eq!(said("dns").problem, NoAddress);
        let refused = said("rejectedIdentifier");
        assert_eq!((refused.problem, refused.detail.as_str()), (Refused, "because"));
        assert!(refused.ends_order);
    }

    #[test]
    fn a_long_detail_is_cut() {
        let long = Failure::new(CertificateProblem::Refused, "\u{fc}".repeat(DETAIL_MAX));
        assert!(long.detail.len() <= DETAIL_MAX);
    }
}
