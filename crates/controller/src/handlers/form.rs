//! Bodies that original clients may send in forms of their own.

use api::{
    controller::{AppChange, NewApp, NewArtifact, NewJob, NewRelease},
    route::NewRoute,
};
use axum::extract::{FromRequest, Request};
use daemon::{ApiError, Body};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    domain::form,
    error::{Error, Result},
};

/// A body that has other forms besides ours.
pub(crate) trait Form: DeserializeOwned {
    /// Makes the other forms into ours, or refuses them.
    fn translate(fields: &mut Map<String, Value>) -> Result<()>;
}

macro_rules! forms {
    ($($body:ty: $translate:path;)*) => {$(
        impl Form for $body {
            fn translate(fields: &mut Map<String, Value>) -> Result<()> {
                $translate(fields)
            }
        }
    )*};
}

forms! {
    NewApp: form::app;
    AppChange: form::app;
    NewRelease: form::release;
    NewArtifact: form::artifact;
    NewJob: form::job;
    NewRoute: form::route;
}

/// Extracts a body in any of its forms.
#[derive(Debug)]
pub(crate) struct Formed<T>(pub(crate) T);

impl<S: Send + Sync, T: Form> FromRequest<S> for Formed<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Body(mut fields) = Body::<Map<String, Value>>::from_request(request, state).await?;
        T::translate(&mut fields)?;
        let body = serde_json::from_value(fields.into());
        let bad = |err| Error::Malformed(format!("the JSON body cannot be used: {err}"));
        Ok(Self(body.map_err(bad)?))
    }
}
