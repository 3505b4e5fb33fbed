//! From when to when a certificate holds.

use jiff::Timestamp;
use rustls::sign::CertifiedKey;
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, tags::TAG_UTCTIME};

/// The lifetime of a certificate, in its own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
}

/// It does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("does not tell from when to when it holds")]
pub(crate) struct ValidityError;

/// The lifetime of a leaf.
pub(crate) fn validity(pair: &CertifiedKey) -> Result<Validity, ValidityError> {
    let leaf = pair.end_entity_cert().map_err(|_| ValidityError)?;
    parse(leaf).ok_or(ValidityError)
}

/// RFC 5280 §4.1: of a certificate, the fifth field of its first.
fn parse(der: &[u8]) -> Option<Validity> {
    let (not_before, not_after) = yasna::parse_der(der, |certificate| {
        certificate.read_sequence(|certificate| {
            let validity = certificate.next().read_sequence(|body| {
                // Version, with a tag of its own, and serial number, algorithm, issuer.
                for _ in 0..4 {
                    body.next().read_der()?;
                }
                let validity = body.next().read_sequence(|validity| {
                    Ok((time(validity.next())?, time(validity.next())?))
                })?;
                while body.read_optional(|field| field.read_der())?.is_some() {}
                Ok(validity)
            })?;
            // Algorithm and signature.
            certificate.next().read_der()?;
            certificate.next().read_der()?;
            Ok(validity)
        })
    })
    .ok()?;
    Some(Validity { not_before, not_after })
}

fn time(reader: BERReader<'_, '_>) -> ASN1Result<Timestamp> {
    let second = if reader.lookahead_tag()? == TAG_UTCTIME {
        reader.read_utctime()?.datetime().unix_timestamp()
    } else {
        reader.read_generalized_time()?.datetime().unix_timestamp()
    };
    Timestamp::from_second(second).map_err(|_| ASN1Error::new(ASN1ErrorKind::Invalid))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_ways_to_write_a_time_are_read() {
        let mut params = rcgen::CertificateParams::new(["a.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 12, 1);
        params.not_after = rcgen::date_time_ymd(2050, 1, 1);
        let made = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let told = parse(made.der()).unwrap();
        assert_eq!(told.not_before, "2026-12-01T00:00:00Z".parse().unwrap());
        assert_eq!(told.not_after, "2050-01-01T00:00:00Z".parse().unwrap());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(der in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&der);
        }
    }
}
