//! What of a request is refused or rewritten because its next reader could read it differently.

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Uri,
    header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING},
};

use super::{
    headers::{Refusal, X_REQUEST_ID, X_REQUEST_START},
    host,
};

/// Refuses a target that RFC 9112 §3.2 does not have. What browsers send although RFC 3986 forbids it, as the braces and bars
/// of their queries, is taken; what they do not send `http` refuses, but for quotes and letters that are not ASCII.
pub(crate) fn check_target(method: &Method, uri: &Uri) -> Result<(), Refusal> {
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    if target == "*" && method != Method::OPTIONS {
        return Err(Refusal(400, "Only OPTIONS is for all of a server."));
    }
    if !target.is_ascii() || target.contains('"') {
        return Err(Refusal(400, "The request's target has characters that are not encoded."));
    }
    Ok(())
}

/// Refuses an absolute target of HTTP/1 that is not for this server, and one beside a `Host` that is none (RFC 9110 §7.4,
/// RFC 9112 §3.2).
pub(crate) fn check_absolute(
    uri: &Uri,
    headers: &HeaderMap,
    is_secure: bool,
) -> Result<(), Refusal> {
    if uri.host().is_none_or(str::is_empty) {
        return Err(Refusal(400, "The request's host is not one."));
    }
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") if is_secure => {}
        Some("https") => return Err(Refusal(421, "The request was not sent over HTTPS.")),
        _ => return Err(Refusal(400, "The request's target is not one of HTTP.")),
    }
    match headers.get(HOST) {
        Some(host) if host::canonical(host.as_bytes()).is_none() => {
            Err(Refusal(400, "The request's host is not one."))
        }
        _ => Ok(()),
    }
}

/// Refuses what a client expects, if it is anything but to be told to go on (RFC 9110 §10.1.1).
pub(crate) fn check_expectation(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut expected = headers.get_all(EXPECT).iter();
    match expected.all(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        true => Ok(()),
        false => Err(Refusal(417, "The only expectation met is 100-continue.")),
    }
}

/// Removes headers that become one which frames, or which this router vouches for, where `_` and `-` are the same: CGI and
/// its heirs make the name of a variable of both.
pub(crate) fn drop_aliases(headers: &mut HeaderMap) {
    let is_alias = |name: &&HeaderName| name.as_str().contains('_') && is_vouched_for(name);
    // Nearly no head has one.
    let Some(first) = headers.keys().find(is_alias) else { return };
    let mut alias = Some(first.clone());
    while let Some(name) = alias {
        headers.remove(name);
        alias = headers.keys().find(is_alias).cloned();
    }
}

fn is_vouched_for(name: &HeaderName) -> bool {
    let name = name.as_str().replace('_', "-");
    let ours = [&CONTENT_LENGTH, &TRANSFER_ENCODING, &X_REQUEST_ID, &X_REQUEST_START];
    name.starts_with("x-forwarded-") || ours.iter().any(|one| one.as_str() == name)
}

/// Writes a length without zeros before it: some readers take such a number as octal. It is a number already.
pub(crate) fn plain_length(headers: &mut HeaderMap) {
    let Some(length) = headers.get(CONTENT_LENGTH).map(HeaderValue::as_bytes) else { return };
    let zeros = length.iter().take_while(|byte| **byte == b'0').count();
    let zeros = zeros.min(length.len().saturating_sub(1));
    if zeros > 0
        && let Ok(plain) = HeaderValue::from_bytes(&length[zeros..])
    {
        headers.insert(CONTENT_LENGTH, plain);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_target_has_what_browsers_send_and_a_star_is_for_options() {
        let check = |method: Method, target: &str| check_target(&method, &target.parse().unwrap());
        for good in ["/", "/?a[0]={b}|c^d", "/%c3%bc", "/a|b", "http://a/?q"] {
            assert_eq!(check(Method::GET, good), Ok(()), "{good}");
        }
        for bad in ["/\"", "/\u{fc}", "/?\u{fc}", "http://a/\u{fc}", "*"] {
            assert_eq!(check(Method::GET, bad).unwrap_err().0, 400, "{bad}");
        }
        assert_eq!(check(Method::OPTIONS, "*"), Ok(()));
    }

    #[test]
    fn an_absolute_target_is_for_this_server() {
        let check = |target: &str, host: &'static str, is_secure| {
            let result =
                check_absolute(&target.parse().unwrap(), &headers(&[("host", host)]), is_secure);
            result.map_err(|refusal| refusal.0)
        };
        assert_eq!(check("http://a/", "b", false), Ok(()));
        assert_eq!(check("http://a/", "b", true), Ok(()));
        assert_eq!(check("https://a/", "a", true), Ok(()));
        assert_eq!(check("https://a/", "a", false), Err(421));
        assert_eq!(check("http://:80/", "a", false), Err(400));
        assert_eq!(check("ftp://a/", "a", false), Err(400));
        assert_eq!(check("http://a/", "a b", false), Err(400));
    }

    #[test]
    fn nothing_but_to_go_on_is_expected() {
        for good in [&[][..], &[("expect", "100-Continue")]] {
            assert_eq!(check_expectation(&headers(good)), Ok(()));
        }
        for bad in ["", "100-continue, x", "a-miracle"] {
            assert_eq!(check_expectation(&headers(&[("expect", bad)])).unwrap_err().0, 417);
        }
    }

    #[test]
    fn a_name_that_an_app_takes_for_ours_is_dropped() {
        let mut all = headers(&[
            ("content_length", "1"),
            ("x_forwarded-for", "1"),
            ("x-request_id", "1"),
            ("x_request_id", "1"),
            ("x_request_id", "2"),
            ("my_header", "1"),
            ("x-request-id", "1"),
        ]);
        drop_aliases(&mut all);
        assert_eq!(all, headers(&[("my_header", "1"), ("x-request-id", "1")]));
    }

    proptest! {
        #[test]
        fn a_length_stays_the_same_number(zeros in 0..30usize, number: u64) {
            let value = "0".repeat(zeros) + &number.to_string();
            let mut all = HeaderMap::new();
            all.insert(CONTENT_LENGTH, HeaderValue::try_from(value).unwrap());
            plain_length(&mut all);
            prop_assert_eq!(all[CONTENT_LENGTH].to_str().unwrap(), number.to_string());
        }
    }
}
