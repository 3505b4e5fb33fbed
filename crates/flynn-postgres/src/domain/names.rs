//! Names of roles and databases.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// A provisioned database and its role: `/databases/<user>:<database>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseId {
    /// The role that owns it.
    pub user: Name,
    /// The database.
    pub database: Name,
}

/// A name of 32 lower-case hex digits. Nothing else is ever put into SQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    /// The name made of these random bytes.
    pub fn of(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes))
    }

    /// As an SQL identifier, quotes included.
    pub fn quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }

    /// As an SQL literal, quotes included.
    pub fn literal(&self) -> String {
        format!("'{}'", self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// It is not the id of a database made here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not /databases/<user>:<database> with 32 hex digits each")]
pub struct BadId;

impl FromStr for Name {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 32 && text.bytes().all(digit) { Ok(Self(text.into())) } else { Err(BadId) }
    }
}

impl FromStr for DatabaseId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let (user, database) =
            text.strip_prefix("/databases/").and_then(|rest| rest.split_once(':')).ok_or(BadId)?;
        Ok(Self { user: user.parse()?, database: database.parse()? })
    }
}

impl fmt::Display for DatabaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/databases/{}:{}", self.user, self.database)
    }
}

/// The environment of an app that uses a database.
pub fn env(id: &DatabaseId, password: &Name, host: &str, port: u16) -> BTreeMap<String, String> {
    let DatabaseId { user, database } = id;
    let url = format!("postgres://{user}:{password}@{host}:{port}/{database}");
    [
        ("FLYNN_POSTGRES", "postgres".to_owned()),
        ("PGHOST", host.to_owned()),
        ("PGPORT", port.to_string()),
        ("PGUSER", user.to_string()),
        ("PGPASSWORD", password.to_string()),
        ("PGDATABASE", database.to_string()),
        ("DATABASE_URL", url),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_id_is_read_back(user: [u8; 16], database: [u8; 16]) {
            let id = DatabaseId { user: Name::of(user), database: Name::of(database) };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn nothing_that_needs_quoting_is_a_name(text in "\\PC*|/databases/\\PC{32}:\\PC{32}") {
            if let Ok(name) = text.parse::<Name>() {
                prop_assert!(name.to_string().bytes().all(|b| b.is_ascii_alphanumeric()));
            }
            let _ = text.parse::<DatabaseId>();
        }
    }

    #[test]
    fn an_app_gets_all_it_needs_to_connect() {
        let id = DatabaseId { user: Name::of([1; 16]), database: Name::of([2; 16]) };
        let env = env(&id, &Name::of([3; 16]), "postgres.discoverd", 5432);
        let (one, two, three) = ("01".repeat(16), "02".repeat(16), "03".repeat(16));
        assert_eq!(
            env["DATABASE_URL"],
            format!("postgres://{one}:{three}@postgres.discoverd:5432/{two}")
        );
        assert_eq!(env["PGPORT"], "5432");
        assert!("/databases/x:y".parse::<DatabaseId>().is_err());
    }
}
