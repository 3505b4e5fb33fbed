//! Which buildpacks build an app.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    build::{file, small_text},
    buildpack::{Buildpack, Workshop},
    config::Config,
    console::Console,
    domain::{
        order::{self, Known},
        source::Source,
    },
    error::BuildError,
    fetch::fetch,
};

/// A buildpack that builds the app, and what it calls it.
pub(crate) struct Chosen {
    pub(crate) buildpack: Buildpack,
    pub(crate) name: String,
}

/// Chooses the buildpacks that build the app.
pub(crate) async fn choose(
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
    if let Some(text) = small_text(&config.build_dir, ".buildpacks")? {
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
    let mut chosen: Option<(Chosen, &Known)> = None;
    let mut others = Vec::new();
    for known in &ours.known {
        // Once there is one, the others are only asked to say that they would have built something, too.
        if chosen.is_some() && !known.is_language {
            continue;
        }
        let buildpack = ours.open(known)?;
        let Some(name) = buildpack.detect(shop).await? else { continue };
        let name = if name.is_empty() { known.name.clone() } else { name };
        if chosen.is_some() {
            others.push(known);
        } else {
            chosen = Some((Chosen { buildpack, name }, known));
        }
    }
    if let Some((chosen, known)) = chosen {
        if !others.is_empty() {
            console.error(&order::several(known, &others));
        }
        return Ok(vec![chosen]);
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
                console.title(&format!("Fetching buildpack {}", url.shown()));
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
