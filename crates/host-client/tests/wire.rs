//! The client against a server that speaks flynn-host's side of the wire.

#![expect(clippy::unwrap_used, reason = "a failed helper fails its test")]

use api::{
    cluster::{Refusal, Rejected, Tx},
    discoverd::Term,
    error::ErrorCode,
    host::{ATTACH_STDOUT, AttachRequest, EventKind, TERM_HEADER},
    id::JobId,
};
use axum::{
    Router,
    extract::Path,
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use daemon::{ApiError, Lifetime};
use futures_util::{StreamExt, TryStreamExt, stream};
use host_client::{Cluster, CommitError, Host};
use http::{HeaderMap, StatusCode, header};
use tokio::{io::AsyncWriteExt, net::TcpListener};

async fn serve(router: Router) -> (String, Lifetime) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let lifetime = Lifetime::default();
    lifetime.serve(listener, router);
    (base, lifetime)
}

fn job(id: JobId) -> api::host::Job {
    serde_json::from_value(serde_json::json!({ "id": id, "image": "flynn/slugrunner" })).unwrap()
}

#[tokio::test]
async fn an_order_carries_the_term_of_whoever_gives_it() {
    let take = async |headers: HeaderMap, Path(_): Path<String>| {
        let term = headers.get(TERM_HEADER).and_then(|value| value.to_str().ok());
        match term.and_then(Term::from_header) {
            Some(Term { epoch: 1, revision: 7 }) => Ok(()),
            _ => Err(ApiError::new(ErrorCode::PreconditionFailed, "the term is over")),
        }
    };
    let (base, _alive) =
        serve(Router::new().route("/host/jobs/{id}", put(take).delete(take))).await;
    let host = Host::new(base, None);
    let old = host.with_term(Term { epoch: 1, revision: 6 });
    let err = old.stop_job(JobId::random()).await.unwrap_err();
    assert_eq!(err.code(), Some(ErrorCode::PreconditionFailed));
    let new = host.with_term(Term { epoch: 1, revision: 7 });
    new.stop_job(JobId::random()).await.unwrap();
    new.put_job(&job(JobId::random())).await.unwrap();
}

#[tokio::test]
async fn an_answer_to_a_transaction_that_does_not_end_is_not_read_on() {
    let endless = async || {
        let piece = || Ok::<_, std::io::Error>("x".repeat(1 << 20));
        axum::body::Body::from_stream(stream::repeat_with(piece)).into_response()
    };
    let (base, _alive) = serve(Router::new().route("/cluster/commit", post(endless))).await;
    let err = Cluster::new(base, None).commit(&Tx::default()).await.unwrap_err();
    assert!(err.to_string().contains("too long"), "{err}");
}

#[tokio::test]
async fn a_refused_transaction_says_which_host_refused_it() {
    let refuse = async || -> Response {
        let rejected = Rejected { hosts: [("host1".into(), Refusal::NoRoom)].into() };
        ApiError::new(ErrorCode::Conflict, "refused")
            .with_detail(serde_json::to_value(rejected).unwrap())
            .into_response()
    };
    let (base, _alive) = serve(Router::new().route("/cluster/commit", post(refuse))).await;
    match Cluster::new(base, None).commit(&Tx::default()).await.unwrap_err() {
        CommitError::Rejected(rejected) => assert_eq!(rejected.hosts["host1"], Refusal::NoRoom),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn events_and_logs_come_as_values() {
    let events = async || {
        let active = serde_json::json!({
            "job": job(JobId::from(uuid(1))), "host_id": "host1", "status": "running",
            "created_at": jiff::Timestamp::UNIX_EPOCH,
        });
        daemon::events::response(stream::iter([
            serde_json::json!({ "event": "current", "job": active }),
            serde_json::json!({ "event": "synced" }),
        ]))
    };
    let log = async || {
        let line = |n: u32| {
            let at = jiff::Timestamp::UNIX_EPOCH;
            serde_json::json!({
                "host_id": "host1", "job_id": "x", "stream": "stdout", "msg": n.to_string(), "timestamp": at,
            })
        };
        format!("{}\n{}\n", line(1), line(2))
    };
    let router =
        Router::new().route("/host/jobs", get(events)).route("/host/jobs/{id}/log", get(log));
    let (base, _alive) = serve(router).await;
    let host = Host::new(base, None);
    let events: Vec<_> = host.events().await.unwrap().try_collect().await.unwrap();
    assert_eq!(events[0].job.as_ref().unwrap().job.id, JobId::from(uuid(1)));
    assert_eq!(events[1].event, EventKind::Synced);
    let lines = host.log(JobId::random(), Some(2), false).await.unwrap();
    let lines: Vec<_> = lines.map(|line| line.unwrap().msg).collect().await;
    assert_eq!(lines, ["1", "2"]);
}

fn uuid(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

#[tokio::test]
async fn attaching_gives_the_connection_after_the_upgrade() {
    let accept = async |mut request: axum::extract::Request| -> Response {
        let upgrade = hyper::upgrade::on(&mut request);
        #[expect(clippy::disallowed_methods, reason = "the connection outlives its request")]
        tokio::spawn(async move {
            let mut connection = hyper_util::rt::TokioIo::new(upgrade.await.unwrap());
            let state = attach::State::Error("there is no such job".into());
            connection.write_all(&state.to_bytes()).await.unwrap();
            connection.shutdown().await.unwrap();
        });
        let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, attach::PROTOCOL)];
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    };
    let (base, _alive) = serve(Router::new().route("/attach", post(accept))).await;
    let request = AttachRequest {
        job_id: JobId::random(),
        flags: ATTACH_STDOUT,
        height: 0,
        width: 0,
        lines: None,
    };
    let mut connection = Host::new(base, None).attach(&request).await.unwrap();
    let state = attach::read_state(&mut connection).await.unwrap();
    assert_eq!(state, attach::State::Error("there is no such job".into()));
}
