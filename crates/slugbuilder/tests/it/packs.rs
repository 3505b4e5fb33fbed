//! Our buildpacks, pushed twice with a change in between, compared with a clean build of the changed tree. npm and pip
//! find everything in the repository.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use crate::common::{Build, Store, write};

/// An app in a folder, and where all of its builds happen: packages remember where they are.
struct App {
    source: TempDir,
    place: TempDir,
    env: BTreeMap<String, String>,
}

impl App {
    fn new(files: &[(&str, &str)]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let app = Self { source: tempfile::tempdir().unwrap(), place, env: BTreeMap::new() };
        app.write(files);
        app
    }

    fn write(&self, files: &[(&str, &str)]) {
        write(self.source.path(), files);
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    fn sh(&self, script: &str) {
        let mut shell = Command::new("bash");
        shell.args(["-euc", script]).current_dir(self.source.path());
        let output = shell.output().unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
    }

    fn build_dir(&self) -> PathBuf {
        self.place.path().join("app")
    }

    /// Builds it; what was said. The built app stays in the build directory.
    async fn build(&self, store: &Store) -> String {
        let _ = fs::remove_dir_all(self.build_dir());
        store.set("env", serde_json::to_vec(&self.env).unwrap());
        let build = Build::of_folder(store, self.source.path())
            .option(&format!("--build-dir={}", self.build_dir().display()))
            .option("--env-url=STORE/env");
        let said = build.said.clone();
        let built = build.run().await;
        let said = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
        built.unwrap_or_else(|err| panic!("{}\n{said}", err.report()));
        said
    }

    /// Builds it out of a cache, and then anew: both must be the same to the last byte.
    async fn build_twice(&self, store: &Store) {
        self.build(store).await;
        let (cached, result) = (fingerprint(&self.build_dir()), store.result());
        let clean = Store::start().await;
        self.build(&clean).await;
        assert_eq!(cached, fingerprint(&self.build_dir()));
        assert_eq!(result, clean.result());
    }

    fn run(&self, words: &[&str]) -> String {
        let output =
            Command::new(words[0]).args(&words[1..]).current_dir(self.build_dir()).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A package of npm as a file in the folder `vendor`.
    fn vendor(&self, name: &str, version: &str, files: &[(&str, &str)]) {
        let package = tempfile::tempdir().unwrap();
        write(package.path(), files);
        if !package.path().join("package.json").exists() {
            let json = format!(r#"{{"name": "{name}", "version": "{version}"}}"#);
            write(package.path(), &[("package.json", &json)]);
        }
        let vendor = self.source.path().join("vendor");
        fs::create_dir_all(&vendor).unwrap();
        let mut npm = Command::new("npm");
        npm.args(["pack", "--silent", "--pack-destination"]).arg(&vendor);
        let output = npm.current_dir(package.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }

    fn lock(&self) {
        self.sh("npm install --package-lock-only --ignore-scripts --offline --no-audit --no-fund");
    }
}

/// Names and contents of all files.
fn fingerprint(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            files.insert(
                path.clone(),
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            );
        } else if path.is_dir() {
            files.extend(fingerprint(&path));
        } else {
            files.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    files
}

#[tokio::test]
async fn npm_workspaces_keep_the_versions_of_the_lock_file() {
    let app = App::new(&[
        (
            "package.json",
            r#"{"name": "root", "version": "1.0.0", "workspaces": ["packages/*"],
                "dependencies": {"dep": "file:vendor/dep-1.0.0.tgz"}}"#,
        ),
        (
            "packages/b/package.json",
            r#"{"name": "b", "version": "1.0.0", "dependencies": {"dep": "file:../../vendor/dep-2.0.0.tgz"}}"#,
        ),
        ("packages/b/index.js", "module.exports = require('dep/package.json').version\n"),
        ("server.js", "console.log(require('dep/package.json').version, require('b'))\n"),
        ("vendor/.keep", ""),
    ]);
    app.vendor("dep", "1.0.0", &[]);
    app.vendor("dep", "2.0.0", &[]);
    app.lock();
    let store = Store::start().await;
    app.build(&store).await;
    assert_eq!(app.run(&["node", "server.js"]), "1.0.0 2.0.0");
    app.write(&[("unrelated.txt", "changed")]);
    app.build_twice(&store).await;
    assert_eq!(app.run(&["node", "server.js"]), "1.0.0 2.0.0");
}

#[tokio::test]
async fn install_scripts_that_read_the_app_see_what_it_is_now() {
    let app = App::new(&[
        (
            "package.json",
            r#"{"name": "root", "version": "1.0.0", "dependencies": {"gen": "file:vendor/gen-1.0.0.tgz"}}"#,
        ),
        ("schema", "one"),
        ("server.js", "console.log(require('gen/generated.json'))\n"),
    ]);
    app.vendor(
        "gen",
        "1.0.0",
        &[
            (
                "package.json",
                r#"{"name": "gen", "version": "1.0.0", "scripts": {"postinstall": "node gen.js"}}"#,
            ),
            (
                "gen.js",
                "const fs = require('fs'), of = process.env.INIT_CWD + '/schema'\n\
                 const made = fs.readFileSync(of, 'utf8') + ' ' + process.env.FLAVOUR\n\
                 fs.writeFileSync('generated.json', JSON.stringify(made))\n",
            ),
        ],
    );
    app.lock();
    let app = app.env("FLAVOUR", "sweet");
    let store = Store::start().await;
    app.build(&store).await;
    assert_eq!(app.run(&["node", "server.js"]), "one sweet");
    app.write(&[("schema", "two")]);
    let app = app.env("FLAVOUR", "sour");
    app.build_twice(&store).await;
    assert_eq!(app.run(&["node", "server.js"]), "two sour");
}

#[tokio::test]
async fn development_dependencies_are_there_in_the_build_and_gone_afterwards() {
    let app = App::new(&[
        (
            "package.json",
            r#"{"name": "root", "version": "1.0.0", "dependencies": {"dep": "file:vendor/dep-1.0.0.tgz"},
                "devDependencies": {"tool": "file:vendor/tool-1.0.0.tgz"},
                "scripts": {"build": "node -p \"require('tool/package.json').version\" >built"}}"#,
        ),
        (
            "has.js",
            "const has = name => { try { return !!require.resolve(name + '/package.json') } catch { return false } }\n\
             console.log(has('dep'), has('tool'))\n",
        ),
    ]);
    app.vendor("dep", "1.0.0", &[]);
    app.vendor("tool", "1.0.0", &[]);
    app.lock();
    let app = app.env("NODE_ENV", "production").env("NPM_CONFIG_PRODUCTION", "true");
    let store = Store::start().await;
    for change in ["1", "2"] {
        app.write(&[("change", change)]);
        app.build(&store).await;
        assert_eq!(app.run(&["cat", "built"]), "1.0.0");
        assert_eq!(app.run(&["node", "has.js"]), "true false");
    }
    let app = app.env("NPM_CONFIG_PRODUCTION", "false").env("NODE_MODULES_CACHE", "false");
    app.build_twice(&store).await;
    assert_eq!(app.run(&["node", "has.js"]), "true true");
}

/// Variables with every name and value that somebody has broken a build with.
fn strange() -> BTreeMap<String, String> {
    let names = [
        "UID",
        "EUID",
        "PPID",
        "GROUPS",
        "RANDOM",
        "SECONDS",
        "LINENO",
        "FUNCNAME",
        "DIRSTACK",
        "PIPESTATUS",
        "name",
        "file",
        "cache",
        "build",
        "env_dir",
        "settings",
        "app_env",
        "value",
        "bytes",
        "total",
        "lock",
        "node",
        "script",
        "CACHE_DIR",
        "BUILD_DIR",
        "ENV_DIR",
        "SLUG_PUT_URL",
        "STACK",
        "WORK_DIR",
        "lower_case9",
        "_UNDER",
    ];
    let mut all: BTreeMap<String, String> =
        names.map(|name| (name.to_owned(), format!("redis://{name}:6379"))).into();
    for (name, value) in [
        ("PEM", "-----BEGIN KEY-----\nMIIB\nAAAA=\n-----END KEY-----\n"),
        ("DOLLAR", "a$b$HOME${PATH}$(id)`id`$$1"),
        ("QUOTES", "it's \"quoted\" \\'x\\'"),
        ("HASH", "p#ss;word&|<>!*?[x]{y}~"),
        ("EQUALS", "=a=b=="),
        ("SPACES", "  two  in front, a tab\t, two behind  "),
        ("UNI", "Zoë \u{1f680} 名前 \u{202e} \u{a0}"),
        ("PERCENT", "100%% %s %d %n"),
        ("EMPTY", ""),
        ("NEWLINES", "\n\nx\n\n"),
        ("CR", "dos\r\nlines\r\n"),
        ("DASH", "-n"),
        ("ANSI", "\u{1b}[31mred\u{1b}[0m"),
    ] {
        all.insert(name.into(), value.into());
    }
    // A megabyte together, of which no variable has more than the system lets one have.
    for at in 0..9 {
        all.insert(format!("LONG_{at}"), "x".repeat(120_000));
    }
    all
}

#[tokio::test]
async fn a_variable_may_have_any_name_and_value() {
    let mut app = App::new(&[(
        "package.json",
        r#"{"name": "env", "version": "1.0.0", "scripts": {
            "build": "node -e \"require('fs').writeFileSync('built.json', JSON.stringify(process.env))\""}}"#,
    )]);
    app.env = strange();
    // What would break the shell that runs the build is left out.
    app.env.insert("PATH".into(), "/nowhere".into());
    app.env.insert("OPTIND".into(), "x".into());
    app.env.insert("SHELLOPTS".into(), "x".into());
    app.env.insert("TOO_LONG".into(), "x".repeat(200_000));
    let store = Store::start().await;
    let said = app.build(&store).await;
    assert!(said.contains("TOO_LONG has 200009 bytes"), "{said}");
    let built = fs::read(app.build_dir().join("built.json")).unwrap();
    let built: BTreeMap<String, String> = serde_json::from_slice(&built).unwrap();
    // The shell that npm starts has a PPID of its own.
    for (name, value) in strange().into_iter().filter(|(name, _)| name != "PPID") {
        assert_eq!(built.get(&name), Some(&value), "{name}");
    }
    let mut files: Vec<_> =
        fs::read_dir(app.build_dir()).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, [".profile.d", ".release", "built.json", "package.json"]);

    // So many that no program could be started is a sentence, not a riddle.
    for at in 0..20 {
        app.env.insert(format!("MORE_{at}"), "x".repeat(120_000));
    }
    let _ = fs::remove_dir_all(app.build_dir());
    store.set("env", serde_json::to_vec(&app.env).unwrap());
    let build = Build::of_folder(&store, app.source.path()).option("--env-url=STORE/env");
    let said = build.said.clone();
    build.run().await.unwrap_err();
    let said = String::from_utf8_lossy(&said.lock().unwrap()).into_owned();
    assert!(said.contains("The environment of the app has"), "{said}");
}

/// A wheel, which is a zip of a module and what pip wants to know of it.
const WHEEL: &str = r#"
import sys, zipfile
text, name = sys.argv[1], 'vendor/demo-1.0-py3-none-any.whl'
info = 'demo-1.0.dist-info/'
import os; os.makedirs('vendor', exist_ok=True)
with zipfile.ZipFile(name, 'w') as wheel:
    def put(path, text): wheel.writestr(zipfile.ZipInfo(path), text)
    put('demo.py', 'TEXT = %r\n' % text)
    put(info + 'METADATA', 'Metadata-Version: 2.1\nName: demo\nVersion: 1.0\n')
    put(info + 'WHEEL', 'Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
    put(info + 'RECORD', 'demo.py,,\n%sMETADATA,,\n%sWHEEL,,\n%sRECORD,,\n' % (info, info, info))
"#;

#[tokio::test]
async fn python_installs_what_the_requirements_name_now() {
    let app = App::new(&[("wheel.py", WHEEL), ("Procfile", "web: python3 app.py\n")])
        .env("PIP_NO_INDEX", "1");
    app.sh("python3 wheel.py one");
    // As PowerShell writes it.
    app.sh(r"{ printf '\xff\xfe'; printf './vendor/demo-1.0-py3-none-any.whl\r\n' | iconv -f utf-8 -t utf-16le; } >requirements.txt");
    let store = Store::start().await;
    app.build(&store).await;
    let demo = [".venv/bin/python", "-c", "import demo; print(demo.TEXT)"];
    assert_eq!(app.run(&demo), "one");
    app.sh("python3 wheel.py two");
    app.build_twice(&store).await;
    assert_eq!(app.run(&demo), "two");
}

#[tokio::test]
async fn static_sites_and_procfiles_are_what_was_pushed_last() {
    let store = Store::start().await;
    let app = App::new(&[("index.html", "one"), ("old.html", "")]);
    app.build(&store).await;
    fs::remove_file(app.source.path().join("old.html")).unwrap();
    app.write(&[("index.html", "two")]);
    app.build_twice(&store).await;
    assert!(!app.build_dir().join("old.html").exists());

    let store = Store::start().await;
    let app = App::new(&[("Procfile", "web: ./one\n")]);
    app.build(&store).await;
    app.write(&[("Procfile", "worker: ./two\n")]);
    app.build_twice(&store).await;
    assert_eq!(store.result().types.keys().collect::<Vec<_>>(), ["worker"]);
}

#[tokio::test]
async fn an_app_of_two_languages_learns_how_to_have_both() {
    let app = App::new(&[
        ("package.json", r#"{"name": "assets", "version": "1.0.0", "scripts": {"build": "echo assets >assets"}}"#),
        ("wheel.py", WHEEL),
        ("requirements.txt", "./vendor/demo-1.0-py3-none-any.whl\n"),
    ])
    .env("PIP_NO_INDEX", "1");
    app.sh("python3 wheel.py one");
    let store = Store::start().await;
    let said = app.build(&store).await;
    assert!(said.contains("Node.js is taken, Python is not"), "{said}");
    app.write(&[(".buildpacks", "nodejs\npython\n")]);
    let said = app.build(&store).await;
    assert!(!said.contains("More than one buildpack"), "{said}");
    assert_eq!(app.run(&["cat", "assets"]), "assets");
    assert_eq!(app.run(&[".venv/bin/python", "-c", "import demo; print(demo.TEXT)"]), "one");
}
