//! The platform's own parts are deployed by its own commands, with good settings and with bad ones.

use e2e::{
    app::App,
    attached::Echo,
    load::Load,
    platform::{BAD, PARTS, deploy_badly, deploy_well, works},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_part_is_deployed_with_a_good_setting_and_all_works() {
    let app = App::node("parts");
    app.push().ok();
    let load = Load::start(&app.name);
    let mut session = Echo::start(&app);
    session.hears("before");
    let mut session = Some(session);
    for part in PARTS {
        if part == "strowger" {
            session.take().expect("it is the last").end();
        }
        deploy_well(&app, part);
        works(&app, part).await;
        println!("{part} was deployed after {:?}", load.age());
        if let Some(session) = &mut session {
            session.hears(part);
        }
    }
    load.stop().await.unharmed();
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
