//! One host.

use std::collections::BTreeMap;

use api::{
    controller::LogLine,
    discoverd::Term,
    host::{
        ActiveJob, AttachRequest, Event, HostInfo, HostStatus, Invite, Job, Recovered, TERM_HEADER,
    },
    id::JobId,
    volume::HostVolume,
};
use api_client::{Client, Endpoint, Error, Upgraded};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use reqwest::{Method, Response};

use crate::lines::lines;

/// One host's flynn-host.
#[derive(Debug, Clone)]
pub struct Host {
    client: Client,
}

impl Host {
    /// The host at an address, `http://ip:1113`.
    pub fn new(endpoint: impl Into<Endpoint>, key: Option<String>) -> Self {
        Self { client: Client::new(endpoint, key) }
    }

    /// The host behind a client of the caller's own making (time limits, retries).
    pub fn with_client(client: Client) -> Self {
        Self { client }
    }

    /// The same host, told with every request under which term it is made. One that listed its jobs under a term takes
    /// none under an older one any more.
    pub fn with_term(&self, term: Term) -> Self {
        Self { client: self.client.with_header(TERM_HEADER, &term.to_header()) }
    }

    /// All jobs it knows, the ended ones it remembers included.
    pub async fn jobs(&self) -> Result<BTreeMap<JobId, ActiveJob>, Error> {
        self.client.get("/host/jobs").await
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<ActiveJob, Error> {
        self.client.get(&format!("/host/jobs/{id}")).await
    }

    /// Orders a job. The same job again is the same order; a different one of that id is a conflict.
    pub async fn put_job(&self, job: &Job) -> Result<(), Error> {
        let path = format!("/host/jobs/{}", job.id);
        self.order(Method::PUT, &path, Some(job)).await.map(drop)
    }

    /// The volumes it keeps.
    pub async fn volumes(&self) -> Result<Vec<HostVolume>, Error> {
        self.client.get("/host/volumes").await
    }

    /// Removes a volume that no job has.
    pub async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.order(Method::DELETE, &format!("/host/volumes/{name}"), None).await.map(drop)
    }

    /// The hosts of its cluster.
    pub async fn hosts(&self) -> Result<Vec<HostInfo>, Error> {
        self.client.get("/cluster/hosts").await
    }

    /// Takes a host out of the cluster. With `force` all that runs on it is stopped first, which may take minutes.
    pub async fn remove_host(&self, id: &str, force: bool) -> Result<(), Error> {
        let path = format!("/cluster/hosts/{id}?force={force}");
        let limit = std::time::Duration::from_secs(180);
        self.client.send(Method::DELETE, &path, |request| request.timeout(limit)).await.map(drop)
    }

    /// Makes an invitation for one machine. A host that was alone answers 503 once and starts anew.
    pub async fn invite(&self) -> Result<Invite, Error> {
        self.client.post("/cluster/invites", &serde_json::json!({})).await
    }

    /// Makes its member of etcd go on alone, after the quorum was lost for good.
    pub async fn recover(&self) -> Result<Recovered, Error> {
        let limit = std::time::Duration::from_secs(180);
        self.client.with_timeout(limit).post("/cluster/recover", &serde_json::json!({})).await
    }

    /// Tells a host that etcd goes on with that host's member alone, since that epoch of the cluster.
    pub async fn follow(&self, host: &str, epoch: Option<u64>) -> Result<(), Error> {
        let since = epoch.map(|epoch| format!("?epoch={epoch}")).unwrap_or_default();
        self.order(Method::PUT, &format!("/cluster/recovered/{host}{since}"), None).await.map(drop)
    }

    /// Orders a job to stop and does not wait for its end.
    pub async fn stop_job(&self, id: JobId) -> Result<(), Error> {
        self.order(Method::DELETE, &format!("/host/jobs/{id}"), None).await.map(drop)
    }

    /// Sends a signal to a job's process.
    pub async fn signal(&self, id: JobId, number: u32) -> Result<(), Error> {
        self.order(Method::PUT, &format!("/host/jobs/{id}/signal/{number}"), None).await.map(drop)
    }

    /// Changes of all its jobs. Begins with `current` for each it knows, then `synced`.
    pub async fn events(
        &self,
    ) -> Result<impl Stream<Item = Result<Event, Error>> + Send + use<>, Error> {
        self.client.events("/host/jobs").await
    }

    /// Changes of one job, beginning with `current`.
    pub async fn job_events(
        &self,
        id: JobId,
    ) -> Result<impl Stream<Item = Result<Event, Error>> + Send + use<>, Error> {
        self.client.events(&format!("/host/jobs/{id}")).await
    }

    /// Attaches to a job. The server's state has yet to be read: `attach::read_state`.
    pub async fn attach(&self, request: &AttachRequest) -> Result<Upgraded, Error> {
        self.client.upgrade(Method::POST, "/attach", attach::PROTOCOL, request).await
    }

    /// A job's log: its last `lines` lines (all if absent), and with `follow` what comes, until it ends.
    pub async fn log(
        &self,
        id: JobId,
        lines_wanted: Option<u32>,
        follow: bool,
    ) -> Result<impl Stream<Item = Result<LogLine, Error>> + Send + use<>, Error> {
        let lines_wanted = lines_wanted.map(|n| format!("&lines={n}")).unwrap_or_default();
        let path = format!("/host/jobs/{id}/log?follow={follow}{lines_wanted}");
        let response = self.client.send(Method::GET, &path, |request| request).await?;
        let url = response.url().to_string();
        Ok(lines(url, response.bytes_stream().boxed()))
    }

    /// An image it has, packed, with its name.
    pub async fn image(
        &self,
        name: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, Error>> + Send + use<>, Error> {
        let path = format!("/host/images/{name}");
        let response = self.client.send(Method::GET, &path, |request| request).await?;
        let url = response.url().to_string();
        let pieces = response.bytes_stream();
        Ok(pieces.map(move |piece| {
            piece.map_err(|source| Error::Lost { url: url.clone(), source: source.without_url() })
        }))
    }

    /// What the host says of itself.
    pub async fn status(&self) -> Result<HostStatus, Error> {
        self.client.get("/host/status").await
    }

    /// Sets the host's tags; an empty value removes one.
    pub async fn set_tags(&self, tags: &BTreeMap<String, String>) -> Result<(), Error> {
        self.client.post::<serde::de::IgnoredAny>("/host/tags", tags).await.map(drop)
    }

    async fn order(
        &self,
        method: Method,
        path: &str,
        job: Option<&Job>,
    ) -> Result<Response, Error> {
        let limit = std::time::Duration::from_secs(30);
        self.client
            .send(method, path, |request| {
                let request = request.timeout(limit);
                match job {
                    Some(job) => request.json(job),
                    None => request,
                }
            })
            .await
    }
}
