//! The servers start, survive a kill, and end with their value.

use std::net::TcpStream;

use testkit::{Etcd, Postgres, wait_until};

#[tokio::test]
async fn etcd_answers_again_at_the_same_place_after_a_kill_and_is_gone_with_its_value() {
    let mut etcd = Etcd::start().await;
    let address = etcd.url().trim_start_matches("http://").to_owned();
    etcd.kill();
    assert!(TcpStream::connect(&address).is_err());
    etcd.restart().await;
    assert!(TcpStream::connect(&address).is_ok());
    drop(etcd);
    assert!(TcpStream::connect(&address).is_err());
}

#[tokio::test]
async fn postgres_makes_databases_and_answers_again_after_a_kill() {
    let mut postgres = Postgres::start().await;
    let first = postgres.fresh_database().await;
    postgres.restart().await;
    let second = postgres.fresh_database().await;
    assert_ne!(first, second);
    let address = (postgres.host().to_owned(), postgres.port());
    drop(postgres);
    wait_until("the port is closed", || async {
        if TcpStream::connect((address.0.as_str(), address.1)).is_err() {
            Ok(())
        } else {
            Err("open")
        }
    })
    .await;
}
