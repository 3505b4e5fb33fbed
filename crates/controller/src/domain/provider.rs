//! What a provider may be called and where it may be; what it may answer.

use std::collections::BTreeMap;

use api::id::ProviderId;
use percent_encoding::percent_decode_str;
use serde_json::Value;
use url::Url;

use super::release::check_env;
use crate::error::{Error, Result};

/// Longest name of a provider.
const NAME_LEN_MAX: usize = 100;
/// Longest URL of a provider: it is in an index.
const URL_LEN_MAX: usize = 2000;
/// Longest id a provider may give what it made: it is in an index, too.
const ID_LEN_MAX: usize = 1000;
/// Before the URL of a service inside the cluster.
const SERVICE: &str = "discoverd+";

/// Where a provider is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// At any instance of a service of the cluster.
    Service(String),
    /// At this origin.
    Origin(String),
}

fn bad_url(why: &str) -> Error {
    let message = format!(
        "cannot be used ({why}): give discoverd+http://<service>/<path>, or an http URL with a host"
    );
    Error::invalid("url", message)
}

/// A URL, and whether it names a service of the cluster.
fn parsed(url: &str) -> Result<(Url, bool)> {
    let service = url.strip_prefix(SERVICE);
    let parsed = Url::parse(service.unwrap_or(url)).map_err(|err| bad_url(&err.to_string()))?;
    Ok((parsed, service.is_some()))
}

/// Where a provider is asked, and under which path.
pub(crate) fn parse_url(url: &str) -> Result<(Place, String)> {
    let (parsed, is_service) = parsed(url)?;
    if !["http", "https"].contains(&parsed.scheme()) {
        return Err(bad_url("it is neither http nor https"));
    }
    let host = parsed.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| bad_url("it names no host"))?;
    let place = match is_service {
        true => Place::Service(host.to_owned()),
        false => Place::Origin(parsed.origin().ascii_serialization()),
    };
    Ok((place, parsed.path().to_owned()))
}

/// A URL without the user and the password in it, which those of old providers may have, and the password.
pub(crate) fn split_password(url: &str) -> (String, Option<String>) {
    let Ok((mut parsed, is_service)) = parsed(url) else {
        // Nobody is asked there.
        return (url.split('@').next_back().unwrap_or_default().to_owned(), None);
    };
    if parsed.username().is_empty() && parsed.password().is_none() {
        return (url.to_owned(), None);
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let password = parsed.password().map(decode);
    // It has a host.
    let _ = (parsed.set_username(""), parsed.set_password(None));
    (format!("{}{parsed}", if is_service { SERVICE } else { "" }), password)
}

/// The same for URLs that lead to the same place, however they are spelt. Names and addresses of one host stay two.
pub(crate) fn canonical_url(url: &str) -> String {
    let (shown, _) = split_password(url);
    let Ok((place, path)) = parse_url(&shown) else { return shown };
    let path = percent_decode_str(path.trim_end_matches('/')).decode_utf8_lossy().into_owned();
    match place {
        Place::Service(service) => format!("{SERVICE}{service}{path}"),
        Place::Origin(origin) => format!("{origin}{path}"),
    }
}

/// Checks the URL of a new provider.
pub(crate) fn check_url(url: &str) -> Result<()> {
    if url.len() > URL_LEN_MAX {
        return Err(Error::invalid("url", format!("is longer than {URL_LEN_MAX} bytes")));
    }
    if url.contains(['?', '#']) {
        let message = "must have no query and no fragment: the path alone is asked";
        return Err(Error::invalid("url", message));
    }
    let (parsed_url, is_service) = parsed(url)?;
    if !parsed_url.username().is_empty() || parsed_url.password().is_some() {
        let message =
            "must hold no user and no password: give what the provider wants with --key (\"key\")";
        return Err(Error::invalid("url", message));
    }
    if is_service && parsed_url.port().is_some() {
        let message = "must name no port: the instances of a service of the cluster have theirs";
        return Err(Error::invalid("url", message));
    }
    parse_url(url).map(drop)
}

/// Checks the name of a new provider: it is a part of paths, and must not be taken for an id.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let bad = |message: &str| Err(Error::invalid("name", message));
    if name.trim().is_empty() {
        return bad("must not be blank");
    }
    if name.chars().count() > NAME_LEN_MAX {
        return bad(&format!("must have at most {NAME_LEN_MAX} characters"));
    }
    if [".", ".."].contains(&name) || name.contains('/') || name.contains(char::is_control) {
        return bad("must be a part of a path: not . or .., without / and control characters");
    }
    if name.parse::<ProviderId>().is_ok() {
        return bad("must not look like an id (a UUID): providers are found by their ids, too");
    }
    Ok(())
}

/// What a provider says that it made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// The provider's id, by which it can be destroyed.
    pub(crate) id: String,
    /// How to reach it; or what is wrong with that.
    pub(crate) env: Result<BTreeMap<String, String>, String>,
}

/// Understands the answer of a provider that was asked for something. The error is what is wrong with it, where it gives no
/// id: values are never repeated, for they are secrets.
pub(crate) fn parse_made(answer: &Value) -> Result<Made, String> {
    let id = match answer.get("id") {
        Some(Value::String(id)) if !id.is_empty() => id,
        Some(Value::String(_)) => return Err("its id is empty".into()),
        Some(_) => return Err("its id is no text".into()),
        None => return Err("it has no id".into()),
    };
    let env = match answer.get("env") {
        _ if id.contains('\0') => Err("its id holds a NUL character and cannot be stored".into()),
        _ if id.len() > ID_LEN_MAX => Err(format!("its id is longer than {ID_LEN_MAX} bytes")),
        Some(Value::Object(env)) => env
            .iter()
            .map(|(name, value)| match value {
                Value::String(value) => Ok((name.clone(), value.clone())),
                _ => Err(format!("the value of {name:?} in its env is no text")),
            })
            .collect(),
        Some(_) => Err("its env is no object".into()),
        None => Err("it has no env".into()),
    };
    let checked = |env| match check_env("env", &env) {
        Ok(()) => Ok(env),
        Err(err) => Err(format!("it cannot be stored: its {err}")),
    };
    Ok(Made { id: id.clone(), env: env.and_then(checked) })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_url_that_cannot_be_asked_is_refused() {
        let bad = ["http://a b/", "http://", "http://:80/", "http://[::1/", "discoverd+http://"];
        for url in bad.into_iter().chain(["", "boxes", "ftp://x/", "/path", "http://x/?a=b"]) {
            assert!(check_url(url).is_err(), "{url}");
        }
        let secrets = ["http://me:secret@x/y", "http:/me:secret@x/y", "HTTP:/\\me@x/y"];
        for url in secrets {
            assert!(check_url(url).unwrap_err().to_string().contains("--key"), "{url}");
        }
        assert!(check_url("discoverd+http://boxes-web:77/").is_err());
        for url in ["http://x", "https://x:8/y", "discoverd+http://boxes-web/boxes"] {
            check_url(url).unwrap();
        }
        assert!(check_url(&format!("http://x/{}", "y".repeat(2000))).is_err());
    }

    #[test]
    fn a_provider_is_asked_where_its_url_says() {
        let service = parse_url("discoverd+http://boxes-web/boxes").unwrap();
        assert_eq!(service, (Place::Service("boxes-web".into()), "/boxes".into()));
        let other = parse_url("https://x:8/y").unwrap();
        assert_eq!(other, (Place::Origin("https://x:8".into()), "/y".into()));
    }

    #[test]
    fn the_password_in_an_old_url_is_not_shown_and_is_said_as_it_is() {
        for (url, shown, password) in [
            ("http://me:p%40ss@db.example/x@y", "http://db.example/x@y", Some("p@ss")),
            ("http:/me:pw@h/x", "http://h/x", Some("pw")),
            ("HTTP:/\\me:pw@h/x", "http://h/x", Some("pw")),
            ("discoverd+http://me:pw@pg/dbs", "discoverd+http://pg/dbs", Some("pw")),
            ("discoverd+http://pg/dbs", "discoverd+http://pg/dbs", None),
            ("http://me:pw@a b/", "a b/", None),
        ] {
            assert_eq!(split_password(url), (shown.into(), password.map(str::to_owned)), "{url}");
        }
    }

    #[test]
    fn spellings_of_one_url_lead_to_one_place() {
        let one = canonical_url("http://127.0.0.1:80/twin");
        let same = [
            "http://127.0.0.1/twin/",
            "HTTP://127.0.0.1/./twin",
            "http://127.1:080/%74win",
            "http://me:pw@127.0.0.1/twin",
        ];
        for url in same {
            assert_eq!(canonical_url(url), one, "{url}");
        }
        for url in ["http://127.0.0.1/other", "https://127.0.0.1/twin", "discoverd+http://a/twin"] {
            assert_ne!(canonical_url(url), one, "{url}");
        }
    }

    #[test]
    fn a_name_is_a_part_of_a_path_and_no_id() {
        let id = ProviderId::random().to_string();
        let long = "x".repeat(101);
        for name in ["", " ", ".", "..", "a/b", "a\0", "a\n", &id, &long] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["things", "my things", "...", "ü", &"ü".repeat(100)] {
            check_name(name).unwrap();
        }
    }

    #[test]
    fn of_a_bad_answer_it_is_said_what_is_wrong_and_its_id_is_known_where_it_has_one() {
        let nothing =
            [json!(null), json!({}), json!([]), json!({"id": ""}), json!({"id": 1, "env": {}})];
        for answer in nothing {
            assert!(parse_made(&answer).is_err(), "{answer}");
        }
        let envs = [
            json!(null),
            json!([]),
            json!({"A": 1}),
            json!({"": "x"}),
            json!({"A=B": "x"}),
            json!({"A\0": "x"}),
            json!({"A": "secret\0"}),
        ];
        for env in envs {
            let made = parse_made(&json!({"id": "x", "env": env})).unwrap();
            let why = made.env.unwrap_err();
            assert!(made.id == "x" && !why.contains("secret"), "{why}");
        }
        let made = parse_made(&json!({"id": "a\0b", "env": {}})).unwrap();
        assert!(made.env.unwrap_err().contains("NUL"));
        let made = parse_made(&json!({"id": "x", "env": {"A": "b"}, "more": 1})).unwrap();
        assert_eq!(made.env.unwrap()["A"], "b");
    }
}
