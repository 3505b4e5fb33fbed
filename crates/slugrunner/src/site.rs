//! A web server of a directory's files.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use anyhow::Context;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncSeekExt},
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::io::ReaderStream;

use crate::domain::files::{Range, content_type, names_tag, range, relative};

/// Bytes read from a file at a time.
const CHUNK: usize = 64 * 1024;

/// Serves a directory until SIGTERM or SIGINT; then requests under way are finished.
pub async fn serve(root: &Path, port: &str) -> anyhow::Result<()> {
    let port: u16 = port.parse().with_context(|| format!("PORT={port:?} is not a port"))?;
    let root =
        root.canonicalize().with_context(|| format!("{} cannot be served", root.display()))?;
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("port {port} cannot be listened on"))?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    };
    axum::serve(listener, router(root)).with_graceful_shutdown(stop).await?;
    Ok(())
}

/// The site.
pub fn router(root: PathBuf) -> Router {
    Router::new().fallback(answer).with_state(Arc::new(root))
}

async fn answer(State(root): State<Arc<PathBuf>>, request: Request) -> Response {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let allow = [(header::ALLOW, "GET, HEAD")];
        return (StatusCode::METHOD_NOT_ALLOWED, allow, "only GET and HEAD\n").into_response();
    }
    let path = request.uri().path();
    let found = match relative(path) {
        Some(relative) => find(&root, &relative, path.ends_with('/')).await,
        None => Found::Nothing,
    };
    let head = request.method() == Method::HEAD;
    let sent = match found {
        Found::File(file) => file.response(request.headers(), head, StatusCode::OK).await,
        Found::Directory => return redirect(request.uri()),
        Found::Nothing => not_found(&root, head).await,
    };
    sent.unwrap_or_else(|_| {
        (StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n").into_response()
    })
}

/// `/docs` means `/docs/`, or its relative links would be wrong.
fn redirect(uri: &http::Uri) -> Response {
    let path = format!("/{}/", uri.path().trim_matches('/'));
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, target)]).into_response()
}

async fn not_found(root: &Path, head: bool) -> io::Result<Response> {
    match open(root, &root.join("404.html")).await {
        Some(page) => page.response(&HeaderMap::new(), head, StatusCode::NOT_FOUND).await,
        None => Ok((StatusCode::NOT_FOUND, "not found\n").into_response()),
    }
}

enum Found {
    File(Page),
    /// A directory with an index, asked for without its slash.
    Directory,
    Nothing,
}

async fn find(root: &Path, relative: &Path, slash: bool) -> Found {
    let path = root.join(relative);
    if let Some(page) = open(root, &path).await {
        return if slash { Found::Nothing } else { Found::File(page) };
    }
    match open(root, &path.join("index.html")).await {
        Some(page) if slash || relative.as_os_str().is_empty() => Found::File(page),
        Some(_) => Found::Directory,
        None => Found::Nothing,
    }
}

/// An open file.
struct Page {
    file: File,
    kind: &'static str,
    size: u64,
    modified: Option<SystemTime>,
}

/// Opens a regular file that is, links followed, inside the site.
async fn open(root: &Path, path: &Path) -> Option<Page> {
    let path = tokio::fs::canonicalize(path).await.ok()?;
    if !path.starts_with(root) {
        return None;
    }
    let metadata = tokio::fs::metadata(&path).await.ok()?;
    if !metadata.is_file() {
        return None;
    }
    let file = File::open(&path).await.ok()?;
    let kind = content_type(&path);
    Some(Page { file, kind, size: metadata.len(), modified: metadata.modified().ok() })
}

impl Page {
    /// The file, or the part of it that was asked for.
    async fn response(
        mut self,
        asked: &HeaderMap,
        head: bool,
        status: StatusCode,
    ) -> io::Result<Response> {
        let tag = self.tag();
        let mut headers = self.headers(&tag);
        let text = |name| asked.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let fresh = match text(header::IF_NONE_MATCH) {
            Some(tags) => names_tag(tags, &tag),
            None => {
                let since = text(header::IF_MODIFIED_SINCE);
                since.is_some()
                    && since == headers.get(header::LAST_MODIFIED).and_then(|v| v.to_str().ok())
            }
        };
        if fresh && status == StatusCode::OK {
            return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
        }
        let wanted = match text(header::IF_RANGE) {
            Some(of) if of != tag => Range::Whole,
            _ => range(text(header::RANGE), self.size),
        };
        let (status, length) = match wanted {
            Range::Whole => (status, self.size),
            Range::Part(part) => {
                let content = format!("bytes {}-{}/{}", part.first, part.last, self.size);
                headers.insert(header::CONTENT_RANGE, value(&content));
                self.file.seek(io::SeekFrom::Start(part.first)).await?;
                (StatusCode::PARTIAL_CONTENT, part.length())
            }
            Range::Outside => {
                let content = [(header::CONTENT_RANGE, format!("bytes */{}", self.size))];
                return Ok((StatusCode::RANGE_NOT_SATISFIABLE, content).into_response());
            }
        };
        headers.insert(header::CONTENT_LENGTH, length.into());
        let body = if head {
            Body::empty()
        } else {
            Body::from_stream(ReaderStream::with_capacity(self.file.take(length), CHUNK))
        };
        Ok((status, headers, body).into_response())
    }

    fn tag(&self) -> String {
        let since = self.modified.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        format!("\"{:x}-{:x}\"", self.size, since.unwrap_or_default().as_nanos())
    }

    fn headers(&self, tag: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(header::ETAG, value(tag));
        let modified = self.modified.and_then(|at| jiff::Timestamp::try_from(at).ok());
        let printer = jiff::fmt::rfc2822::DateTimePrinter::new();
        let text = modified.and_then(|at| printer.timestamp_to_rfc9110_string(&at).ok());
        if let Some(modified) = text {
            headers.insert(header::LAST_MODIFIED, value(&modified));
        }
        headers
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("tags, ranges and dates are plain ASCII")
}
