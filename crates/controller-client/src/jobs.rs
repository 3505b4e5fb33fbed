//! Jobs and their logs.

use std::collections::BTreeSet;

use api::controller::{Job, LogLine, NewJob};
use api_client::{Error, Upgraded};
use futures_util::Stream;

use crate::{ATTACH_PROTOCOL, Controller, escape, lines};

/// Jobs that are looked at for how they ended.
const RECENT: usize = 200;

/// Which lines of an app's log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Only this job's (`<host id>-<job id>`).
    pub job_id: Option<String>,
    /// Only this process type's; empty for one-off jobs.
    pub process_type: Option<String>,
    /// At most that many of the last lines; all that are kept if absent.
    pub lines: Option<u32>,
    /// Go on with what comes.
    pub follow: bool,
}

impl LogQuery {
    fn to_query(&self) -> String {
        let mut query = format!("follow={}", self.follow);
        if let Some(job) = &self.job_id {
            query += &format!("&job_id={}", escape(job));
        }
        if let Some(kind) = &self.process_type {
            query += &format!("&process_type={}", escape(kind));
        }
        if let Some(lines) = self.lines {
            query += &format!("&lines={lines}");
        }
        query
    }
}

fn active_first(mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.sort_by_key(|job| job.state.is_over());
    jobs
}

impl Controller {
    /// All jobs of an app that have not ended, then those that did lately: all that who watches an app needs. `jobs` may be
    /// thousands more.
    pub async fn current_jobs(&self, app: &str) -> Result<Vec<Job>, Error> {
        let path = format!("/apps/{}/jobs", escape(app));
        let active: Vec<Job> =
            self.whole(&format!("{path}?active=true"), |job: &Job| job.id.clone()).await?;
        // Looked at last: what ended meanwhile is here as it is now.
        let mut jobs: Vec<Job> = self.newest(&path, RECENT).await?;
        let known: BTreeSet<_> = jobs.iter().map(|job| job.uuid).collect();
        jobs.extend(active.into_iter().filter(|job| !known.contains(&job.uuid)));
        Ok(active_first(jobs))
    }

    /// The jobs of all apps that have not ended.
    pub async fn active_jobs(&self) -> Result<Vec<Job>, Error> {
        self.whole("/active-jobs", |job: &Job| job.id.clone()).await
    }

    /// The jobs of an app: those that have not ended, then those that have, each newest first. Those that ended long ago are
    /// not kept.
    pub async fn jobs(&self, app: &str) -> Result<Vec<Job>, Error> {
        let path = format!("/apps/{}/jobs", escape(app));
        Ok(active_first(self.whole(&path, |job: &Job| job.id.clone()).await?))
    }

    /// A job.
    pub async fn job(&self, app: &str, job: &str) -> Result<Job, Error> {
        self.client.get(&format!("/apps/{}/jobs/{}", escape(app), escape(job))).await
    }

    /// Tells what a job is doing (for the scheduler).
    pub async fn put_job(&self, job: &Job) -> Result<Job, Error> {
        self.client.put(&format!("/apps/{}/jobs/{}", job.app, escape(&job.id)), job).await
    }

    /// Stops a job.
    pub async fn delete_job(&self, app: &str, job: &str) -> Result<(), Error> {
        let path = format!("/apps/{}/jobs/{}", escape(app), escape(job));
        self.client.delete::<serde_json::Value>(&path).await.map(drop)
    }

    /// Starts a one-off job and leaves it to itself.
    pub async fn run_job_detached(&self, app: &str, job: &NewJob) -> Result<Job, Error> {
        self.client.post(&format!("/apps/{}/jobs", escape(app)), job).await
    }

    /// Starts a one-off job. Answers once it runs; the connection then carries attach frames (no state byte) both ways.
    /// The job is stopped when the connection is dropped.
    pub async fn run_job_attached(&self, app: &str, job: &NewJob) -> Result<Upgraded, Error> {
        let path = format!("/apps/{}/jobs", escape(app));
        self.client.upgrade(reqwest::Method::POST, &path, ATTACH_PROTOCOL, job).await
    }

    /// Starts a job that deploys the repository its stdin names (`api::git::GitSource` as JSON). Answers once it runs, as
    /// [`run_job_attached`](Self::run_job_attached).
    pub async fn deploy_repository(&self, app: &str) -> Result<Upgraded, Error> {
        let path = format!("/apps/{}/git-deploys", escape(app));
        self.client.upgrade(reqwest::Method::POST, &path, ATTACH_PROTOCOL, &()).await
    }

    /// The log of an app, or of one of its jobs, oldest line first.
    pub async fn log(
        &self,
        app: &str,
        query: &LogQuery,
    ) -> Result<impl Stream<Item = Result<LogLine, Error>> + Send + use<>, Error> {
        let path = format!("/apps/{}/log?{}", escape(app), query.to_query());
        let response = self.client.send(reqwest::Method::GET, &path, |request| request).await?;
        Ok(lines::objects(response))
    }
}
