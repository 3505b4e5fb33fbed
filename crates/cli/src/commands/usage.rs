//! `usage`.

use api::usage::Usage;

use crate::{
    args::Listing,
    domain::{table, volumes::bytes},
    output,
    session::Session,
};

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    // Only an app that is named: every folder may be of one.
    let (controller, app) = if session.globals.app.is_some() {
        let target = session.app()?;
        let app = target.app().await?.id;
        (target.controller, Some(app))
    } else {
        (session.server()?.1, None)
    };
    let mut usage = controller.usage().await?;
    usage.retain(|usage| app.is_none() || usage.app == app);
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
    let shown = deleted_as_one(usage);
    let rows: Vec<_> = shown.iter().filter(|usage| usage.total() > 0).map(row).collect();
    let header = ["APP", "TOTAL", "SLUGS", "IMAGES", "REPOSITORY", "BUILD CACHE", "VOLUMES"];
    Ok(output::text(&table::render(&header, &rows))?)
}

/// What is listed, with all deleted apps in one line, where the first was.
fn deleted_as_one(usage: Vec<Usage>) -> Vec<Usage> {
    let mut shown: Vec<Usage> = Vec::with_capacity(usage.len());
    let deleted = |usage: &Usage| usage.app.is_some() && usage.app_name.is_none();
    for one in usage {
        match shown.iter_mut().find(|known| deleted(known) && deleted(&one)) {
            Some(all) => {
                all.slugs += one.slugs;
                all.images += one.images;
                all.repository += one.repository;
                all.cache += one.cache;
                all.other += one.other;
                all.volumes += one.volumes;
            }
            None => shown.push(one),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use api::id::AppId;

    use super::*;

    #[test]
    fn deleted_apps_are_one_line() {
        let of = |name: Option<&str>, slugs| Usage {
            app: Some(AppId::random()),
            app_name: name.map(str::to_owned),
            slugs,
            ..Usage::default()
        };
        let nobody = Usage { slugs: 9, ..Usage::default() };
        let all = vec![of(None, 1), of(Some("shop"), 2), nobody, of(None, 4)];
        let shown = deleted_as_one(all);
        assert_eq!(shown.iter().map(|usage| usage.slugs).collect::<Vec<_>>(), [5, 2, 9]);
    }
}
