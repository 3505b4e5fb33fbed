//! A controller with everything around it.

use std::sync::Arc;

use api::controller::{
    App, ArtifactType, Deployment, NewApp, NewArtifact, NewRelease, ProcessType, Release,
};
use controller::Config;
use controller_client::Controller;
use daemon::{Lifetime, auth::Keys};
use testkit::Postgres;
use tokio::sync::Mutex;

use crate::neighbours::Neighbours;

pub(crate) const KEY: &str = "controller-key";
/// Opens what a push needs.
pub(crate) const GITRECEIVE_KEY: &str = "gitreceive-key";

pub(crate) struct World {
    pub(crate) postgres: Mutex<Postgres>,
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) client: Controller,
    pub(crate) config: Config,
    pub(crate) lifetime: Lifetime,
}

impl World {
    pub(crate) async fn start() -> Self {
        let world = Self::without_controller().await;
        let running = controller::start(world.config.clone(), &world.lifetime).await.unwrap();
        let client = client(running.addr);
        // Until then it makes its tables.
        testkit::wait_until("the controller has its database", || client.apps()).await;
        Self { client, ..world }
    }

    pub(crate) async fn without_controller() -> Self {
        let postgres = Postgres::start().await;
        let lifetime = Lifetime::default();
        let neighbours = Neighbours::start(&lifetime).await;
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            keys: Keys::parse(KEY),
            gitreceive_key: GITRECEIVE_KEY.into(),
            host_key: Some("host-key".into()),
            strowger_key: Some("strowger-key".into()),
            postgres_api_key: None,
            shelf_key: Some("shelf-key".into()),
            resource_grace: std::time::Duration::from_secs(86_400),
            retention: controller::Retention::default(),
            default_route_domain: Some("test.localhost".into()),
            builds_at_once: 2,
            attach_lease: std::time::Duration::from_secs(3),
            attach_grace: testkit::LIMIT,
            discoverd: neighbours.url(),
            database: pg::Config {
                host: postgres.host().into(),
                port: postgres.port(),
                user: postgres.user().into(),
                password: postgres.password().into(),
                database: postgres.fresh_database().await,
                application: "controller".into(),
            },
        };
        let client = Controller::new("http://127.0.0.1:9", None);
        Self { postgres: Mutex::new(postgres), neighbours, client, config, lifetime }
    }

    /// Does something to the database that no controller does.
    pub(crate) async fn sql(&self, sql: &str) {
        let db = pg::Pool::new(self.config.database.clone(), 1);
        db.migrate(refinery::Runner::new(&[]).set_abort_missing(false)).await;
        db.client().await.unwrap().batch_execute(sql).await.unwrap();
    }

    /// A number that the database holds.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let db = pg::Pool::new(self.config.database.clone(), 1);
        db.migrate(refinery::Runner::new(&[]).set_abort_missing(false)).await;
        pg::row(&db.client().await.unwrap(), sql, &[]).await.unwrap().get(0)
    }

    pub(crate) async fn app(&self, name: &str) -> App {
        let new = NewApp { name: Some(name.into()), ..NewApp::default() };
        self.client.create_app(&new).await.unwrap()
    }

    /// A release with these process types. `behaviour` tells the fake scheduler what its jobs do.
    pub(crate) async fn release(&self, app: &App, types: &[&str], behaviour: &str) -> Release {
        self.release_with(app, types, &[("behaviour", behaviour)]).await
    }

    /// A release with these process types and this meta.
    pub(crate) async fn release_with(
        &self,
        app: &App,
        types: &[&str],
        meta: &[(&str, &str)],
    ) -> Release {
        let image = NewArtifact {
            id: None,
            kind: ArtifactType::Docker,
            uri: "docker:///flynn/slugrunner".into(),
            meta: [].into(),
        };
        let image = self.client.create_artifact(&image).await.unwrap();
        let process = |kind: &&str| ((*kind).to_owned(), ProcessType::default());
        let new = NewRelease {
            app_id: Some(app.id),
            artifacts: vec![image.id],
            env: [("SECRET".to_owned(), "sesame".to_owned())].into(),
            meta: meta.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            processes: types.iter().map(process).collect(),
            ..NewRelease::default()
        };
        self.client.create_release(&new).await.unwrap()
    }

    /// Deploys and waits for the end.
    pub(crate) async fn deploy(&self, app: &App, release: &Release) -> Deployment {
        let deployment = self.client.deploy_release(&app.name, release.id).await.unwrap();
        self.client.wait_deployment(deployment.id, |_| {}).await.unwrap()
    }
}

/// HTTP as other clients speak it.
pub(crate) fn raw_http() -> reqwest::Client {
    reqwest::Client::builder().timeout(testkit::LIMIT).build().unwrap()
}

pub(crate) fn client(addr: std::net::SocketAddr) -> Controller {
    Controller::new(format!("http://{addr}"), Some(KEY.into()))
}
