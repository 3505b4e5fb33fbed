//! Whole builds, against a store on the wire, with our own buildpacks and one made for the test. No network.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

use std::{
    collections::BTreeMap,
    fs,
    future::IntoFuture,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
};

use api::slug::{BuildResult, SlugRelease};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::StatusCode,
    routing::get,
};
use clap::Parser;
use slugbuilder::{BuildError, Config, build, console::Console, unpack::unpack};

type Blobs = Arc<Mutex<BTreeMap<String, Bytes>>>;

/// A store: what is put can be got, except at `refused`.
struct Store {
    base: String,
    blobs: Blobs,
}

impl Store {
    async fn start() -> Self {
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

    fn blob(&self, name: &str) -> Option<Bytes> {
        self.blobs.lock().unwrap().get(name).cloned()
    }

    fn set(&self, name: &str, bytes: Vec<u8>) {
        self.blobs.lock().unwrap().insert(name.into(), bytes.into());
    }

    fn result(&self) -> BuildResult {
        serde_json::from_slice(&self.blob("result").unwrap()).unwrap()
    }
}

async fn get_blob(
    State(blobs): State<Blobs>,
    UrlPath(name): UrlPath<String>,
) -> Result<Bytes, StatusCode> {
    blobs.lock().unwrap().get(&name).cloned().ok_or(StatusCode::NOT_FOUND)
}

async fn put_blob(
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

fn write(root: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        if text.starts_with("#!") {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
    }
}

fn tar(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).args(["--mtime=@1700000000", "-cPf", "-"]).args(arguments);
    let output = tar.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    output.stdout
}

fn our_buildpacks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/slugbuilder/buildpacks")
}

/// One build of some files, in directories of its own.
struct Build<'a> {
    store: &'a Store,
    work: tempfile::TempDir,
    buildpacks: PathBuf,
    options: Vec<String>,
}

impl<'a> Build<'a> {
    fn of(store: &'a Store, files: &[(&str, &str)]) -> Self {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), files);
        store.set("source", tar(source.path(), &["."]));
        let work = tempfile::tempdir().unwrap();
        Self { store, work, buildpacks: our_buildpacks(), options: Vec::new() }
    }

    fn option(mut self, option: &str) -> Self {
        self.options.push(option.into());
        self
    }

    fn with(mut self, buildpacks: &Path) -> Self {
        self.buildpacks = buildpacks.into();
        self
    }

    async fn run(self) -> Result<(), BuildError> {
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
        build(&Config::parse_from(words), &Console::default()).await
    }
}

/// Unpacks the slug and answers with where it is.
async fn slug(store: &Store) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let slug = store.blob("slug").unwrap();
    unpack(&slug[..], place.path()).await.unwrap();
    place
}

#[tokio::test]
async fn a_procfile_makes_an_app_and_the_same_source_makes_the_same_slug() {
    let store = Store::start().await;
    let files = [
        ("Procfile", "web: ./serve $PORT\nworker: ./work\n"),
        ("serve", "#!/bin/sh\n"),
        (".git/HEAD", "x"),
        (".slugignore", "*.psd\n/docs/\n"),
        ("art/big.psd", "x"),
        ("docs/index.md", "x"),
    ];
    Build::of(&store, &files).run().await.unwrap();
    let result = store.result();
    assert_eq!(result.types["web"], "./serve $PORT");
    assert_eq!(result.types["worker"], "./work");
    assert_eq!(result.buildpack, "Procfile");
    assert_eq!(result.slug.size, store.blob("slug").unwrap().len() as u64);
    let place = slug(&store).await;
    let has = |name: &str| place.path().join(name).exists();
    assert!(has("serve") && has(".release") && has("art"));
    assert!(!has(".git") && !has("art/big.psd") && !has("docs"));
    let serve = fs::metadata(place.path().join("serve")).unwrap();
    assert_eq!(serve.permissions().mode() & 0o777, 0o755);
    let age = serve.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(age.as_secs(), 1_700_000_000);

    Build::of(&store, &files).run().await.unwrap();
    assert_eq!(store.result().slug, result.slug);
}

#[tokio::test]
async fn a_static_site_is_served_from_where_its_index_is() {
    let store = Store::start().await;
    Build::of(&store, &[("public/index.html", "hello")]).run().await.unwrap();
    let result = store.result();
    assert_eq!(result.types["web"], "slugrunner static public");
    assert_eq!(result.types, result.default_types);
    let place = slug(&store).await;
    let release = fs::read(place.path().join(".release")).unwrap();
    let release: SlugRelease = serde_json::from_slice(&release).unwrap();
    assert_eq!(release.default_process_types, result.types);
}

const PACK: [(&str, &str); 4] = [
    ("order", "pack\tPack\twanted\n"),
    ("pack/bin/detect", "#!/bin/bash\n[ -f $1/wanted ] && echo Packed\n"),
    (
        "pack/bin/compile",
        "#!/bin/bash\nset -eu\ncd $1\n[ ! -f fail ] || { echo it is broken; exit 4; }\n\
         cat $3/GREETING >greeting\n[ -z \"${GREETING-}\" ]\n! env | grep -q 127.0.0.1\necho $STACK >stack\n\
         echo x >>$2/builds\ncp $2/builds builds\n[ ! -f still ] || { cp $2/builds .; git init -q $2/x; rm -r $2/x; }\n\
         echo \"export LEFT=yes\" >$(dirname $0)/../export\necho ${LEFT-no} >left\n",
    ),
    (
        "pack/bin/release",
        "#!/bin/bash\nprintf -- '---\\nconfig_vars:\\n  A: b\\ndefault_process_types:\\n  web: run\\n'\n",
    ),
];

#[tokio::test]
async fn a_buildpack_gets_the_environment_as_files_and_a_cache_that_lasts() {
    let store = Store::start().await;
    let packs = tempfile::tempdir().unwrap();
    write(packs.path(), &PACK);
    let files =
        [("wanted", ""), (".buildpacks", "# twice\npack\npack\n"), ("Procfile", "worker: w\n")];
    for round in [2, 4] {
        let build = Build::of(&store, &files).with(packs.path());
        build
            .option(r#"--build-env={"GREETING":"hi","../x":"y"}"#)
            .option("--stack=s")
            .run()
            .await
            .unwrap();
        let place = slug(&store).await;
        let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap();
        assert_eq!(read("greeting"), "hi");
        assert_eq!(read("stack"), "s\n");
        assert_eq!(read("builds").lines().count(), round, "the cache was not kept");
        assert_eq!(read("left"), "yes\n", "what the first one exports is not there for the second");
    }
    let result = store.result();
    assert_eq!(result.types.keys().collect::<Vec<_>>(), ["web", "worker"]);
    assert_eq!(result.config_vars["A"], "b");

    // A cache that is broken is no reason not to build.
    store.set("cache", b"no archive".to_vec());
    let build = Build::of(&store, &files).with(packs.path());
    build.option(r#"--build-env={"GREETING":"hi"}"#).run().await.unwrap();
    let place = slug(&store).await;
    assert_eq!(fs::read_to_string(place.path().join("builds")).unwrap().lines().count(), 2);
}

/// Why a build fails. Nothing is stored then.
async fn refusal(store: &Store, build: Build<'_>) -> String {
    let err = build.run().await.unwrap_err();
    assert!(store.blob("result").is_none());
    err.report()
}

#[tokio::test]
async fn whoever_cannot_be_built_learns_why() {
    let store = Store::start().await;
    let said = refusal(&store, Build::of(&store, &[("main.zig", "")])).await;
    assert!(
        said.contains("No buildpack wants this app") && said.contains("package.json"),
        "{said}"
    );
    let said = refusal(&store, Build::of(&store, &[("Procfile", "web: x\nnonsense\n")])).await;
    assert!(said.starts_with("Line 2 of the Procfile"), "{said}");
    let said = refusal(&store, Build::of(&store, &[])).await;
    assert!(said.contains("The repository is empty"), "{said}");
    let packs = tempfile::tempdir().unwrap();
    write(packs.path(), &PACK);
    let broken = Build::of(&store, &[("wanted", ""), ("fail", "")]).with(packs.path());
    let said = refusal(&store, broken).await;
    assert!(said.contains("The Pack buildpack failed (exit status: 4)"), "{said}");
    let bad = Build::of(&store, &[("x", "")]).option(r#"--build-env={"BUILDPACK_URL":"ext::sh"}"#);
    let said = refusal(&store, bad).await;
    assert!(said.contains("BUILDPACK_URL") && said.contains("https://"), "{said}");
}

#[tokio::test]
async fn what_is_refused_or_too_large_fails_the_build() {
    let store = Store::start().await;
    let app = [("Procfile", "web: x\n")];
    let said =
        refusal(&store, Build::of(&store, &app).option("--slug-put-url=STORE/refused")).await;
    assert!(said.contains("401") && said.contains("the signature is used up"), "{said}");
    let said = refusal(&store, Build::of(&store, &app).option("--slug-limit=10")).await;
    assert!(said.contains(".slugignore"), "{said}");
    let build = Build::of(&store, &app);
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("x", "")]);
    store.set("source", tar(source.path(), &["--transform=s,^,../,", "x"]));
    let said = refusal(&store, build).await;
    assert!(said.contains("\"../x\" leads out of it"), "{said}");
}
