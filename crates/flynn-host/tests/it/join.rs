//! A machine that wants to be a host.

use flynn_host::{DataDir, Join, join_cluster};
use testkit::free_port;

use crate::support::{Fixture, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_the_others_do_not_reach_is_told_so_and_may_come_again() {
    let host = Fixture::start_several().await;
    let invited = host.client().invite().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let join = Join {
        invitation: invited.invitation.parse().unwrap(),
        dir: DataDir { data_dir: dir.path().join("flynn") },
        id: Some("h9".into()),
        addr: Some([127, 0, 0, 77].into()),
        bridge: host.config.bridge.clone(),
        tunnel_port: free_port(),
    };
    let port = join.tunnel_port.to_string();
    let closed = |what: &str| {
        let rule = ["-d", "127.0.0.77", "-p", "tcp", "--dport", &port, "-j", "DROP"];
        run("iptables", &[&["-w", "10", what, "INPUT"][..], &rule].concat());
    };
    closed("-I");
    let refused = join_cluster(&join).await;
    closed("-D");
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("cannot reach this machine at 127.0.0.77"), "{refused}");
    let known = host.client().hosts().await.unwrap();
    assert!(known.iter().all(|one| one.id != "h9"), "no host is left behind: {known:?}");
    assert_eq!(join_cluster(&join).await.unwrap(), "h9");
}
