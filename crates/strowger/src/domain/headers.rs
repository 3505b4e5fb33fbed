//! What a proxy changes in a message's head. Source: RFC 9110 §7.6.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, FORWARDED, HOST, MAX_FORWARDS,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
};

use super::strict::{drop_aliases, plain_length};

/// Most lines of a head, from either side: apps set more cookies than the hundred lines that hyper takes.
pub(crate) const HEADERS_MAX: usize = 512;
/// Most bytes of a head, from either side.
pub(crate) const HEAD_MAX: usize = 64 << 10;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
static HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// Who sent the request.
pub(crate) static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `http` or `https`.
pub(crate) static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The port it came to.
pub(crate) static X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
/// The request's id.
pub(crate) static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// When it came, in milliseconds since 1970.
pub(crate) static X_REQUEST_START: HeaderName = HeaderName::from_static("x-request-start");

/// Removes what concerns one connection only. A request to switch protocols is told from the head before.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in connection_options(headers) {
            headers.remove(name);
        }
        headers.remove(CONNECTION);
        headers.remove(&KEEP_ALIVE);
        headers.remove(UPGRADE);
    }
    headers.remove(&PROXY_CONNECTION);
    headers.remove(&HTTP2_SETTINGS);
    headers.remove(TRANSFER_ENCODING);
    headers.remove(PROXY_AUTHORIZATION);
    headers.remove(PROXY_AUTHENTICATE);
    keep_trailers(headers);
    headers.remove(&KEEP_ALIVE);
    headers.remove(UPGRADE);
}

/// Reduces `TE` to what is passed on, if it is asked for: trailers, not codings.
fn keep_trailers(headers: &mut HeaderMap) {
    let values = headers.get_all(TE).iter().filter_map(|value| value.to_str().ok());
    let mut codings = values.flat_map(|value| value.split(',')).map(str::trim);
    let is_asked_for = codings.any(|coding| coding.eq_ignore_ascii_case("trailers"));
    if headers.remove(TE).is_some() && is_asked_for {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// The headers that `Connection` names, but for those whose removal would change the message or whose it is.
fn connection_options(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let options = values.flat_map(|value| value.split(',')).map(str::trim);
    let usual = |option: &&str| {
        !option.eq_ignore_ascii_case("keep-alive") && !option.eq_ignore_ascii_case("close")
    };
    let names = options.filter(usual).filter_map(|option| option.parse().ok());
    names.filter(|name: &HeaderName| !belongs_in_head(name)).collect()
}

/// Counts down how many proxies an `OPTIONS` or `TRACE` may still pass, or refuses one that may pass no more (RFC 9110
/// §7.6.2).
pub(crate) fn count_down(headers: &mut HeaderMap) -> Result<(), Refusal> {
    let Some(left) = headers.get(MAX_FORWARDS) else { return Ok(()) };
    // What is no number counts nothing.
    let Some(left) = left.to_str().ok().and_then(|left| left.parse::<u32>().ok()) else {
        return Ok(());
    };
    let Some(left) = left.checked_sub(1) else {
        return Err(Refusal(
            405,
            "The request may not be passed on, and is none that a router answers.",
        ));
    };
    headers.insert(MAX_FORWARDS, left.into());
    Ok(())
}

/// Removes from trailers what would change how a message is framed, where it leads or for whom it is, were its receiver to
/// join them with the head (RFC 9110 §6.5.1).
pub(crate) fn clean_trailers(trailers: &mut HeaderMap) {
    let of_head = trailers.keys().filter(|name| belongs_in_head(name)).cloned();
    for name in of_head.collect::<Vec<_>>() {
        trailers.remove(name);
    }
    drop_aliases(trailers);
}

fn belongs_in_head(name: &HeaderName) -> bool {
    let ours = [&KEEP_ALIVE, &PROXY_CONNECTION, &HTTP2_SETTINGS, &X_REQUEST_ID, &X_REQUEST_START];
    matches!(
        *name,
        CONTENT_LENGTH | TRANSFER_ENCODING | TRAILER | TE | CONNECTION | UPGRADE | HOST | FORWARDED
    ) || matches!(
        *name,
        COOKIE | SET_COOKIE | AUTHORIZATION | PROXY_AUTHORIZATION | PROXY_AUTHENTICATE
    ) || ours.contains(&name)
        || name.as_str().starts_with("x-forwarded-")
}

/// Whether a head exceeds the limit of lines or bytes; `before` is the length in bytes of its first line. The limits of the
/// parsers do not suffice: for HTTP/2 there is none for lines, and for HTTP/1 a head that one read brings is taken whole.
pub(crate) fn is_too_large(headers: &HeaderMap, before: usize) -> bool {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    headers.len() > HEADERS_MAX || before + headers.iter().map(line).sum::<usize>() > HEAD_MAX
}

/// Makes one line of the cookies of an HTTP/2 client, which may send each in a line of its own (RFC 9113 §8.2.3): servers of
/// HTTP/1 join lines with a comma, and lose all cookies but the first.
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let Some((first, second)) = lines.next().zip(lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

/// Makes a backend's head the one a client gets. Refuses one whose body the client could not read: only the chunks are
/// decoded on the way (RFC 9112 §6.1, §6.3).
pub(crate) fn clean_answer(headers: &mut HeaderMap) -> Result<(), &'static str> {
    if is_too_large(headers, 0) {
        return Err("its head is too large");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if let Some(coding) = codings.next() {
        if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
            return Err("its Transfer-Encoding is not chunked alone");
        }
        // The chunks say how long it is; a length beside them may be another.
        headers.remove(CONTENT_LENGTH);
    }
    one_length(headers)?;
    strip_hop_by_hop(headers);
    Ok(())
}

/// Makes one number of a length that is told several times, as `5, 5` (RFC 9110 §8.6).
fn one_length(headers: &mut HeaderMap) -> Result<(), &'static str> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lines.next() else { return Ok(()) };
    let is_number = |bytes: &[u8]| !bytes.is_empty() && bytes.iter().all(u8::is_ascii_digit);
    if lines.next().is_none() && is_number(first.as_bytes()) {
        plain_length(headers);
        return Ok(());
    }
    let lines = headers.get_all(CONTENT_LENGTH).iter();
    let mut lengths = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    let length = lengths.next().unwrap_or_default().trim_ascii();
    if !is_number(length) || lengths.any(|other| other.trim_ascii() != length) {
        return Err("its Content-Length is not one number");
    }
    let length = HeaderValue::from_bytes(length).map_err(|_| "its Content-Length is no number")?;
    headers.insert(CONTENT_LENGTH, length);
    plain_length(headers);
    Ok(())
}

/// The protocol a request wants to switch to. HTTP/2 is none, nor is anything that comes with it: requests in it would
/// reach the backend unseen, and a client that offers it has to go on without (RFC 9113 §3.1 gave it up).
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let protocol = headers.get(UPGRADE)?;
    let lines = headers.get_all(UPGRADE).iter();
    if lines.flat_map(protocols).any(is_http_2) {
        return None;
    }
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut options = values.flat_map(|value| value.split(',')).map(str::trim);
    options.any(|option| option.eq_ignore_ascii_case("upgrade")).then(|| protocol.clone())
}

/// Whether an answer switches to nothing but what was asked for.
pub(crate) fn is_among(asked: &HeaderValue, headers: &HeaderMap) -> bool {
    let mut named = headers.get_all(UPGRADE).iter().flat_map(protocols);
    named.all(|name| protocols(asked).any(|protocol| protocol.eq_ignore_ascii_case(name)))
}

/// The protocols that a line of `Upgrade` names.
fn protocols(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

fn is_http_2(protocol: &[u8]) -> bool {
    let (name, version) = protocol.split_at(protocol.len().min(b"http/".len()));
    protocol.eq_ignore_ascii_case(b"h2c")
        || name.eq_ignore_ascii_case(b"http/") && version.starts_with(b"2")
}

/// Adds an address to those of the proxies before.
pub(crate) fn append_forwarded_for(headers: &mut HeaderMap, client: &HeaderValue) {
    if !headers.contains_key(&X_FORWARDED_FOR) {
        headers.insert(X_FORWARDED_FOR.clone(), client.clone());
        return;
    }
    let mut all = Vec::with_capacity(64);
    for before in headers.get_all(&X_FORWARDED_FOR) {
        all.extend_from_slice(before.as_bytes());
        all.extend_from_slice(b", ");
    }
    all.extend_from_slice(client.as_bytes());
    if let Ok(all) = HeaderValue::from_bytes(&all) {
        headers.insert(X_FORWARDED_FOR.clone(), all);
    }
}

/// Whether a request id that a client gave is passed on.
pub(crate) fn is_request_id(id: &[u8]) -> bool {
    (20..=200).contains(&id.len())
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=-".contains(b))
}

/// Why a request's head is refused: the HTTP status and a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) u16, pub(crate) &'static str);

/// Refuses what two servers might read differently.
pub(crate) fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(Refusal(400, "The request has several Content-Length headers."));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if length.is_some() {
        return Err(Refusal(400, "The request has both Content-Length and Transfer-Encoding."));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Refusal(501, "The only Transfer-Encoding served is chunked."));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap())
        };
        let mut headers = HeaderMap::new();
        lines.iter().map(parse).for_each(|(name, value)| {
            headers.append(name, value);
        });
        headers
    }

    #[test]
    fn what_belongs_to_one_connection_is_removed() {
        let mut all = headers(&[
            ("connection", "keep-alive, X-Mine, host"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("x-mine", "1"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("proxy-connection", "close"),
            ("host", "a"),
            ("x-other", "2"),
        ]);
        strip_hop_by_hop(&mut all);
        assert_eq!(all, headers(&[("host", "a"), ("x-other", "2")]));
    }

    #[test]
    fn a_connection_takes_nobodys_name_or_rights_away() {
        let named = "authorization, Cookie, X-Forwarded-For, x-request-id, content-length, x-mine";
        let kept = [
            ("authorization", "a"),
            ("cookie", "a=1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-request-id", "a"),
            ("content-length", "0"),
        ];
        let mut all = headers(&kept);
        all.append("connection", HeaderValue::from_static(named));
        all.append("x-mine", HeaderValue::from_static("1"));
        strip_hop_by_hop(&mut all);
        assert_eq!(all, headers(&kept));
    }

    #[test]
    fn what_looks_like_a_header_of_the_router_to_some_servers_is_removed() {
        let mut all = headers(&[
            ("x_forwarded_proto", "https"),
            ("x-forwarded_for", "1.1.1.1"),
            ("X_Request_Id", "a"),
            ("x_mine", "1"),
            ("x-forwarded-for", "2.2.2.2"),
        ]);
        drop_aliases(&mut all);
        assert_eq!(all, headers(&[("x_mine", "1"), ("x-forwarded-for", "2.2.2.2")]));
    }

    #[test]
    fn a_request_passes_as_many_proxies_as_it_may() {
        let counted = |left: &str| {
            let mut all = headers(&[("max-forwards", left)]);
            count_down(&mut all).map(|()| all["max-forwards"].to_str().unwrap().to_owned())
        };
        assert_eq!(counted("2").as_deref(), Ok("1"));
        assert_eq!(counted("0").unwrap_err().0, 405);
        assert_eq!(counted("x").as_deref(), Ok("x"));
        assert_eq!(count_down(&mut headers(&[])), Ok(()));
    }

    #[test]
    fn of_what_a_client_takes_trailers_are_passed_on() {
        for (lines, left) in [
            (&["trailers"][..], &["trailers"][..]),
            (&["gzip;q=0.5, Trailers"], &["trailers"]),
            (&["gzip", "trailers"], &["trailers"]),
            (&["gzip"], &[]),
        ] {
            let all = |lines: &[&'static str]| {
                headers(&lines.iter().map(|line| ("te", *line)).collect::<Vec<_>>())
            };
            let mut te = all(lines);
            strip_hop_by_hop(&mut te);
            assert_eq!(te, all(left), "{lines:?}");
        }
    }

    #[test]
    fn cookies_become_one_line() {
        for (lines, joined) in [
            (&["a=1", "b=2; c=3", "d=4"][..], "a=1; b=2; c=3; d=4"),
            (&["a=1; b=2"][..], "a=1; b=2"),
        ] {
            let all: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            let mut all = headers(&all);
            join_cookies(&mut all);
            assert_eq!(all, headers(&[("cookie", joined)]));
        }
        let mut none = headers(&[("host", "a")]);
        join_cookies(&mut none);
        assert_eq!(none, headers(&[("host", "a")]));
    }

    #[test]
    fn an_answer_has_one_length_or_cannot_be_read() {
        let clean = |lines: &[(&str, &str)]| {
            let mut all = headers(lines);
            clean_answer(&mut all).map(|()| all)
        };
        let both = [("content-length", "4"), ("transfer-encoding", "Chunked"), ("x-a", "1")];
        assert_eq!(clean(&both), Ok(headers(&[("x-a", "1")])));
        assert_eq!(clean(&[("content-length", "4")]), Ok(headers(&[("content-length", "4")])));
        let (one, twice) = ([("content-length", "5")], [("content-length", "5, 5")]);
        assert_eq!(clean(&twice), Ok(headers(&one)));
        assert_eq!(clean(&[one[0], one[0]]), Ok(headers(&one)));
        for other in ["5, 6", "5,", "", "+5", "5 5"] {
            clean(&[("content-length", other)]).unwrap_err();
        }
        for codings in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"]] {
            let lines: Vec<_> = codings.iter().map(|one| ("transfer-encoding", *one)).collect();
            clean(&lines).unwrap_err();
        }
    }

    #[test]
    fn an_upgrade_needs_both_headers() {
        assert!(upgrade(&headers(&[("upgrade", "websocket")])).is_none());
        assert!(upgrade(&headers(&[("connection", "upgrade")])).is_none());
        let both = headers(&[("upgrade", "websocket"), ("connection", "keep-alive, Upgrade")]);
        assert_eq!(upgrade(&both).unwrap(), "websocket");
        let other = [("upgrade", "chat/2, HTTP/1.1"), ("connection", "upgrade")];
        assert_eq!(upgrade(&headers(&other)).unwrap(), "chat/2, HTTP/1.1");
    }

    #[test]
    fn http_2_is_no_protocol_to_switch_to_whatever_stands_beside_it() {
        let connection = ("connection", "Upgrade, HTTP2-Settings");
        for named in ["h2c", "h2c, x", "H2C ,h2c", "x,\th2c", "HTTP/2.0", "http/2", "x, Http/2.0"] {
            assert!(upgrade(&headers(&[("upgrade", named), connection])).is_none(), "{named}");
        }
        let lines = [("upgrade", "x"), ("upgrade", "h2c"), connection];
        assert!(upgrade(&headers(&lines)).is_none());
        let mut settings = headers(&[("http2-settings", "AAMAAABk"), ("host", "a")]);
        strip_hop_by_hop(&mut settings);
        assert_eq!(settings, headers(&[("host", "a")]));
    }

    #[test]
    fn a_protocol_that_was_not_asked_for_is_told_from_one_that_was() {
        let among = |asked, named| is_among(&HeaderValue::from_static(asked), &headers(named));
        assert!(among("websocket", &[("upgrade", "WebSocket")]));
        assert!(among("a, b", &[("upgrade", "b")]));
        assert!(among("a", &[]));
        assert!(!among("websocket", &[("upgrade", "h2c")]));
        assert!(!among("a", &[("upgrade", "a"), ("upgrade", "b")]));
    }

    #[test]
    fn trailers_say_nothing_that_belongs_in_a_head() {
        let mut trailers = headers(&[
            ("content-length", "1"),
            ("transfer-encoding", "chunked"),
            ("host", "a"),
            ("connection", "close"),
            ("cookie", "a=1"),
            ("set-cookie", "a=1"),
            ("authorization", "a"),
            ("trailer", "a"),
            ("te", "trailers"),
            ("upgrade", "a"),
            ("forwarded", "for=a"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-anything", "a"),
            ("x-request-id", "a"),
            ("x-sum", "1"),
            ("grpc-status", "0"),
        ]);
        clean_trailers(&mut trailers);
        assert_eq!(trailers, headers(&[("x-sum", "1"), ("grpc-status", "0")]));
    }

    #[test]
    fn a_head_has_so_many_lines_and_bytes_and_no_more() {
        let lines = |count, size| {
            let mut all = HeaderMap::new();
            for _ in 0..count {
                let value = HeaderValue::try_from("a".repeat(size)).unwrap();
                all.append("x", value);
            }
            all
        };
        assert!(!is_too_large(&lines(HEADERS_MAX, 1), 0));
        assert!(is_too_large(&lines(HEADERS_MAX + 1, 1), 0));
        assert!(!is_too_large(&lines(1, HEAD_MAX - 5), 0));
        assert!(is_too_large(&lines(1, HEAD_MAX - 5), 1));
    }

    #[test]
    fn forwarded_addresses_become_one_list() {
        let mut all = headers(&[("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")]);
        append_forwarded_for(&mut all, &HeaderValue::from_static("3.3.3.3"));
        assert_eq!(all, headers(&[("x-forwarded-for", "1.1.1.1, 2.2.2.2, 3.3.3.3")]));
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        let status = |lines: &[(&str, &str)]| check_framing(&headers(lines)).map_err(|r| r.0);
        assert_eq!(status(&[("content-length", "1")]), Ok(()));
        assert_eq!(status(&[("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(status(&[("content-length", "1"), ("content-length", "1")]), Err(400));
        assert_eq!(status(&[("content-length", "1"), ("transfer-encoding", "chunked")]), Err(400));
        assert_eq!(status(&[("transfer-encoding", "gzip, chunked")]), Err(501));
        assert_eq!(
            status(&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            Err(501)
        );
    }

    #[test]
    fn only_plain_request_ids_are_kept() {
        assert!(is_request_id(b"0123456789abcdef0123"));
        assert!(!is_request_id(b"short"));
        assert!(!is_request_id(b"0123456789abcdef 0123"));
    }
}
