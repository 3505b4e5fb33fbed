//! Answers that are read as a whole. Each has a limit: who is asked may be somebody else's server, or a broken one.

use std::time::Duration;

use reqwest::Response;
use tokio::time::timeout;

use crate::Error;

/// Longest error that is read: a sentence and some detail.
const ERROR_LEN_MAX: usize = 64 << 10;
/// Longest time an error may take to come after its head.
const ERROR_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads an answer to its end. For answers of requests that were sent with [`crate::Client::send`].
///
/// # Errors
/// [`Error::TooLong`] when it is longer than the limit.
pub async fn read(mut response: Response, limit: usize) -> Result<Vec<u8>, Error> {
    let url = response.url().to_string();
    let mut read = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|source| Error::transport(&url, source))?;
        let Some(chunk) = chunk else { return Ok(read) };
        if read.len() + chunk.len() > limit {
            return Err(Error::TooLong { url, limit });
        }
        read.extend_from_slice(&chunk);
    }
}

/// Reads of an error what comes in time and is not too long: that there is one is known already.
pub async fn read_error(mut response: Response) -> Vec<u8> {
    let mut read = Vec::new();
    let all = async {
        while read.len() < ERROR_LEN_MAX
            && let Ok(Some(chunk)) = response.chunk().await
        {
            read.extend_from_slice(&chunk);
        }
    };
    let _ = timeout(ERROR_TIMEOUT, all).await;
    read.truncate(ERROR_LEN_MAX);
    read
}
