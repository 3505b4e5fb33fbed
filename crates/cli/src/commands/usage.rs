//! `usage`.

use api::usage::Usage;

use crate::{
    args::Listing,
    domain::{table, volumes::bytes},
    output,
    session::Session,
};

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let usage = controller.usage().await?;
    if args.json {
        return output::json(&usage);
    }
    let row = |usage: &Usage| {
        let name = match (&usage.app_name, usage.app) {
            (Some(name), _) => name.as_str(),
            (None, Some(_)) => "(deleted)",
            (None, None) => "(nobody's)",
        };
        let Usage { slugs, images, repository, cache, volumes, .. } = usage;
        let sizes = [usage.total(), *slugs, *images, *repository, *cache, *volumes].map(bytes);
        [vec![name.to_owned()], sizes.to_vec()].concat()
    };
    let rows: Vec<_> = usage.iter().filter(|usage| usage.total() > 0).map(row).collect();
    let header = ["APP", "TOTAL", "SLUGS", "IMAGES", "REPOSITORY", "BUILD CACHE", "VOLUMES"];
    Ok(output::text(&table::render(&header, &rows))?)
}
