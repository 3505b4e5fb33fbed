//! Servers that are slow to take what they are sent.

use api_client::Client;
use reqwest::Method;
use rustix::net::sockopt;
use testkit::{sockets_to, wait_until};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_server_that_takes_nothing_for_a_while_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let client = Client::new(format!("http://{addr}").as_str(), None);
    let socket = wait_until("a connection", async || sockets_to(addr).pop().ok_or("there is none"));
    let socket = tokio::select! {
        answer = client.send(Method::POST, "/", |request| request) => panic!("{answer:?}"),
        socket = socket => socket,
    };
    assert_eq!(sockopt::tcp_user_timeout(&socket).unwrap(), 0);
    assert!(sockopt::socket_keepalive(&socket).unwrap(), "a server that vanished is noticed");
}
