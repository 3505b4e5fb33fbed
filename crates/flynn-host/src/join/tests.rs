use proptest::prelude::*;

use super::*;

#[test]
fn an_invitation_reads_back_and_shows_its_secret_to_nobody() {
    let (made, kept) = invite(([10, 0, 0, 1], 1114).into(), "ab".repeat(32));
    let read: Invitation = made.to_string().parse().unwrap();
    assert!(read == made);
    assert_eq!(kept.digest, digest(&made.secret));
    assert!(!format!("{made:?}").contains(&made.secret));
    assert!(!serde_json::to_string(&kept).unwrap().contains(&made.secret));
    assert!(made.to_string()[1..].parse::<Invitation>().is_ok());
    assert!(made.to_string().trim_end_matches(|_| true).parse::<Invitation>().is_err());
    assert_eq!(format!("{made}0").parse::<Invitation>(), Err(InvalidInvitation));
}

#[tokio::test]
async fn of_two_machines_that_join_under_one_id_at_once_one_is_refused() {
    let server = testkit::Etcd::start().await;
    let etcd = Keyspace::connect(&[server.url()]).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::new(dir.path());
    identity::prepare(&folders).unwrap();
    identity::ensure_authority(&folders).unwrap();
    disk::write(&folders.key_file(), b"key", Durable::Renamed).unwrap();
    let range = "100.64.0.0/10".parse().unwrap();
    let host = Host { folders, range, etcd: etcd.clone() };
    // Neither is let in before the cluster has looked at who is there for both.
    let both = tokio::sync::Barrier::new(2);
    let comes = async || {
        let (invitation, kept) = invite(([10, 0, 0, 1], 1114).into(), "ab".repeat(32));
        keep(&etcd, &kept).await.unwrap();
        let door = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let request = Request {
            id: "a".into(),
            addr: Ipv4Addr::LOCALHOST,
            tunnel_port: door.local_addr().unwrap().port(),
            word: Some("word".into()),
        };
        let shown = format!("Bearer {}", invitation.secret).parse().unwrap();
        let headers = HeaderMap::from_iter([(http::header::AUTHORIZATION, shown)]);
        let opens = async {
            let (mut stream, _) = door.accept().await.unwrap();
            both.wait().await;
            tokio::io::AsyncWriteExt::write_all(&mut stream, b"word").await.unwrap();
        };
        let (answer, ()) = tokio::join!(join(State(host.clone()), headers, Body(request)), opens);
        let is_good = etcd.get(&format!("{INVITES}{}", kept.digest)).await.unwrap().is_some();
        (answer.map(drop), is_good)
    };
    let (one, other) = tokio::join!(comes(), comes());
    let (joined, refused) = if one.0.is_ok() { (one, other) } else { (other, one) };
    assert!(joined.0.is_ok() && !joined.1);
    let said = format!("{:?}", refused.0.unwrap_err());
    assert!(said.contains("another machine has joined as host a"), "{said}");
    assert!(refused.1, "its invitation is still good");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,200}") {
        let _ = text.parse::<Invitation>();
    }
}
