//! Requests of clients that are kept at one backend.

use http::{HeaderMap, HeaderValue, header::SET_COOKIE, request::Parts};

use crate::{
    backend::{Backend, Set},
    domain::{
        headers::X_FORWARDED_PROTO,
        sticky::{Brought, Name, cookie, is_set_by_app, take},
    },
    live::Target,
};

/// What a request says of the backend its client is kept at.
#[derive(Debug)]
pub(super) struct Session<'a> {
    target: &'a Target,
    brought: Brought,
    is_secure: bool,
}

impl<'a> Session<'a> {
    /// That of a request whose route keeps its clients; the app does not see the cookie. The head says by which protocol it
    /// came.
    pub(super) fn take(parts: &mut Parts, target: &'a Target) -> Option<Self> {
        target.sticky.as_ref()?;
        let brought = take(&mut parts.headers);
        let is_secure = parts.headers.get(&X_FORWARDED_PROTO).is_some_and(|proto| proto == "https");
        Some(Self { target, brought, is_secure })
    }

    /// Where its client is kept, if that is there.
    pub(super) fn backend(&self, set: &Set) -> Option<usize> {
        let tags = set.tags(self.target.sticky.as_ref()?, self.target.service.name());
        self.brought.tags.iter().find_map(|(_, tag)| tags.get(tag)).copied()
    }

    /// What the client of an answer, with this head, is to be told, unless it knows that it is kept at this backend.
    pub(super) fn cookie(&self, backend: &Backend, answer: &HeaderMap) -> Option<HeaderValue> {
        let keys = self.target.sticky.as_ref()?;
        // Under the newest key.
        let tag = keys.tags(self.target.service.name(), &backend.addr().to_string()).next()?;
        let is_taken = is_set_by_app(answer);
        let known = |name| self.brought.tags.contains(&(name, tag));
        if known(Name::Other) || (known(Name::Usual) && !is_taken) {
            return None;
        }
        let name = if is_taken || self.brought.has_foreign { Name::Other } else { Name::Usual };
        cookie(name, &tag, &self.target.route.path, self.is_secure)
    }
}

/// Adds it to the head of an answer.
pub(super) fn tell(cookie: Option<HeaderValue>, answer: &mut HeaderMap) {
    if let Some(cookie) = cookie {
        answer.append(SET_COOKIE, cookie);
    }
}
