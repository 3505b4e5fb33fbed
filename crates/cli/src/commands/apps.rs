//! `apps` and `info`.

use serde_json::json;

use crate::{
    args::Listing,
    domain::{routes::web_url, table},
    output,
    session::Session,
};

pub(crate) async fn list(session: &Session, args: Listing) -> anyhow::Result<()> {
    let (_, controller) = session.server()?;
    let mut apps = controller.apps().await?;
    apps.sort_by(|a, b| a.name.cmp(&b.name));
    if args.json {
        return output::json(&apps);
    }
    let rows: Vec<_> = apps.iter().map(|app| vec![app.id.to_string(), app.name.clone()]).collect();
    Ok(output::text(&table::render(&["ID", "NAME"], &rows))?)
}

pub(crate) async fn info(session: &Session, args: Listing) -> anyhow::Result<()> {
    let target = session.app()?;
    let app = target.app().await?;
    let mut routes = target.controller.routes(&target.name).await?;
    // The app's own name was there before every other.
    routes.sort_by_key(|route| route.created_at);
    let git = target.server.git_url(&app.name);
    let web = routes.iter().find_map(|route| web_url(route, &target.server.url));
    if args.json {
        let info = json!({ "app": app, "git_url": git, "web_url": web });
        return output::json(&info);
    }
    output::data(&format!("=== {}", app.name))?;
    let web = web.unwrap_or_else(|| "none yet: the first deploy of a web process makes one".into());
    let rows = [vec!["Git URL:".into(), git], vec!["Web URL:".into(), web]];
    Ok(output::text(&table::render(&[], &rows))?)
}
