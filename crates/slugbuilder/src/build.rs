//! The build, step by step.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use api::slug::{BuildResult, PROCFILE, Procfile, RELEASE_FILE, SlugFile, SlugRelease};

use crate::{
    buildpack::{Buildpack, Workshop, fetch},
    config::Config,
    console::Console,
    domain::{
        ignore::Patterns,
        order::{self, Known},
        output::size,
        source::Source,
    },
    error::BuildError,
    pack::{fingerprint, list},
    transfer::{Store, Upload},
};

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

/// Builds the app that `config` names, and uploads slug, cache and result.
pub async fn build(config: &Config, console: &Console) -> Result<(), BuildError> {
    let env: BTreeMap<String, String> =
        serde_json::from_str(&config.build_env).map_err(BuildError::Environment)?;
    let store = Store::default();
    let mut shop = workshop(config, &env)?;
    let newest = unpack_source(config, &store, console).await?;
    let cached = restore_cache(config, &store, &shop, console).await?;
    let buildpacks = choose(config, &env, &shop, console).await?;

    let mut release = SlugRelease::default();
    for Chosen { buildpack, name } in &buildpacks {
        console.title(&format!("{name} app detected"));
        buildpack.compile(&shop, console).await?;
        // As with Heroku, the last one decides what the app runs.
        release = buildpack.release(&shop).await?;
        shop.exports.extend(buildpack.export());
    }
    let name = buildpacks.last().map(|chosen| chosen.name.clone()).unwrap_or_default();
    let procfile = read_procfile(&config.build_dir)?;
    tell_types(&procfile, &release, &name, console);
    let text = serde_json::to_string_pretty(&release).expect("a release is plain text");
    let place = config.build_dir.join(RELEASE_FILE);
    fs::write(&place, text).map_err(|source| file(place, "written", source))?;

    let (slug, ()) = tokio::try_join!(
        upload_slug(config, &store, newest, console),
        upload_cache(config, &store, &shop, cached, console),
    )?;
    console.title(&format!("Compiled slug size is {}", size(slug.size)));
    let result = result(procfile, release, name, slug);
    store.put_result(&config.result_put_url, &result).await
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

fn file(path: PathBuf, done: &'static str, source: io::Error) -> BuildError {
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
    // What cannot be a file's name is no variable a buildpack could want.
    let names = env.iter().filter(|(name, _)| {
        !name.is_empty()
            && name.len() < 256
            && !name.starts_with('.')
            && !name.contains(['/', '\0'])
    });
    for (name, value) in names {
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
    console: &Console,
) -> Result<u64, BuildError> {
    let unpacked = store.unpack("source", &config.source_url, &config.build_dir).await?;
    let all = list(&config.build_dir, |_, _| false).map_err(|err| pack_error("source", err))?;
    let Some(newest) = unpacked.filter(|_| !all.is_empty()) else { return Err(BuildError::Empty) };
    let ignore = config.build_dir.join(".slugignore");
    let Ok(text) = fs::read(&ignore) else { return Ok(newest) };
    let patterns = Patterns::parse(&String::from_utf8_lossy(&text));
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
    console: &Console,
) -> Result<Option<String>, BuildError> {
    let Some(url) = &config.cache_get_url else { return Ok(None) };
    match store.unpack("cache", url, &shop.cache).await {
        Ok(None) => Ok(None),
        Ok(Some(_)) => {
            let items = list(&shop.cache, |_, _| false).map_err(|err| pack_error("cache", err))?;
            Ok(Some(fingerprint(&items)))
        }
        Err(err) => {
            console.error(&format!("The build goes on without its cache. {}", err.report()));
            let cleared =
                fs::remove_dir_all(&shop.cache).and_then(|()| fs::create_dir(&shop.cache));
            cleared.map_err(|source| file(shop.cache.clone(), "cleared", source))?;
            Ok(None)
        }
    }
}

/// A buildpack that builds the app, and what it calls it.
struct Chosen {
    buildpack: Buildpack,
    name: String,
}

async fn choose(
    config: &Config,
    env: &BTreeMap<String, String>,
    shop: &Workshop,
    console: &Console,
) -> Result<Vec<Chosen>, BuildError> {
    let ours = Ours::copy(config)?;
    let names = ours.names();
    let wish = env.get("BUILDPACK_URL").map(|url| url.trim()).filter(|url| !url.is_empty());
    if let Some(url) = wish {
        let of = "BUILDPACK_URL";
        let source =
            Source::parse(url, &names).map_err(|source| BuildError::Source { of, source })?;
        let buildpack = ours.get(&source, 0, config, shop, console).await?;
        // Whoever names a buildpack wants it, whatever it looks for.
        let detected = buildpack.detect(shop).await?.filter(|name| !name.is_empty());
        let name = detected.unwrap_or_else(|| buildpack.name.clone());
        return Ok(vec![Chosen { buildpack, name }]);
    }
    if let Ok(text) = fs::read_to_string(config.build_dir.join(".buildpacks")) {
        let of = ".buildpacks";
        let sources = Source::parse_list(&text, &names)
            .map_err(|source| BuildError::Source { of, source })?;
        let mut chosen = Vec::new();
        for (at, source) in sources.iter().enumerate() {
            let buildpack = ours.get(source, at, config, shop, console).await?;
            let name = buildpack.detect(shop).await?;
            let name = name.ok_or_else(|| BuildError::Unwanted { name: buildpack.name.clone() })?;
            chosen.push(Chosen { buildpack, name });
        }
        if !chosen.is_empty() {
            return Ok(chosen);
        }
    }
    for known in &ours.known {
        let buildpack = ours.open(known)?;
        if let Some(name) = buildpack.detect(shop).await? {
            let name = if name.is_empty() { known.name.clone() } else { name };
            return Ok(vec![Chosen { buildpack, name }]);
        }
    }
    Err(BuildError::NoBuildpack(order::none_wants(&ours.known)))
}

/// Our buildpacks, where they may write.
struct Ours {
    directory: PathBuf,
    known: Vec<Known>,
}

impl Ours {
    fn copy(config: &Config) -> Result<Self, BuildError> {
        let directory = config.work_dir.join("buildpacks");
        copy(&config.buildpacks_dir, &directory)
            .map_err(|source| file(config.buildpacks_dir.clone(), "copied", source))?;
        let order = directory.join("order");
        let text = fs::read_to_string(&order).map_err(|source| file(order, "read", source))?;
        Ok(Self { directory, known: order::parse(&text) })
    }

    fn names(&self) -> Vec<&str> {
        self.known.iter().map(|known| known.directory.as_str()).collect()
    }

    fn open(&self, known: &Known) -> Result<Buildpack, BuildError> {
        Buildpack::open(&known.name, self.directory.join(&known.directory))
    }

    async fn get(
        &self,
        source: &Source,
        at: usize,
        config: &Config,
        shop: &Workshop,
        console: &Console,
    ) -> Result<Buildpack, BuildError> {
        match source {
            Source::Known(name) => Buildpack::open(name, self.directory.join(name)),
            Source::Git { url, reference } => {
                console.title(&format!("Fetching buildpack {url}"));
                let place = config.work_dir.join(format!("buildpack-{at}"));
                fetch(url, reference.as_deref(), &place, shop, console).await?;
                Buildpack::open("custom", place)
            }
        }
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            fs::copy(entry.path(), place)?;
        }
    }
    Ok(())
}

fn read_procfile(build_dir: &Path) -> Result<Procfile, BuildError> {
    let path = build_dir.join(PROCFILE);
    let procfile = match fs::read(&path) {
        Ok(text) => Procfile::parse(&String::from_utf8_lossy(&text)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Procfile::default(),
        Err(source) => return Err(file(path, "read", source)),
    };
    match procfile.bad_lines.first() {
        Some(&line) => Err(BuildError::Procfile { line }),
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

async fn upload_slug(
    config: &Config,
    store: &Store,
    newest: u64,
    console: &Console,
) -> Result<SlugFile, BuildError> {
    let git = |path: &Path, _| path == Path::new(".git");
    let items = list(&config.build_dir, git).map_err(|err| pack_error("slug", err))?;
    console.title(&format!("Packing {} files", items.len()));
    let (url, root) = (&*config.slug_put_url, &*config.build_dir);
    let (time, limit) = (Some(newest), config.slug_limit);
    store.pack(Upload { what: "slug", url, root, items: &items, time, limit }).await
}

/// Uploads the cache, if it changed. That it cannot be kept makes the next build slower, no more.
async fn upload_cache(
    config: &Config,
    store: &Store,
    shop: &Workshop,
    cached: Option<String>,
    console: &Console,
) -> Result<(), BuildError> {
    let Some(url) = &config.cache_put_url else { return Ok(()) };
    let items = list(&shop.cache, |_, _| false).map_err(|err| pack_error("cache", err))?;
    let unchanged = match &cached {
        Some(cached) => *cached == fingerprint(&items),
        None => items.is_empty(),
    };
    if unchanged {
        return Ok(());
    }
    let root = &shop.cache;
    let upload = Upload { what: "cache", url, root, items: &items, time: None, limit: u64::MAX };
    if let Err(err) = store.pack(upload).await {
        console.error(&format!("The cache of this build is not kept. {}", err.report()));
    }
    Ok(())
}
