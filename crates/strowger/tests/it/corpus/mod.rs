//! Messages that two readers could read differently, as data, and what has to come of each.

#![allow(unreachable_pub, reason = "a test has no callers outside")]

mod case;
mod message;
mod stage;

use std::{fmt::Write, fs, path::Path};

use self::{
    case::{Case, Outcome, cases},
    stage::Backend,
};
use crate::harness::Harness;

/// A router before a backend that records.
async fn stage() -> (Harness, Backend) {
    let harness = Harness::start().await;
    let backend = Backend::start(is_routers).await;
    harness.up("app", backend.addr).await;
    harness.route("a.test", "app").await;
    (harness, backend)
}

/// Whether the router added it. What it made of a client's own is none of these.
fn is_routers(name: &str, value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match name {
        "x-forwarded-for" => value == "127.0.0.1",
        "x-forwarded-proto" => value == "http",
        "x-forwarded-port" => is_number(value),
        "x-request-start" => value.len() == 13 && is_number(value),
        "x-request-id" => value.len() == 32 && value.bytes().all(|b| b.is_ascii_hexdigit()),
        _ => false,
    }
}

/// All cases of a folder.
fn all(folder: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/corpus").join(folder);
    let mut files: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|file| cases(&fs::read_to_string(file).unwrap())).collect()
}

/// Adds a case that is not as expected to those that are told.
fn judge(told: &mut String, case: &Case, seen: &Outcome) {
    if !seen.is_as(&case.expected) {
        let Case { name, expected, .. } = case;
        write!(told, "\n== {name}\nexpected\n{expected}seen\n{seen}").unwrap();
        if case.right.as_ref() == Some(&seen.client) {
            told.push_str("which is right: the mark `hyper` can go\n");
        }
    }
}

#[tokio::test]
async fn no_request_can_be_read_in_two_ways() {
    let (harness, backend) = stage().await;
    let (cases, mut told) = (all("requests"), String::new());
    for case in &cases {
        let seen = stage::request(case, harness.http(), &backend, testkit::LIMIT).await;
        judge(&mut told, case, &seen);
    }
    assert!(told.is_empty(), "{told}");
    assert!(cases.len() >= 300, "only {} cases", cases.len());
}

#[tokio::test]
async fn no_answer_can_be_read_in_two_ways() {
    let (harness, backend) = stage().await;
    let (cases, mut told) = (all("answers"), String::new());
    for case in &cases {
        judge(&mut told, case, &stage::answer(case, harness.http(), &backend).await);
    }
    assert!(told.is_empty(), "{told}");
    assert!(cases.len() >= 60, "only {} cases", cases.len());
}

#[tokio::test]
async fn a_backend_gets_a_host_also_of_a_client_that_names_none() {
    let (harness, backend) = stage().await;
    harness.route("*", "app").await;
    let text = "== no Host\n-- RFC 9112 §3.2: a request of 1.1 has one\n> GET / HTTP/1.0\n>\n\
                client: 204 closed\n<< GET / HTTP/1.1\n< host: ";
    let (case, mut told) = (cases(text).remove(0), String::new());
    let seen = stage::request(&case, harness.http(), &backend, testkit::LIMIT).await;
    judge(&mut told, &case, &seen);
    assert!(told.is_empty(), "{told}");
}
