//! A store on the wire, and builds against it.
#![allow(unreachable_pub, reason = "a test has no callers outside")]

use std::{
    collections::BTreeMap,
    fs,
    future::IntoFuture,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use api::slug::BuildResult;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::StatusCode,
    routing::get,
};
use clap::Parser;
use slugbuilder::{BuildError, Config, console::Console, unpack::unpack};

pub type Blobs = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A store: what is put can be got, except at `refused`.
pub struct Store {
    pub base: String,
    pub blobs: Blobs,
}

impl Store {
    pub async fn start() -> Self {
        let blobs = Blobs::default();
        let router = Router::new()
            .route("/{name}", get(get_blob).put(put_blob))
            .layer(DefaultBodyLimit::disable())
            .with_state(blobs.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { base, blobs }
    }

    pub fn blob(&self, name: &str) -> Option<Bytes> {
        self.blobs.lock().unwrap().get(name).cloned()
    }

    pub fn set(&self, name: &str, bytes: Vec<u8>) {
        self.blobs.lock().unwrap().insert(name.into(), bytes.into());
    }

    pub fn result(&self) -> BuildResult {
        serde_json::from_slice(&self.blob("result").unwrap()).unwrap()
    }
}

pub async fn get_blob(
    State(blobs): State<Blobs>,
    UrlPath(name): UrlPath<String>,
) -> Result<Bytes, StatusCode> {
    blobs.lock().unwrap().get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
}

pub async fn put_blob(
    State(blobs): State<Blobs>,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> (StatusCode, &'static str) {
    if name == "refused" {
        return (StatusCode::UNAUTHORIZED, "the signature is used up");
    }
    blobs.lock().unwrap().insert(name, body);
    (StatusCode::OK, "")
}

pub fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

pub fn tar(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).args(["--mtime=@1700000000", "-cPf", "-"]).args(arguments);
    let output = tar.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

pub fn our_buildpacks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/slugbuilder/buildpacks")
}

/// One build of some files, in directories of its own.
pub struct Build<'a> {
    pub store: &'a Store,
    pub work: tempfile::TempDir,
    pub buildpacks: PathBuf,
    pub options: Vec<String>,
    pub said: Arc<Mutex<Vec<u8>>>,
}

struct Said(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> Build<'a> {
    pub fn of(store: &'a Store, files: &[(&str, &str)]) -> Self {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), files);
        Self::of_folder(store, source.path())
    }

    pub fn of_folder(store: &'a Store, folder: &Path) -> Self {
        store.set("source", tar(folder, &["."]));
        let work = tempfile::tempdir().unwrap();
        Self {
            store,
            work,
            buildpacks: our_buildpacks(),
            options: Vec::new(),
            said: Arc::default(),
        }
    }

    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    pub fn with(mut self, buildpacks: &Path) -> Self {
        self.buildpacks = buildpacks.into();
        self
    }

    pub async fn run(self) -> Result<(), BuildError> {
        let url = |name: &str| format!("{}/{name}", self.store.base);
        let mut words = vec!["slugbuilder".to_owned()];
        for (option, name) in [
            ("--source-url", "source"),
            ("--cache-get-url", "cache"),
            ("--cache-put-url", "cache"),
            ("--slug-put-url", "slug"),
            ("--result-put-url", "result"),
        ] {
            words.push(format!("{option}={}", url(name)));
        }
        let path = |name: &str| self.work.path().join(name).display().to_string();
        words.push(format!("--build-dir={}", path("app")));
        words.push(format!("--work-dir={}", path("work")));
        words.push(format!("--buildpacks-dir={}", self.buildpacks.display()));
        // The last one of several counts.
        let own: Vec<_> =
            self.options.iter().map(|option| option.replace("STORE", &self.store.base)).collect();
        words.retain(|word| {
            let name = word.split('=').next();
            own.iter().all(|option| option.split('=').next() != name)
        });
        words.extend(own);
        let stdin = tokio::io::empty();
        let store = slugbuilder::transfer::Store::with_times(
            std::time::Duration::from_millis(10),
            std::time::Duration::from_secs(60),
        );
        let console = Console::new(Said(self.said.clone()));
        slugbuilder::build_with(&Config::parse_from(words), &console, &store, stdin).await
    }
}

/// Unpacks the slug and answers with where it is.
pub async fn slug(store: &Store) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let slug = store.blob("slug").unwrap();
    unpack(&slug[..], place.path()).await.unwrap();
    place
}
