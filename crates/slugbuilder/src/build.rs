//! The build, step by step.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use api::slug::{BuildResult, PROCFILE, Procfile, RELEASE_FILE, SlugFile, SlugRelease};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};

use crate::{
    buildpack::Workshop,
    choose::{Chosen, choose},
    config::Config,
    console::Console,
    domain::{env, ignore::Patterns, output::size, target::Target},
    error::{BuildError, MAX_TEXT},
    init,
    pack::{Packed, fingerprint, list, pack_to_disk, unpacked_size},
    transfer::{Store, unpack_stream},
};

/// The app's variable that, set to `false`, has a build begin with an empty cache.
const BUILD_CACHE: &str = "BUILD_CACHE";

/// Variables of our own environment that buildpacks get too.
const PASSED_ON: [&str; 17] = [
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_DIR",
];

/// Builds the app that `config` names, from its URLs or from stdin, and brings slug, cache and result where they go.
pub async fn build(config: &Config, console: &Console) -> Result<(), BuildError> {
    build_with(config, console, &Store::default(), tokio::io::stdin()).await
}

/// The same with a store and a stdin of one's own.
pub async fn build_with(
    config: &Config,
    console: &Console,
    store: &Store,
    stdin: impl AsyncRead + Send + Unpin,
) -> Result<(), BuildError> {
    let target = Target::parse(&config.output)?;
    let env = app_env(config, store).await?;
    let mut shop = workshop(config, &env)?;
    let newest = unpack_source(config, store, stdin, console).await?;
    // What will be refused anyway is refused before minutes of work.
    check_names(&config.build_dir)?;
    let cached = restore_cache(config, store, &shop, &env, console).await?;
    let buildpacks = choose(config, &env, &shop, console).await?;

    let mut release = SlugRelease::default();
    for Chosen { buildpack, name } in &buildpacks {
        console.title(&format!("{name} app detected"));
        buildpack.compile(&shop, console).await?;
        // As with Heroku, the last one decides what the app runs.
        release = buildpack.release(&shop).await?;
        shop.exports.extend(buildpack.export());
    }
    init::end_what_is_left();
    let name = buildpacks.last().map(|chosen| chosen.name.clone()).unwrap_or_default();
    let procfile = read_procfile(&config.build_dir)?;
    tell_types(&procfile, &release, &name, console);
    write_release(&config.build_dir, &release)?;

    let slug = Arc::new(pack_slug(config, newest, console).await?);
    console.title(&format!("Compiled slug size is {}", size(slug.is.size)));
    let (Some(slug_url), Some(result_url)) = (&config.slug_put_url, &config.result_put_url) else {
        return deliver(store, &target, &slug).await;
    };
    store.put("slug", slug_url, &slug).await?;
    let result = result(procfile, release, name, slug.is.clone());
    // First what counts, then what makes the next build faster.
    store.put_result(result_url, &result).await?;
    keep_cache(config, store, &shop, cached, console).await
}

/// The slug of a build without a cluster.
async fn deliver(store: &Store, target: &Target, slug: &Arc<Packed>) -> Result<(), BuildError> {
    match target {
        Target::Url(url) => store.put("slug", url, slug).await,
        Target::Stdout => {
            let written = slug.copy_to(&mut io::stdout().lock());
            written.map_err(|source| file("stdout".into(), "written", source))
        }
        Target::File(path) => {
            let written = fs::File::create(path).and_then(|mut out| slug.copy_to(&mut out));
            written.map_err(|source| file(path.clone(), "written", source))
        }
    }
}

async fn app_env(config: &Config, store: &Store) -> Result<BTreeMap<String, String>, BuildError> {
    let json = match (&config.env_url, &config.build_env) {
        (Some(url), _) => store.get_env(url).await?,
        (None, Some(json)) => json.clone().into(),
        (None, None) if config.source_url.is_some() => return Ok(BTreeMap::new()),
        (None, None) => {
            let text = |(name, value): (OsString, OsString)| {
                Some((name.into_string().ok()?, value.into_string().ok()?))
            };
            return Ok(env::of_container(std::env::vars_os().filter_map(text), &PASSED_ON));
        }
    };
    serde_json::from_slice(&json).map_err(BuildError::Environment)
}

/// What a slug needs must be possible: types that processes can have, a file of ours.
fn check_names(build_dir: &Path) -> Result<(), BuildError> {
    read_procfile(build_dir)?;
    let release = fs::symlink_metadata(build_dir.join(RELEASE_FILE));
    if release.is_ok_and(|metadata| metadata.is_dir()) {
        return Err(BuildError::ReleaseFolder);
    }
    Ok(())
}

fn write_release(build_dir: &Path, release: &SlugRelease) -> Result<(), BuildError> {
    let text = serde_json::to_string_pretty(release).expect("a release is plain text");
    let place = build_dir.join(RELEASE_FILE);
    // A link of that name is not followed.
    let _ = fs::remove_file(&place);
    fs::write(&place, text).map_err(|source| file(place, "written", source))
}

fn result(
    procfile: Procfile,
    release: SlugRelease,
    buildpack: String,
    slug: SlugFile,
) -> BuildResult {
    let SlugRelease { default_process_types, config_vars } = release;
    let mut types = default_process_types.clone();
    types.extend(procfile.types);
    BuildResult { types, default_types: default_process_types, buildpack, config_vars, slug }
}

pub(crate) fn file(path: PathBuf, done: &'static str, source: io::Error) -> BuildError {
    BuildError::File { path, done, source }
}

fn directory(path: &Path) -> Result<(), BuildError> {
    fs::create_dir_all(path).map_err(|source| file(path.into(), "made", source))
}

/// Makes the directories buildpacks work with.
fn workshop(config: &Config, env: &BTreeMap<String, String>) -> Result<Workshop, BuildError> {
    let work = &config.work_dir;
    let shop = Workshop {
        build: config.build_dir.clone(),
        cache: work.join("cache"),
        env: work.join("env"),
        variables: variables(config, &work.join("home")),
        exports: Vec::new(),
    };
    for path in [&shop.build, &shop.cache, &shop.env, &work.join("home")] {
        directory(path)?;
    }
    for (name, value) in env.iter().filter(|(name, _)| env::is_file_name(name)) {
        let path = shop.env.join(name);
        fs::write(&path, value).map_err(|source| file(path, "written", source))?;
    }
    Ok(shop)
}

fn variables(config: &Config, home: &Path) -> Vec<(OsString, OsString)> {
    let ours = PASSED_ON.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?)));
    let made = [
        ("HOME", home.into()),
        ("STACK", OsString::from(&config.stack)),
        ("SOURCE_VERSION", OsString::from(&config.source_version)),
        ("REQUEST_ID", uuid::Uuid::new_v4().to_string().into()),
    ];
    ours.chain(made.map(|(name, value)| (name.into(), value))).collect()
}

/// Answers with the time of the newest file.
async fn unpack_source(
    config: &Config,
    store: &Store,
    stdin: impl AsyncRead + Send + Unpin,
    console: &Console,
) -> Result<u64, BuildError> {
    let unpacked = match &config.source_url {
        Some(url) => store.unpack("source", url, &config.build_dir).await?,
        None => {
            let mut stdin = BufReader::with_capacity(1 << 16, stdin);
            let nothing = stdin.fill_buf().await.map_or(true, <[u8]>::is_empty);
            if nothing {
                return Err(BuildError::NoSource);
            }
            Some(unpack_stream("source", stdin, &config.build_dir).await?)
        }
    };
    let all = list(&config.build_dir, |_, _| false).map_err(|err| pack_error("source", err))?;
    let Some(newest) = unpacked.filter(|_| !all.is_empty()) else { return Err(BuildError::Empty) };
    let Some(text) = small_text(&config.build_dir, ".slugignore")? else { return Ok(newest) };
    let patterns = Patterns::parse(&text);
    let mut removed = 0;
    for item in &all {
        let path = config.build_dir.join(&item.path);
        let bytes = item.path.as_os_str().as_bytes();
        if !patterns.ignore(bytes, item.is_directory()) || fs::symlink_metadata(&path).is_err() {
            continue;
        }
        let gone =
            if item.is_directory() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        gone.map_err(|source| file(path, "removed", source))?;
        removed += 1;
    }
    console.title(&format!("Left out {removed} files and directories that .slugignore lists"));
    Ok(newest)
}

fn pack_error(what: &'static str, source: io::Error) -> BuildError {
    BuildError::Pack { what, source }
}

/// Restores the cache of the build before. Answers with what it holds; none if it could not be had.
async fn restore_cache(
    config: &Config,
    store: &Store,
    shop: &Workshop,
    env: &BTreeMap<String, String>,
    console: &Console,
) -> Result<Option<String>, BuildError> {
    let Some(url) = &config.cache_get_url else { return Ok(None) };
    if env::is_off(env, BUILD_CACHE) {
        console
            .title(&format!("Building without the cache of earlier builds ({BUILD_CACHE} is off)"));
        return Ok(None);
    }
    match store.unpack("cache", url, &shop.cache).await {
        Ok(None) => Ok(None),
        Ok(Some(_)) => {
            let items = list(&shop.cache, |_, _| false).map_err(|err| pack_error("cache", err))?;
            Ok(Some(fingerprint(&items)))
        }
        Err(err) => {
            console.error(&format!("The build goes on without its cache. {}", err.report()));
            empty(&shop.cache)?;
            Ok(None)
        }
    }
}

fn empty(cache: &Path) -> Result<(), BuildError> {
    let emptied = fs::remove_dir_all(cache).and_then(|()| fs::create_dir(cache));
    emptied.map_err(|source| file(cache.into(), "cleared", source))
}

/// Reads a text at the root of the app, if there is one: never more than a person writes, and never from a device or a
/// pipe that a link leads to.
pub(crate) fn small_text(
    build_dir: &Path,
    name: &'static str,
) -> Result<Option<String>, BuildError> {
    let path = build_dir.join(name);
    // What is no file is not opened at all: opening a pipe waits for the other side.
    match fs::metadata(&path) {
        Ok(metadata) if !metadata.is_file() || metadata.len() > MAX_TEXT => {
            return Err(BuildError::NoText { name });
        }
        Ok(_) => {}
        // Also a link that leads nowhere.
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(file(path, "read", source)),
    }
    let mut text = Vec::new();
    let read = fs::File::open(&path).and_then(|file| file.take(MAX_TEXT).read_to_end(&mut text));
    read.map_err(|source| file(path, "read", source))?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

fn read_procfile(build_dir: &Path) -> Result<Procfile, BuildError> {
    let text = small_text(build_dir, PROCFILE)?.unwrap_or_default();
    let procfile = Procfile::parse(&text);
    if let Some(&line) = procfile.bad_lines.first() {
        return Err(BuildError::Procfile { line });
    }
    match procfile.bad_types.first() {
        Some((line, bad)) => Err(BuildError::Type { line: *line, source: bad.clone() }),
        None => Ok(procfile),
    }
}

fn tell_types(procfile: &Procfile, release: &SlugRelease, name: &str, console: &Console) {
    let list = |types: &BTreeMap<String, String>| {
        types.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    };
    console.title("Discovering process types");
    if !procfile.types.is_empty() {
        console.say(&format!("Procfile declares types -> {}", list(&procfile.types)));
    }
    let mut defaults = release.default_process_types.clone();
    defaults.retain(|kind, _| !procfile.types.contains_key(kind));
    if !defaults.is_empty() {
        console.say(&format!("Default process types for {name} -> {}", list(&defaults)));
    }
    if procfile.types.is_empty() && defaults.is_empty() {
        console.error("There is nothing to run: add a Procfile that says what, such as\n  web: ./server --port $PORT");
    }
}

async fn pack_slug(config: &Config, newest: u64, console: &Console) -> Result<Packed, BuildError> {
    let git = |path: &Path, _| path == Path::new(".git");
    let items = list(&config.build_dir, git).map_err(|err| pack_error("slug", err))?;
    console.title(&format!("Packing {} files", items.len()));
    let (unpacked, limit) = (unpacked_size(&items), config.slug_unpacked_limit);
    if unpacked > limit {
        return Err(BuildError::TooMuch { unpacked, limit });
    }
    let (root, limit) = (&config.build_dir, config.slug_limit);
    let packed = pack_to_disk(root, &items, Some(newest), &config.work_dir, limit).await;
    packed.map_err(|err| pack_error("slug", err))?.ok_or(BuildError::TooLarge { limit })
}

/// Keeps the cache, if it changed. That it cannot be kept makes the next build slower, no more.
async fn keep_cache(
    config: &Config,
    store: &Store,
    shop: &Workshop,
    cached: Option<String>,
    console: &Console,
) -> Result<(), BuildError> {
    let Some(url) = &config.cache_put_url else { return Ok(()) };
    let listed = || list(&shop.cache, |_, _| false).map_err(|err| pack_error("cache", err));
    let mut items = listed()?;
    if unpacked_size(&items) > config.cache_limit {
        // Or every later build would restore what could not be replaced.
        let limit = size(config.cache_limit);
        console.error(&format!("The cache of builds has grown beyond {limit} and is emptied."));
        empty(&shop.cache)?;
        items = listed()?;
    }
    if cached.as_ref().map_or(items.is_empty(), |cached| *cached == fingerprint(&items)) {
        return Ok(());
    }
    let limit = u64::MAX;
    let kept = match pack_to_disk(&shop.cache, &items, None, &config.work_dir, limit).await {
        Ok(Some(packed)) => store.put("cache", url, &Arc::new(packed)).await,
        Ok(None) => Err(BuildError::TooLarge { limit }),
        Err(err) => Err(pack_error("cache", err)),
    };
    if let Err(err) = kept {
        console.error(&format!("The cache of this build is not kept. {}", err.report()));
    }
    Ok(())
}
