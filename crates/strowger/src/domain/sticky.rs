//! Clients that are kept at one backend: the cookie that names it.
//!
//! It holds a MAC of service and address under a key that all routers of a cluster have. Nothing is stored for it; nobody
//! learns an address from it; and only what a router has made names a backend. When a key is being changed, each router
//! knows what was made with either and makes what is new with the first.

use std::fmt;

use hkdf::{
    Hkdf,
    hmac::{Hmac, Mac},
};
use http::{
    HeaderMap, HeaderValue,
    header::{COOKIE, SET_COOKIE},
};
use sha2::Sha256;

/// The cookie's name, as it was in the original.
const NAME: &str = "_backend";
/// Its name for an app that has a cookie of that name itself.
const OTHER_NAME: &str = "_backend-flynn";
/// How a value begins that a router has made.
const MARK: &str = "f1-";
/// Most of ours that are looked at in one request; a client has one for each route that covers the path.
const LIMIT: usize = 8;

/// What stands for a backend.
pub(crate) type Tag = [u8; 16];

/// The keys that tags are made with.
#[derive(Clone, Default)]
pub(crate) struct Keys(Vec<[u8; 32]>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// From the router's own, separated by commas.
    pub(crate) fn derive(keys: &str) -> Self {
        let keys = keys.split(',').map(str::trim).filter(|key| !key.is_empty());
        let derived = keys.map(|key| {
            let mut derived = [0; 32];
            Hkdf::<Sha256>::new(Some(b"strowger sticky"), key.as_bytes())
                .expand(b"1", &mut derived)
                .expect("32 bytes are within HKDF's limit");
            derived
        });
        Self(derived.collect())
    }

    /// What stands for a backend, under each key.
    pub(crate) fn tags(&self, service: &str, addr: &str) -> impl Iterator<Item = Tag> {
        self.0.iter().map(move |key| {
            let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
            // Neither holds a zero.
            [service.as_bytes(), &[0], addr.as_bytes()].iter().for_each(|part| mac.update(part));
            let mut tag = Tag::default();
            tag.copy_from_slice(&mac.finalize().into_bytes()[..16]);
            tag
        })
    }
}

/// Under which name a cookie of ours came, or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Name {
    /// The usual one.
    Usual,
    /// The one for an app that uses the usual one.
    Other,
}

/// What a request brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Brought {
    /// The tags, in their order.
    pub(crate) tags: Vec<(Name, Tag)>,
    /// Whether the app has a cookie of that name.
    pub(crate) has_foreign: bool,
}

/// One cookie of a request, as far as it matters here.
enum Crumb {
    Ours(Name, Option<Tag>),
    Foreign,
    Any,
}

impl Crumb {
    fn of(crumb: &[u8]) -> Self {
        let Some(at) = crumb.iter().position(|&byte| byte == b'=') else { return Self::Any };
        let (name, value) = (crumb[..at].trim_ascii(), crumb[at + 1..].trim_ascii());
        let name = match name {
            name if name == NAME.as_bytes() => Name::Usual,
            name if name == OTHER_NAME.as_bytes() => Name::Other,
            _ => return Self::Any,
        };
        match value.strip_prefix(MARK.as_bytes()) {
            Some(hex) => {
                let mut tag = Tag::default();
                Self::Ours(name, hex::decode_to_slice(hex, &mut tag).ok().map(|()| tag))
            }
            None if name == Name::Usual => Self::Foreign,
            None => Self::Any,
        }
    }
}

/// Takes our cookies out of a request's head. What is left of its lines is as it was.
pub(crate) fn take(headers: &mut HeaderMap) -> Brought {
    let mut brought = Brought::default();
    let is_named = |line: &HeaderValue| {
        line.as_bytes().windows(NAME.len()).any(|part| part == NAME.as_bytes())
    };
    if !headers.get_all(COOKIE).iter().any(is_named) {
        return brought;
    }
    let lines: Vec<_> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        let mut kept = Vec::with_capacity(line.len());
        for crumb in line.as_bytes().split(|&byte| byte == b';') {
            match Crumb::of(crumb) {
                Crumb::Ours(name, tag) => {
                    let tag = tag.filter(|_| brought.tags.len() < LIMIT);
                    brought.tags.extend(tag.map(|tag| (name, tag)));
                    continue;
                }
                Crumb::Foreign => brought.has_foreign = true,
                Crumb::Any => {}
            }
            if !kept.is_empty() {
                kept.push(b';');
            }
            kept.extend_from_slice(if kept.is_empty() { crumb.trim_ascii_start() } else { crumb });
        }
        if let Ok(kept) = HeaderValue::from_bytes(&kept)
            && !kept.is_empty()
        {
            headers.append(COOKIE, kept);
        }
    }
    brought
}

/// Whether an answer sets a cookie of the usual name.
pub(crate) fn is_set_by_app(headers: &HeaderMap) -> bool {
    headers.get_all(SET_COOKIE).iter().any(|line| {
        let name = line.as_bytes().split(|&byte| byte == b'=').next();
        name.is_some_and(|name| name.trim_ascii() == NAME.as_bytes())
    })
}

/// The line that keeps a client at a backend: as long as its session lasts, out of reach of the app's scripts.
pub(crate) fn cookie(name: Name, tag: &Tag, path: &str, is_secure: bool) -> Option<HeaderValue> {
    let name = if name == Name::Usual { NAME } else { OTHER_NAME };
    let (tag, path) = (hex::encode(tag), cookie_path(path));
    let secure = if is_secure { "; Secure" } else { "" };
    let line = format!("{name}={MARK}{tag}; Path={path}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(line).ok()
}

/// The path of a route, or one above it that can be told in a cookie.
fn cookie_path(path: &str) -> &str {
    let told = match path.split_once(';') {
        Some((before, _)) => before.rsplit_once('/').map_or("", |(above, _)| above),
        None => path,
    };
    if told.is_empty() { "/" } else { told }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (COOKIE, HeaderValue::from_str(line).unwrap())).collect()
    }

    fn tag(keys: &str, service: &str, addr: &str) -> Tag {
        Keys::derive(keys).tags(service, addr).next().unwrap()
    }

    #[test]
    fn a_tag_is_of_one_key_service_and_address_and_tells_none_of_them() {
        let tags = [
            tag("k", "web", "10.0.0.1:80"),
            tag("l", "web", "10.0.0.1:80"),
            tag("k", "api", "10.0.0.1:80"),
            tag("k", "web", "10.0.0.2:80"),
        ];
        assert!(tags.iter().enumerate().all(|(i, tag)| !tags[..i].contains(tag)));
        let both: Vec<_> = Keys::derive("l, k").tags("web", "10.0.0.1:80").collect();
        assert_eq!(both, [tags[1], tags[0]]);
    }

    #[test]
    fn ours_are_taken_out_and_the_apps_are_left() {
        let (one, two) = (hex::encode([1; 16]), hex::encode([2; 16]));
        let mut headers = lines(&[
            &format!("a=b; _backend=f1-{one};c=\"d\"; _backend=mine"),
            &format!("_backend-flynn=f1-{two}"),
            &format!("_backend=f1-nonsense; _backends=f1-{one}; {two}"),
        ]);
        let brought = take(&mut headers);
        let tags = vec![(Name::Usual, [1; 16]), (Name::Other, [2; 16])];
        assert_eq!(brought, Brought { tags, has_foreign: true });
        let left = lines(&["a=b;c=\"d\"; _backend=mine", &format!("_backends=f1-{one}; {two}")]);
        assert_eq!(headers, left);
        let answer = |line: &str| [(SET_COOKIE, line.parse().unwrap())].into_iter().collect();
        assert!(is_set_by_app(&answer("_backend=x; Path=/")));
        assert!(!is_set_by_app(&answer("_backends=x; Path=/")));
    }

    #[test]
    fn a_cookie_is_told_for_the_path_of_its_route() {
        let told = |path, is_secure| cookie(Name::Usual, &[0xab; 16], path, is_secure).unwrap();
        let value = "ab".repeat(16);
        assert_eq!(
            told("", true),
            format!("_backend=f1-{value}; Path=/; HttpOnly; SameSite=Lax; Secure")
        );
        assert_eq!(
            told("/a/b", false),
            format!("_backend=f1-{value}; Path=/a/b; HttpOnly; SameSite=Lax")
        );
        assert_eq!((cookie_path("/a/b;c/d"), cookie_path("/a;b")), ("/a", "/"));
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_the_app_gets_all_that_is_not_ours(
            crumbs in prop::collection::vec("[a-c_]{1,3}=[ -:<-~]{0,6}|_backend=[a-f1-]{0,9}|_backend=f1-[0-9a-f]{32}", 0..6),
        ) {
            let line = crumbs.join(";");
            let mut headers = lines(&[&line]);
            let brought = take(&mut headers);
            let is_ours = |crumb: &&String| crumb.starts_with("_backend=f1-");
            prop_assert!(brought.tags.len() <= crumbs.iter().filter(is_ours).count());
            let left: Vec<_> = crumbs.iter().filter(|crumb| !is_ours(crumb)).map(|crumb| crumb.trim()).collect();
            let passed = headers.get(COOKIE).map(|line| line.to_str().unwrap().to_owned()).unwrap_or_default();
            let passed: Vec<_> = passed.split(';').map(str::trim).filter(|crumb| !crumb.is_empty()).collect();
            prop_assert_eq!(passed, left);
        }
    }
}
