//! What no compiler checks.

mod layers;

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, bail};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// A file is one sitting.
const FILE_LINES: usize = 500;
/// Names that say nothing about what is inside.
const BANNED: [&str; 6] = ["utils", "util", "helpers", "common", "misc", "manager"];

pub(crate) fn check() -> anyhow::Result<()> {
    let metadata = MetadataCommand::new().no_deps().exec().context("reading the workspace")?;
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let folder = package.manifest_path.parent().context("a manifest is in a folder")?;
        links(package, &metadata.packages, &mut faults);
        if !folder.join("README.md").exists() {
            faults.push(format!("{}: has no README.md", package.name));
        }
        let manifest = fs::read_to_string(&package.manifest_path)?;
        if !manifest.contains("[lints]\nworkspace = true") {
            faults.push(format!("{}: does not use the workspace's lints", package.name));
        }
        files(folder.as_std_path(), &mut faults)?;
    }
    if !faults.is_empty() {
        bail!("tidy found:\n  {}", faults.join("\n  "));
    }
    Ok(())
}

fn links(package: &Package, all: &[Package], faults: &mut Vec<String>) {
    let ours: BTreeSet<&str> = all.iter().map(|package| package.name.as_str()).collect();
    let Some((_, allowed)) = layers::LAYERS.iter().find(|(name, _)| *name == package.name.as_str())
    else {
        faults.push(format!("{}: is not in xtask/src/tidy/layers.rs", package.name));
        return;
    };
    for dependency in &package.dependencies {
        let name = dependency.name.as_str();
        let linked = dependency.kind == DependencyKind::Normal && ours.contains(name);
        if linked && !allowed.contains(&name) {
            faults.push(format!(
                "{}: may not link {name}; add it to xtask/src/tidy/layers.rs and say why in the commit",
                package.name
            ));
        }
    }
}

fn files(folder: &Path, faults: &mut Vec<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if stem != "target" {
                files(&path, faults)?;
            }
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        if BANNED.contains(&stem.as_str()) {
            faults.push(format!("{}: the name says nothing about what is inside", path.display()));
        }
        let test = path.components().any(|part| part.as_os_str() == "tests") || stem == "tests";
        let lines = fs::read_to_string(&path)?.lines().count();
        if lines > FILE_LINES && !test {
            faults.push(format!(
                "{}: {lines} lines; a file has at most {FILE_LINES}",
                path.display()
            ));
        }
    }
    Ok(())
}
