//! The platform's own parts are deployed by its own commands, with good settings and with bad ones.

use std::time::Duration;

use e2e::{
    app::App,
    attached::Echo,
    load::Load,
    platform::{BAD, PARTS, deploy_badly, deploy_well, works},
};

/// Where there is one router, its port refuses until it has drained and the next one has started.
const ROUTER_AWAY: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_deployed_with_a_good_setting_and_all_works() {
    let app = App::node("parts");
    app.push().ok();
    let load = Load::start(&app.name);
    let mut session = Echo::start(&app);
    session.hears("before");
    for part in PARTS {
        deploy_well(&app, part);
        works(&app, part).await;
        println!("{part} was deployed after {:?}", load.age());
        session.hears(part);
    }
    session.end();
    load.stop().await.unharmed();

    let load = Load::start(&app.name);
    deploy_well(&app, "strowger");
    works(&app, "strowger").await;
    let outcome = load.stop().await;
    println!("the router was away for {:?}", outcome.harmed());
    outcome.harmed_for_at_most(ROUTER_AWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_with_a_bad_setting_goes_back_by_itself_and_all_works() {
    let app = App::node("badparts");
    app.push().ok();
    for (part, setting) in BAD {
        println!("{part}: {}", deploy_badly(&app, part, setting));
        works(&app, part).await;
    }
}
