//! `keys`, `key-add`, `key-remove`.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use api::{controller::Key, id::AppId};
use clap::Args;
use controller_client::Controller;

use super::Usage;
use crate::{
    args::Listing,
    domain::{
        keys::{fingerprint, public_keys, with_colons},
        table,
    },
    output,
    session::Session,
    stdio,
};

/// Where people have their keys, best first.
const FILES: [&str; 3] = ["id_ed25519.pub", "id_ecdsa.pub", "id_rsa.pub"];

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// A public key, `-` for stdin; if left out, all keys of the SSH agent, else ~/.ssh/id_*.pub
    #[arg(value_name = "PUBLIC-KEY-FILE")]
    file: Option<String>,
    /// Only to this app, or these if said again. In this command -a and --app mean this
    #[arg(long = "for-app", value_name = "APP")]
    apps: Vec<String>,
    #[command(flatten)]
    listing: Listing,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// As `flynn keys` shows it
    fingerprint: String,
}

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let keys = controller.keys().await?;
    if args.json {
        return output::json(&keys);
    }
    let names = match keys.iter().any(|key| !key.apps.is_empty()) {
        true => controller.apps().await?.into_iter().map(|app| (app.id, app.name)).collect(),
        false => BTreeMap::new(),
    };
    let row = |key: &Key| {
        let name = |app| names.get(app).cloned().unwrap_or_else(|| "(deleted)".into());
        let apps: Vec<String> = key.apps.iter().map(name).collect();
        vec![with_colons(&key.fingerprint), key.comment.clone(), apps.join(" ")]
    };
    let rows: Vec<_> = keys.iter().map(row).collect();
    Ok(output::text(&table::render(&[], &rows))?)
}

pub(crate) async fn add(session: &Session, args: &AddArgs) -> anyhow::Result<()> {
    let keys = match &args.file {
        Some(file) => of_file(file)?,
        None => of_person(session)?,
    };
    let (_, controller) = session.server()?;
    // An app that was named before the command is meant, too: a key never opens more than was said.
    let mut apps = args.apps.clone();
    apps.extend(session.globals.app.clone().filter(|app| !app.is_empty()));
    let (mut all_added, mut there) = (Vec::new(), Vec::new());
    for key in keys {
        match controller.add_key_for(&key, &apps).await {
            Ok(added) => {
                output::say(&format!("Key {} added.", with_colons(&added.fingerprint)));
                all_added.push(added);
            }
            // The others are still to be added.
            Err(err) if err.is_exists() => there.push(key),
            Err(err) => return Err(err.into()),
        }
    }
    if args.listing.json {
        output::json(&all_added)?;
    }
    if there.is_empty() { Ok(()) } else { check_apps(&controller, &there, &apps).await }
}

/// Says of keys that were there before that they are; fails where they open more or less than was asked for.
async fn check_apps(
    controller: &Controller,
    there: &[String],
    apps: &[String],
) -> anyhow::Result<()> {
    let all = controller.apps().await?;
    let known = controller.keys().await?;
    let of_line = |line: &str| line.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let is_named = |id: &AppId| {
        let name = all.iter().find(|app| app.id == *id).map(|app| &*app.name);
        apps.iter().any(|app| Some(&**app) == name || app.parse() == Ok(*id))
    };
    let mut others = Vec::new();
    for line in there {
        let Some(key) = known.iter().find(|key| key.key == of_line(line)) else { continue };
        let fingerprint = with_colons(&key.fingerprint);
        let same = key.apps.is_empty() == apps.is_empty()
            && key.apps.iter().all(is_named)
            && key.apps.len() >= apps.len();
        if same {
            output::say(&format!("Key {fingerprint} is there already."));
        } else {
            let whom = if key.apps.is_empty() { "every app" } else { "other apps" };
            others.push(format!(
                "key {fingerprint} may push to {whom}; to change that: flynn key-remove {fingerprint}, then add it again"
            ));
        }
    }
    if others.is_empty() { Ok(()) } else { bail!(others.join("\n")) }
}

pub(crate) async fn remove(session: &Session, args: &RemoveArgs) -> anyhow::Result<()> {
    let id = fingerprint(&args.fingerprint).ok_or_else(|| {
        Usage(format!(
            "{:?} is not a fingerprint: expected 32 hex digits, with or without colons, as `flynn keys` shows them",
            args.fingerprint
        ))
    })?;
    let (_, controller) = session.server()?;
    controller.remove_key(&id).await.map_err(|err| match err.is_not_found() {
        true => anyhow::anyhow!("no key has that fingerprint; `flynn keys` lists them"),
        false => err.into(),
    })?;
    output::say(&format!("Key {} removed.", with_colons(&id)));
    Ok(())
}

fn of_file(file: &str) -> anyhow::Result<Vec<String>> {
    if file == "-" {
        let mut text = String::new();
        stdio::stdin().read_to_string(&mut text).context("reading stdin")?;
        return Ok(public_keys(&text, "stdin")?);
    }
    let bytes = fs::read(file).with_context(|| format!("reading {file}"))?;
    Ok(public_keys(&String::from_utf8_lossy(&bytes), file)?)
}

/// The keys a person would push with: all of their agent, or else their own files.
fn of_person(session: &Session) -> anyhow::Result<Vec<String>> {
    if let Some(listing) = agent() {
        return Ok(public_keys(&listing, "the SSH agent")?);
    }
    let home = session.globals.env_home.as_deref().unwrap_or(Path::new("."));
    for name in FILES {
        let path = home.join(".ssh").join(name);
        match fs::read_to_string(&path) {
            Ok(text) => return Ok(public_keys(&text, &path.display().to_string())?),
            Err(err) if err.kind() == ErrorKind::NotFound => {}
            Err(err) => return Err(err).with_context(|| format!("reading {}", path.display())),
        }
    }
    bail!(
        "no SSH key was found: the agent has none, and there is no ~/.ssh/{}. `ssh-keygen -t ed25519` makes one; \
         `flynn key-add <file>` takes one from elsewhere",
        FILES.join(", ~/.ssh/")
    )
}

/// What the agent lists, if there is one and it has keys.
fn agent() -> Option<String> {
    let output = Command::new("ssh-add").arg("-L").stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
