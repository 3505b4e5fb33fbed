use std::sync::Arc;

use tokio::sync::watch;

use super::*;
use crate::grid::GridStore;

const MEMBER: Seen = Seen { is_member: true, ordered: false, serves: false };
const STOPPED: Seen = Seen { is_member: false, ..MEMBER };

#[test]
fn a_recovery_goes_on_from_where_it_was_interrupted() {
    let restoring = Pending::Restoring { before: None };
    let members = vec![alone("b", "u")];
    let restored = Pending::Restored { before: None, members: members.clone() };
    assert_eq!(next_step(&restoring, Seen { ordered: true, ..MEMBER }), Step::Restore(None));
    assert_eq!(next_step(&restoring, STOPPED), Step::Restore(None), "etcd was stopped for it");
    assert_eq!(next_step(&restored, STOPPED), Step::Serve(members.clone()));
    assert_eq!(next_step(&restored, MEMBER), Step::Serve(members));
    assert_eq!(next_step(&Pending::Noting, MEMBER), Step::Note);
    let untold = BTreeSet::from(["b".to_owned()]);
    let telling = Pending::Telling { untold: untold.clone(), epoch: Some(2) };
    assert_eq!(next_step(&telling, MEMBER), Step::Tell(untold, Some(2)));
}

#[test]
fn an_order_that_never_reached_etcd_says_nothing_of_its_members() {
    let restoring = Pending::Restoring { before: None };
    assert_eq!(next_step(&restoring, MEMBER), Step::GiveUp(None));
}

#[test]
fn a_recovery_is_given_up_when_etcd_has_its_quorum_again() {
    let serves = Seen { serves: true, ..STOPPED };
    let before = Some(Role::Member { cluster: "a=u".into(), joined: true, id: None });
    let give_up = Step::GiveUp(before.clone());
    assert_eq!(next_step(&Pending::Restoring { before: before.clone() }, serves), give_up);
    let members = vec![alone("b", "u")];
    let restored = Pending::Restored { before: before.clone(), members: members.clone() };
    let put_back = Step::PutBack(before, members);
    assert_eq!(next_step(&restored, serves), put_back);
    let seems_to_serve = Seen { serves: true, ..MEMBER };
    assert_eq!(next_step(&restored, seems_to_serve), put_back, "it has taken its place");
    assert_eq!(next_step(&Pending::Noting, serves), Step::Note, "it is that etcd which serves");
}

#[test]
fn what_an_older_daemon_left_is_read() {
    for text in [r#"{"stage":"restoring"}"#, r#"{"stage":"forcing"}"#] {
        let read: Pending = serde_json::from_str(text).unwrap();
        assert_eq!(read, Pending::Restoring { before: None });
    }
    let before = Some(Role::Member { cluster: "a=u".into(), joined: true, id: None });
    let written =
        serde_json::to_string(&Pending::Restored { before: before.clone(), members: Vec::new() })
            .unwrap();
    let read: Pending = serde_json::from_str(&written).unwrap();
    assert_eq!(read, Pending::Restored { before, members: Vec::new() });
    let read: Pending = serde_json::from_str(r#"{"stage":"restored"}"#).unwrap();
    assert_eq!(read, Pending::Restored { before: None, members: Vec::new() });
}

#[tokio::test(start_paused = true)]
async fn what_was_put_aside_is_not_given_up_while_the_recovery_is_under_way() {
    let dir = tempfile::tempdir().unwrap();
    let folders = Folders::new(dir.path());
    fs::create_dir(folders.host()).unwrap();
    let restored = Pending::Restored { before: None, members: vec![alone("b", "u")] };
    disk::write_json(&folders.recovery_file(), &restored, Durable::Renamed).unwrap();
    let grid = Arc::new(GridStore::open(folders.grid_file()).unwrap());
    // Another host was recovered too, and etcd goes on with that one's member.
    grid.follow(vec![alone("b", "u")]);
    let role = Role::Member { cluster: "a=u".into(), joined: false, id: None };
    let (role, mut roles) = watch::channel(role);
    let stop = CancellationToken::new();
    let looks = async {
        timeout(10 * RETRY, roles.changed()).await.expect_err("it stays what it is");
        fs::remove_file(folders.recovery_file()).unwrap();
        roles.changed().await.unwrap();
        assert_eq!(*roles.borrow(), Role::Client);
        stop.cancel();
    };
    let follow = etcd::follow("a".into(), folders.clone(), grid, role, stop.clone());
    tokio::join!(follow, looks);
}
