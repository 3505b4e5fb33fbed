//! Which names a certificate is ordered for.

use std::{collections::BTreeMap, net::IpAddr};

use api::certificate::CertificateProblem;
use rustls::{client::verify_server_name, server::ParsedCertificate, sign::CertifiedKey};
use rustls_pki_types::ServerName;

use crate::live::Table;

/// The domains of http routes without a certificate of their own, and why none is ordered for some of them.
pub(crate) fn wanted(table: &Table) -> BTreeMap<String, Option<CertificateProblem>> {
    let http = table.all.iter().map(|target| &target.route).filter(|route| route.kind == "http");
    let lacking = http.filter(|route| !is_covered(table, &route.domain));
    lacking.map(|route| (route.domain.clone(), problem(&route.domain))).collect()
}

/// Whether a route brings a certificate for the domain: one of that very domain, or one of a wildcard that holds for it.
fn is_covered(table: &Table, domain: &str) -> bool {
    let own = table.certificates.get(domain).is_some();
    own || table.certificates.matches(domain).next().is_some_and(|found| holds_for(found, domain))
}

fn holds_for(certificate: &CertifiedKey, name: &str) -> bool {
    let parsed = certificate.end_entity_cert().ok().map(ParsedCertificate::try_from);
    let Some(Ok(parsed)) = parsed else { return false };
    ServerName::try_from(name).is_ok_and(|name| verify_server_name(&parsed, &name).is_ok())
}

/// Why no authority gives a certificate for a domain.
fn problem(domain: &str) -> Option<CertificateProblem> {
    if domain.contains('*') {
        return Some(CertificateProblem::Wildcard);
    }
    let is_local = !domain.contains('.') || domain.ends_with(".localhost");
    let is_name = ServerName::try_from(domain).is_ok() && !domain.contains('_');
    if domain.parse::<IpAddr>().is_ok() || is_local || !is_name {
        return Some(CertificateProblem::NotPublic);
    }
    None
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use api::route::Route;

    use super::*;
    use crate::{
        live::{Live, Target},
        tls,
    };

    fn table(routes: &[(&str, Option<&str>)]) -> Table {
        let (live, mut table) = (Live::default(), Table::default());
        for (domain, holds_for) in routes {
            let route = Route { kind: "http".into(), domain: (*domain).into(), ..Route::default() };
            let certificate = holds_for.map(|name| {
                let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
                tls::certified(&made.cert.pem(), &made.signing_key.serialize_pem()).unwrap()
            });
            if let Some(certificate) = &certificate {
                table.certificates.insert(domain, certificate.clone());
            }
            let target =
                Target::new(route, live.services.service("app"), certificate, &live.sticky);
            table.all.push(Arc::new(target));
        }
        table
    }

    #[test]
    fn what_has_a_certificate_needs_none_and_what_is_not_public_gets_none() {
        let table = table(&[
            ("own.example", Some("own.example")),
            ("odd.example", Some("other.example")),
            ("*.apps.example", Some("*.apps.example")),
            ("a.apps.example", None),
            ("a.b.apps.example", None),
            ("plain.example", None),
            ("*.plain.example", None),
            ("127.0.0.1", None),
            ("localhost", None),
            ("app.localhost", None),
            ("under_score.example", None),
        ]);
        use CertificateProblem::{NotPublic, Wildcard};
        let wanted: Vec<_> = wanted(&table).into_iter().collect();
        let expected = [
            ("*.plain.example", Some(Wildcard)),
            ("127.0.0.1", Some(NotPublic)),
            ("a.b.apps.example", None),
            ("app.localhost", Some(NotPublic)),
            ("localhost", Some(NotPublic)),
            ("plain.example", None),
            ("under_score.example", Some(NotPublic)),
        ];
        assert_eq!(wanted, expected.map(|(name, problem)| (name.to_owned(), problem)));
    }
}
