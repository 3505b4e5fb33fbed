//! Whole builds, against a store on the wire, with our own buildpacks and one made for the test. No network.

use std::{fs, os::unix::fs::PermissionsExt};

use api::slug::SlugRelease;
use clap::Parser;
use slugbuilder::console::Console;

use crate::common::{Build, Store, slug, tar, write};

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

#[tokio::test]
async fn names_that_no_process_can_have_are_refused_before_anything_is_built() {
    let store = Store::start().await;
    let packs = tempfile::tempdir().unwrap();
    write(packs.path(), &PACK);
    for (line, why) in [
        ("Api_v2-web: x", "the type \"Api_v2-web\" is served over HTTP"),
        (&format!("{}: x", "x".repeat(41)), "at most 40 are possible"),
    ] {
        let procfile = format!("worker: w\n{line}\n");
        let build = Build::of(&store, &[("wanted", ""), ("Procfile", &procfile)]);
        let build = build.with(packs.path()).option(r#"--build-env={"GREETING":"hi"}"#);
        let output = build.said.clone();
        let said = refusal(&store, build).await;
        assert!(said.starts_with("Line 2 of the Procfile") && said.contains(why), "{said}");
        let output = String::from_utf8(output.lock().unwrap().clone()).unwrap();
        assert!(!output.contains("Packed app detected"), "{output}");
    }
    let said = refusal(&store, Build::of(&store, &[("Procfile", "web: x\n"), (".release/x", "")]));
    let said = said.await;
    assert!(said.contains("a folder .release") && said.contains("rename it"), "{said}");
}

#[tokio::test]
async fn links_to_devices_and_bytes_that_are_no_text_end_no_build_in_silence() {
    let store = Store::start().await;
    for name in ["Procfile", ".slugignore", ".buildpacks"] {
        let source = tempfile::tempdir().unwrap();
        write(source.path(), &[("index.html", "")]);
        std::os::unix::fs::symlink("/dev/zero", source.path().join(name)).unwrap();
        let said = refusal(&store, Build::of_folder(&store, source.path())).await;
        assert!(said.contains(name), "{said}");
    }
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("index.html", "")]);
    fs::write(source.path().join(".buildpacks"), b"caf\xe9\n").unwrap();
    let said = refusal(&store, Build::of_folder(&store, source.path())).await;
    assert!(said.starts_with(".buildpacks: "), "{said}");
    // A link to nowhere is no Procfile; one inside of the repository is.
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("web.procfile", "web: x\n")]);
    std::os::unix::fs::symlink("nowhere", source.path().join(".slugignore")).unwrap();
    std::os::unix::fs::symlink("web.procfile", source.path().join("Procfile")).unwrap();
    Build::of_folder(&store, source.path()).run().await.unwrap();
    assert_eq!(store.result().types["web"], "x");
}

#[tokio::test]
async fn what_unpacks_to_too_much_is_refused_however_small_it_packs() {
    let store = Store::start().await;
    let zeros = "0".repeat(3 << 20);
    let files = [("Procfile", "web: x\n"), ("zeros", &*zeros)];
    let build = Build::of(&store, &files).option("--slug-unpacked-limit=2097152");
    let said = refusal(&store, build).await;
    assert!(said.contains("would unpack to 3.0M; it may have 2.0M"), "{said}");
    Build::of(&store, &files).run().await.unwrap();
}

#[tokio::test]
async fn a_cache_is_bounded_and_can_be_cleared() {
    let store = Store::start().await;
    let packs = tempfile::tempdir().unwrap();
    write(packs.path(), &PACK);
    let builds = async |env: &str, option: &str| {
        let build = Build::of(&store, &[("wanted", "")]).with(packs.path());
        build.option(&format!("--build-env={env}")).option(option).run().await.unwrap();
        let place = slug(&store).await;
        fs::read_to_string(place.path().join("builds")).unwrap().lines().count()
    };
    let plain = r#"{"GREETING":"hi"}"#;
    assert_eq!(builds(plain, "--stack=s").await, 1);
    assert_eq!(builds(plain, "--stack=s").await, 2);
    assert_eq!(builds(r#"{"GREETING":"hi","BUILD_CACHE":"false"}"#, "--stack=s").await, 1);
    assert_eq!(builds(plain, "--stack=s").await, 2, "the cleared one is kept");
    // One that has grown beyond its bound is left behind.
    assert_eq!(builds(plain, "--cache-limit=5").await, 3);
    assert_eq!(builds(plain, "--stack=s").await, 1);
}

#[tokio::test]
async fn the_credentials_of_a_buildpack_reach_its_host_and_no_output() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let ask = {
        let seen = seen.clone();
        move |headers: axum::http::HeaderMap| {
            let given =
                headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
            seen.lock().unwrap().push(given);
            std::future::ready((
                axum::http::StatusCode::UNAUTHORIZED,
                [("www-authenticate", "Basic realm=\"packs\"")],
            ))
        }
    };
    let router = axum::Router::new().fallback(ask);
    let store = Store::start().await;
    let url = format!("http://me:s3cr%65t@127.0.0.1:{port}/pack.git?key=t0ken");
    let build = Build::of(&store, &[("x", "")])
        .option(&format!("--build-env={}", serde_json::json!({ "BUILDPACK_URL": url })));
    let output = build.said.clone();
    let said = tokio::select! {
        said = refusal(&store, build) => said,
        _ = axum::serve(listener, router) => unreachable!("it serves for ever"),
    };
    let output = String::from_utf8(output.lock().unwrap().clone()).unwrap();
    assert!(
        output.contains(&format!("Fetching buildpack http://127.0.0.1:{port}/pack.git")),
        "{output}"
    );
    assert!(said.contains("could not be fetched"), "{said}");
    for secret in ["s3cr", "t0ken"] {
        assert!(!output.contains(secret) && !said.contains(secret), "{secret}: {output}{said}");
    }
    // me:s3cret
    let basic = Some("Basic bWU6czNjcmV0".to_owned());
    assert!(seen.lock().unwrap().contains(&basic), "{seen:?}");
}

#[tokio::test]
async fn without_a_cluster_the_source_comes_on_stdin_and_the_slug_goes_to_a_file_or_a_url() {
    let store = Store::start().await;
    let source = tempfile::tempdir().unwrap();
    write(source.path(), &[("Procfile", "web: x\n")]);
    let work = tempfile::tempdir().unwrap();
    let place = work.path().join("slug.tgz");
    for target in [place.display().to_string(), format!("{}/slug", store.base)] {
        let path = |name: &str| work.path().join(name).display().to_string();
        let _ = fs::remove_dir_all(path("app"));
        let config = slugbuilder::Config::parse_from([
            "slugbuilder".to_owned(),
            target,
            format!("--build-dir={}", path("app")),
            format!("--work-dir={}", path("work")),
            format!("--buildpacks-dir={}", crate::common::our_buildpacks().display()),
        ]);
        let (console, tar) = (Console::new(std::io::sink()), tar(source.path(), &["."]));
        let transfers = slugbuilder::transfer::Store::default();
        slugbuilder::build_with(&config, &console, &transfers, &tar[..]).await.unwrap();
        let nothing = slugbuilder::build_with(&config, &console, &transfers, &b""[..]).await;
        assert!(nothing.unwrap_err().report().contains("git archive master"));
    }
    assert_eq!(store.blob("slug").unwrap(), fs::read(place).unwrap());
}
