//! `wait`: until a URL answers with a status.

use std::time::Duration;

use api_client::body;
use serde_json::{Value, json};

use super::Context;
use crate::{cluster::Seen, error::StepError};

/// Longest time for one answer.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) async fn until(
    url: &str,
    status: u16,
    context: &Context<'_>,
) -> Result<Value, StepError> {
    let http = reqwest::Client::builder()
        .timeout(ANSWER)
        .no_proxy()
        .build()
        .map_err(|_| StepError::Crypto("an HTTP client"))?;
    let what = format!("{url} to answer {status}");
    context.cluster.until(&what, || look(&http, url, status, context)).await?;
    Ok(json!({}))
}

async fn look(
    http: &reqwest::Client,
    url: &str,
    status: u16,
    context: &Context<'_>,
) -> Result<(), Seen> {
    let url = match url.strip_prefix("discoverd+http://") {
        Some(rest) => {
            let (service, path) = rest.split_once('/').unwrap_or((rest, ""));
            format!("{}/{path}", context.cluster.service(service).await?)
        }
        None if url.starts_with("http://") => url.to_owned(),
        None => return Err(Seen::Never(Box::new(StepError::Url(url.into())))),
    };
    let answer = http.get(&url).send().await;
    let answer = answer.map_err(|err| Seen::NotYet(format!("{url}: {}", err.without_url())))?;
    if answer.status().as_u16() == status {
        return Ok(());
    }
    let seen = answer.status();
    let text = body::read_error(answer).await;
    let text: String = String::from_utf8_lossy(&text).chars().take(200).collect();
    Err(Seen::NotYet(format!("{url} answered {seen} {text}")))
}
