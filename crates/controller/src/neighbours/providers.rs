//! Providers: who makes resources, and destroys them. `docs/providers.md` is their protocol.

use std::time::Duration;

use api::{
    controller::{IDEMPOTENCY_KEY, Provider},
    error::ErrorCode,
    id::ResourceId,
};
use api_client::Client;
use reqwest::Method;

use super::Neighbours;
use crate::{
    domain::provider::{Made, Place, parse_made, parse_url},
    error::{Error, Result},
};

/// Longest time a provider may take to make or destroy a resource.
const PROVISION_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest answer of a provider: an id and an environment.
const ANSWER_LEN_MAX: usize = 1 << 20;

/// What a request that failed has done at a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it reached nobody, or was turned away at the door. An earlier one may have done something.
    None,
    /// Nothing, and no such request ever will: the provider understood it, and refused.
    Never,
    /// Nobody knows.
    Unknown,
}

/// How a provider failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What it did all the same.
    pub(crate) effect: Effect,
    /// What the requester is told.
    pub(crate) code: ErrorCode,
    /// Whether the same request may succeed later.
    pub(crate) retry: bool,
    /// Whether the request is over: it was answered, or reached nobody. Otherwise the provider may still be at it.
    pub(crate) is_over: bool,
}

impl Neighbours {
    /// Has a provider make a resource. Asked again with the same id, it answers the same one.
    pub(crate) async fn provision(
        &self,
        provider: &Provider,
        key: Option<String>,
        id: ResourceId,
        config: &serde_json::Value,
    ) -> Result<Made> {
        let (client, path) = self.provider(provider, key).await?;
        let empty = serde_json::json!({});
        let config = if config.is_null() { &empty } else { config };
        let client = client.with_header(IDEMPOTENCY_KEY, &id.to_string());
        let answer: serde_json::Value =
            client.post(&path, config).await.map_err(|err| failed(provider, err))?;
        parse_made(&answer).map_err(|wrong| bad_answer(provider, &wrong))
    }

    /// Has a provider destroy a resource. That there is none is success, and what it says with a success is its own business.
    pub(crate) async fn deprovision(
        &self,
        provider: &Provider,
        key: Option<String>,
        external_id: &str,
    ) -> Result<()> {
        let (client, path) = self.provider(provider, key).await?;
        let id: String = url::form_urlencoded::byte_serialize(external_id.as_bytes()).collect();
        let path = format!("{path}?id={id}");
        let timed = |request: reqwest::RequestBuilder| request.timeout(PROVISION_TIMEOUT);
        // Once, so that what is known of it is known of all that was sent.
        match client.without_retries().send(Method::DELETE, &path, timed).await {
            Ok(_) => Ok(()),
            Err(api_client::Error::Api { status: 404, .. }) => Ok(()),
            Err(err) => Err(failed(provider, err)),
        }
    }

    /// A client of a provider, and the path there.
    async fn provider(&self, provider: &Provider, key: Option<String>) -> Result<(Client, String)> {
        let (place, path) = parse_url(&provider.url).map_err(|err| {
            let message = format!(
                "the URL of provider {} cannot be used: remove the provider and add it again. {err}",
                provider.name
            );
            let failure =
                Failure {
                effect: Effect::Never,
                code: ErrorCode::Conflict,
                retry: false,
                is_over: true,
            };
            Error::Provider { message, failure, source: None }
        })?;
        let (base, key) = match place {
            Place::Service(host) => {
                let base = self.instance(provider, &host).await?;
                let ours = self.postgres_api_key.clone().filter(|_| host == "postgres-api");
                (base, key.or(ours))
            }
            Place::Origin(origin) => (origin, key),
        };
        let client = Client::with_http(self.http.clone(), base, key);
        Ok((client.with_timeout(PROVISION_TIMEOUT).with_answer_limit(ANSWER_LEN_MAX), path))
    }

    /// The base URL of some instance of a provider's service.
    async fn instance(&self, provider: &Provider, service: &str) -> Result<String> {
        let away = |message: String, source: Option<api_client::Error>| {
            let code = ErrorCode::ServiceUnavailable;
            let failure = Failure { effect: Effect::None, code, retry: true, is_over: true };
            Error::Provider { message, failure, source }
        };
        let instances = self.discoverd.instances(service).await.map_err(|err| {
            let message =
                format!("discoverd did not say where provider {} is; try again", provider.name);
            away(message, Some(err))
        })?;
        let pick = usize::try_from(rand::random::<u32>()).unwrap_or_default();
        let instance = instances.get(pick % instances.len().max(1)).ok_or_else(|| {
            let message = format!(
                "the provider {} is not running at the moment (no instance of {service})",
                provider.name
            );
            away(message, None)
        })?;
        Ok(format!("http://{}", instance.addr))
    }
}

/// A provider's answer is none that can be used. It may have made something.
pub(crate) fn bad_answer(provider: &Provider, wrong: &str) -> Error {
    let message = format!(
        "the answer of provider {} cannot be used: {wrong}; it must be {{\"id\": \"…\", \"env\": {{\"NAME\": \"value\"}}}}",
        provider.name
    );
    let code = ErrorCode::ServiceUnavailable;
    Error::Provider {
        message,
        failure: Failure { effect: Effect::Unknown, code, retry: false, is_over: true },
        source: None,
    }
}

/// What a provider's failure means, and how it is told: always with the provider's name, and never as if it were our own.
fn failed(provider: &Provider, source: api_client::Error) -> Error {
    let name = &provider.name;
    let mut code = ErrorCode::ServiceUnavailable;
    let (effect, retry, message) = match &source {
        api_client::Error::Api { status: status @ (401 | 403), .. } => {
            let message = format!(
                "provider {name} answered {status}: it does not take the key it was added with (flynn provider-add … --key)"
            );
            (Effect::None, false, message)
        }
        api_client::Error::Api { status: 404, body } => {
            let message = format!(
                "provider {name} answered 404: there is nothing at the URL it was added with ({body})"
            );
            (Effect::None, false, message)
        }
        api_client::Error::Api { status: status @ 300..=399, .. } => {
            let message = format!(
                "provider {name} answered {status}: what is asked for is elsewhere. Redirects are not followed: remove the \
                 provider and add it with the URL where it is"
            );
            (Effect::None, false, message)
        }
        // Another request under the same key is under way, or it comes too early.
        api_client::Error::Api { status: status @ (408 | 409 | 425), body } => {
            (Effect::None, true, format!("provider {name} answered {status} ({body}); try again"))
        }
        api_client::Error::Api { status: 429, body } => {
            code = ErrorCode::Ratelimited;
            (Effect::None, true, format!("provider {name} has too much to do: {body}"))
        }
        api_client::Error::Api { status: 400..=499, body } => {
            code = refusal(body.code);
            (Effect::Never, body.retry, format!("provider {name} refused: {body}"))
        }
        api_client::Error::Api { status, body } => (
            Effect::Unknown,
            true,
            format!("provider {name} answered {status} ({body}); try again"),
        ),
        err if err.is_unsent() => {
            (Effect::None, true, format!("provider {name} could not be asked: {err}; try again"))
        }
        api_client::Error::TooLong { .. } => {
            let message = format!("the answer of provider {name} is too long (more than 1 MiB)");
            (Effect::Unknown, false, message)
        }
        api_client::Error::Decode { source, .. } => {
            return bad_answer(provider, &format!("it is no JSON ({source})"));
        }
        err => (Effect::Unknown, true, format!("provider {name} did not answer: {err}; try again")),
    };
    // Two of them are a proxy's, which does not know either.
    let is_over = match &source {
        api_client::Error::Api { status, .. } => ![502, 504].contains(status),
        other => other.is_unsent(),
    };
    let failure = Failure { effect, code, retry, is_over };
    let message = message.replace(char::is_control, " ");
    Error::Provider { message, failure, source: Some(source) }
}

/// What a refusal is to who asked us: never that we do not have something, or did not take the key.
fn refusal(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::NotFound
        | ErrorCode::ObjectNotFound
        | ErrorCode::Unauthorized
        | ErrorCode::UnknownError
        | ErrorCode::ServiceUnavailable => ErrorCode::Conflict,
        code => code,
    }
}
