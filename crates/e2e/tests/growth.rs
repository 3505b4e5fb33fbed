//! A cluster that begins with one host: `script/cluster up 1` made it.

use std::time::Duration;

use e2e::{
    app::App,
    hosts::{WHOLE, cluster, count, hosts_with_data, list, number, on, router, whole},
    load::Load,
    until,
};

/// Everything serves on the hosts there are in this time.
const SERVES: Duration = Duration::from_secs(30);

/// Adds a host; its number.
fn add() -> u8 {
    let ids = || {
        let seen = list(1).expect("the first host answers");
        seen.iter().map(|one| number(one["id"].as_str().unwrap_or_default())).collect::<Vec<_>>()
    };
    let before = ids();
    cluster(&["add"]).ok();
    ids().into_iter().find(|id| !before.contains(id)).expect("it is one of them")
}

/// Whether a host's discoverd watches etcd, so that others may follow it: then the stream goes on until curl ends it.
fn watches_etcd(host: u8) -> bool {
    let follow = "curl -fs -m 1 -o /dev/null -u :$(docker exec flynn-discoverd printenv DISCOVERD_KEY) \
                  'http://127.0.0.1:1111/facts?revision=0&epoch=0'; test $? -eq 28";
    on(host, follow).status == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn from_one_host_to_three_to_two_to_four_under_load_no_request_fails() {
    whole(&[1], 1).await;
    let app = App::node_on(1, "grows");
    app.push().ok();
    app.flynn(&["scale", "web=6"]).ok();
    count(&[1], &app.name, 6, SERVES).await;
    let load = Load::at(router(1), &app.name);

    let (second, third) = (add(), add());
    whole(&[1, second, third], 3).await;
    println!("three hosts after {:?}", load.age());
    let data = hosts_with_data(&[1, second, third]).await;
    let (leaves, stays) = if data.contains(&third) { (second, third) } else { (third, second) };
    cluster(&["remove", &leaves.to_string()]).ok();
    // Two members would be lost with either: it is one.
    whole(&[1, stays], 1).await;
    count(&[1, stays], &app.name, 6, WHOLE).await;
    println!("two hosts after {:?}", load.age());

    let all = [1, stays, add(), add()];
    whole(&all, 3).await;
    until("only the hosts with a member to watch etcd", SERVES, async || {
        let watching = all.map(watches_etcd);
        if watching.iter().filter(|is| **is).count() == 3 { Ok(()) } else { Err(watching) }
    })
    .await;
    app.flynn(&["env-set", "A=1"]).ok();
    count(&all, &app.name, 6, SERVES).await;
    println!("four hosts and a release after {:?}", load.age());
    load.stop().await.unharmed();
}
