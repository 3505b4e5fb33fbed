//! Which file a request means, and what to say about it. Pure.

use std::path::{Component, Path, PathBuf};

/// Files at the root of a site that are for the platform, where a whole repository is served.
const PRIVATE: [&str; 3] = ["Procfile", "app.json", "static.json"];

/// The file a URL path means, relative to the site's root; none if it means no file that may be served.
///
/// Refused are `..`, anything that begins with a dot but `.well-known`, what no file name can hold, and the files that
/// tell the platform how to run the site.
pub fn relative(url_path: &str) -> Option<PathBuf> {
    let decoded = percent_decode(url_path)?;
    if decoded.contains('\0') {
        return None;
    }
    let mut path = PathBuf::new();
    for component in Path::new(decoded.trim_start_matches('/')).components() {
        let Component::Normal(name) = component else { return None };
        let name = name.to_str()?;
        if name.starts_with('.') && name != ".well-known" {
            return None;
        }
        path.push(name);
    }
    let private = PRIVATE.iter().any(|name| path == Path::new(name));
    (!private).then_some(path)
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digit = |b: Option<u8>| char::from(b?).to_digit(16);
            let value = digit(rest.next())? * 16 + digit(rest.next())?;
            bytes.push(u8::try_from(value).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The content type for a file's name.
pub fn content_type(path: &Path) -> &'static str {
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match extension.to_ascii_lowercase().as_str() {
        "html" | "htm" => "text/html; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "js" | "mjs" | "cjs" => "text/javascript; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "txt" => "text/plain; charset=utf-8",
        "md" => "text/markdown; charset=utf-8",
        "csv" => "text/csv; charset=utf-8",
        "xml" => "application/xml",
        "atom" => "application/atom+xml",
        "rss" => "application/rss+xml",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "gif" => "image/gif",
        "webp" => "image/webp",
        "avif" => "image/avif",
        "ico" => "image/x-icon",
        "bmp" => "image/bmp",
        "woff" => "font/woff",
        "woff2" => "font/woff2",
        "ttf" => "font/ttf",
        "otf" => "font/otf",
        "mp3" => "audio/mpeg",
        "ogg" | "oga" => "audio/ogg",
        "wav" => "audio/wav",
        "mp4" | "m4v" => "video/mp4",
        "webm" => "video/webm",
        "pdf" => "application/pdf",
        "wasm" => "application/wasm",
        "zip" => "application/zip",
        "gz" | "tgz" => "application/gzip",
        _ => "application/octet-stream",
    }
}

/// A part of a file, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub first: u64,
    /// Last byte.
    pub last: u64,
}

impl Part {
    /// How many bytes it has: at least one.
    pub fn length(self) -> u64 {
        self.last - self.first + 1
    }
}

/// What a `Range` header asks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// All of it, also when the header cannot be understood or asks for several parts.
    Whole,
    /// One part.
    Part(Part),
    /// Nothing the file has.
    Outside,
}

/// Reads a `Range` header for a file of `size` bytes.
pub fn range(header: Option<&str>, size: u64) -> Range {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Range::Whole;
    };
    let Some((first, last)) = spec.split_once('-') else { return Range::Whole };
    let number = |text: &str| text.trim().parse::<u64>();
    let (first, last) = match (number(first), number(last)) {
        (Ok(first), Ok(last)) if first > last => return Range::Whole,
        (Ok(first), Ok(last)) => (first, last),
        (Ok(first), Err(_)) if last.trim().is_empty() => (first, u64::MAX),
        (Err(_), Ok(length)) if first.trim().is_empty() => {
            if length == 0 {
                return Range::Outside;
            }
            (size.saturating_sub(length), u64::MAX)
        }
        _ => return Range::Whole,
    };
    if first >= size {
        return Range::Outside;
    }
    Range::Part(Part { first, last: last.min(size - 1) })
}

/// Whether an `If-None-Match` header names this tag.
pub fn names_tag(header: &str, tag: &str) -> bool {
    header
        .split(',')
        .map(str::trim)
        .any(|given| given == "*" || given.trim_start_matches("W/") == tag.trim_start_matches("W/"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_never_leaves_the_site_nor_reaches_a_hidden_file() {
        assert_eq!(relative("/"), Some(PathBuf::new()));
        assert_eq!(relative("//a//b%20c/"), Some("a/b c".into()));
        assert_eq!(relative("/docs/Procfile"), Some("docs/Procfile".into()));
        assert_eq!(relative("/.well-known/x"), Some(".well-known/x".into()));
        for refused in [
            "/../x",
            "/a/%2e%2e/x",
            "/a/..%2fx",
            "/.git/config",
            "/a/.env",
            "/%",
            "/%zz",
            "/%00",
            "/%ff",
            "/.%2e/x",
            "/Procfile",
            "//%50rocfile",
            "/./static.json",
            "/app.json",
        ] {
            assert_eq!(relative(refused), None, "{refused}");
        }
    }

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let part = |first, last| Range::Part(Part { first, last });
        for (header, expected) in [
            (None, Range::Whole),
            (Some("bytes=0-0"), part(0, 0)),
            (Some("bytes=5-"), part(5, 9)),
            (Some("bytes=-3"), part(7, 9)),
            (Some("bytes=-30"), part(0, 9)),
            (Some("bytes=2-100"), part(2, 9)),
            (Some("bytes=10-"), Range::Outside),
            (Some("bytes=-0"), Range::Outside),
            (Some("bytes=3-2"), Range::Whole),
            (Some("bytes=0-1,3-4"), Range::Whole),
            (Some("pages=1-2"), Range::Whole),
        ] {
            assert_eq!(range(header, 10), expected, "{header:?}");
        }
        assert_eq!(range(Some("bytes=0-"), 0), Range::Outside);
    }

    #[test]
    fn tags_are_compared_weakly() {
        assert!(names_tag("\"a\", W/\"b\"", "\"b\""));
        assert!(names_tag("*", "\"b\""));
        assert!(!names_tag("\"a\"", "\"b\""));
    }

    proptest! {
        #[test]
        fn no_path_panics_or_escapes(path in "(\\PC|/|\\.|%2[eEfF]|%){0,40}") {
            if let Some(path) = relative(&path) {
                prop_assert!(path.components().all(|c| matches!(c, Component::Normal(_))));
            }
        }

        #[test]
        fn no_range_panics_or_leaves_the_file(header in "bytes=\\PC{0,20}|bytes=[0-9]{0,21}-[0-9]{0,21}", size: u64) {
            if let Range::Part(part) = range(Some(&header), size) {
                prop_assert!(part.first <= part.last && part.last < size && part.length() <= size);
            }
        }
    }
}
