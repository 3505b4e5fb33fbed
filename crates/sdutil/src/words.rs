//! Words of the command line. Pure.

use std::str::FromStr;

/// A service offered at a port: `name:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The service.
    pub service: String,
    /// The port.
    pub port: u16,
}

impl FromStr for Offer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (service, port) = text.rsplit_once(':').ok_or("write it as name:port")?;
        let port = port.parse().map_err(|_| "the port must be a number from 1 to 65535")?;
        match (service, port) {
            ("", _) => Err("the name is missing: write it as name:port"),
            (_, 0) => Err("the port must be a number from 1 to 65535"),
            (service, port) => Ok(Self { service: service.into(), port }),
        }
    }
}

/// A service that is needed, and the variable for its leader's address: `[VAR:]service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// The variable.
    pub variable: String,
    /// The service.
    pub service: String,
}

impl FromStr for Needed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (variable, service) = text.split_once(':').unwrap_or((text, text));
        let unusable = variable.contains(['=', '\0']);
        if variable.is_empty() || service.is_empty() || unusable {
            return Err("write it as service or VAR:service");
        }
        Ok(Self { variable: variable.into(), service: service.into() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_variable_is_named_as_the_service_if_nothing_is_said() {
        let needed = |variable: &str, service: &str| {
            Ok(Needed { variable: variable.into(), service: service.into() })
        };
        assert_eq!("pg".parse(), needed("pg", "pg"));
        assert_eq!("DB:pg".parse(), needed("DB", "pg"));
        assert!("DB:".parse::<Needed>().is_err());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,30}") {
            let _ = text.parse::<Needed>();
            let _ = text.parse::<Offer>();
        }

        #[test]
        fn an_offer_reads_back(name in "[a-z][a-z0-9-]{0,9}", port in 1u16..) {
            let offer = format!("{name}:{port}").parse();
            prop_assert_eq!(offer, Ok(Offer { service: name, port }));
        }
    }
}
