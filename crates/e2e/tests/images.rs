//! Apps that are images: pushed from here, or named.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use e2e::{app::App, image::Image};

async fn version(app: &App) -> String {
    let answer = app.get().await;
    answer.unwrap()["version"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_image_of_this_machine_serves_scales_and_is_replaced() {
    let app = App::create("image");
    let name = format!("e2e/{}", app.name);
    let image = Image::answering(&format!("{name}:1"), "1");
    let said = app.flynn(&["docker-push", &image.name]);
    assert!(said.err.contains("Sending image"), "{said:?}");
    said.ok();
    assert_eq!(version(&app).await, "1", "it serves as soon as the command returns");
    app.flynn(&["scale", "web=3"]).ok();
    let up = |job: &&serde_json::Value| job["state"] == "up" && job["type"] == "web";
    assert_eq!(app.ps().iter().filter(up).count(), 3);
    app.flynn(&["env-set", "A=kept"]).ok();

    let again = app.flynn(&["docker-push", &image.name]);
    assert!(again.err.contains("has image"), "nothing is sent twice: {again:?}");
    let second = Image::answering(&format!("{name}:2"), "2");
    app.flynn(&["docker-push", &second.name]).ok();
    assert_eq!(version(&app).await, "2");
    assert_eq!(app.ps().iter().filter(up).count(), 3, "what was scaled stays");
    assert_eq!(app.flynn(&["env-get", "A"]).ok().trim(), "kept");
    app.flynn(&["rollback"]).ok();
    assert_eq!(version(&app).await, "1");

    // By its name, which the hosts know.
    app.flynn(&["release-add-docker", &name, "2"]).ok();
    assert_eq!(version(&app).await, "2");
}

#[tokio::test]
async fn an_image_that_cannot_run_is_refused_with_what_to_do_and_the_old_one_serves() {
    let app = App::create("wrong");
    let name = format!("e2e/{}", app.name);
    let image = Image::answering(&format!("{name}:1"), "1");
    app.flynn(&["docker-push", &image.name]).ok();
    // An image that is nowhere may come: it is waited for as long as a deployment may take.
    app.flynn(&["deployment-timeout", "15"]).ok();

    let told = app.flynn(&["docker-push", &format!("{name}:9")]).refused();
    assert!(told.contains("docker does not know the image"), "{told}");
    let told = app.flynn(&["release-add-docker", &name, "9"]).refused();
    assert!(told.contains(&format!("{name}:9")) && told.contains("docker-push"), "{told}");
    let told = app.flynn(&["release-add-docker", "127.0.0.1:9/nothing"]).refused();
    assert!(told.contains("127.0.0.1:9/nothing"), "{told}");
    let fails = Image::running(&format!("{name}:3"), "3", "echo it hurts; exit 3");
    let told = app.flynn(&["docker-push", &fails.name]).refused();
    assert!(told.contains("it hurts"), "{told}");
    assert_eq!(version(&app).await, "1", "the old release serves on");
}
