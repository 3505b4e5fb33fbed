//! Whole builds, against a store on the wire, with our own buildpacks and one made for the test. No network.

#![expect(clippy::unwrap_used, reason = "a test may fail that way")]

mod common;

use std::{fs, os::unix::fs::PermissionsExt};

use api::slug::SlugRelease;
use common::{Build, Store, slug, tar, write};

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
