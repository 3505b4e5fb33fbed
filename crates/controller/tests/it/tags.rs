//! Which hosts the processes of a type may run on.

use std::collections::BTreeMap;

use api::controller::{ScaleRequest, Tags};

use crate::{scheduler::Scheduler, world::World};

fn tags(kind: &str, tags: &[(&str, &str)]) -> Tags {
    let tags = tags.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    [(kind.to_owned(), tags)].into()
}

#[tokio::test]
async fn tags_are_changed_by_type_and_stay_when_another_release_is_deployed() {
    let world = World::start().await;
    let client = &world.client;
    Scheduler::start(&world.lifetime, client);
    let app = world.app("one").await;
    let old = world.release(&app, &["web", "worker"], "serve").await;
    world.deploy(&app, &old).await;
    let scale = async |release, new: Tags, old: Option<Tags>| {
        let change = ScaleRequest { new_tags: Some(new), old_tags: old, ..ScaleRequest::default() };
        client.scale("one", release, &change).await
    };
    let ssd = || tags("web", &[("disk", "ssd")]);
    let set = scale(old.id, ssd(), None).await.unwrap();
    assert_eq!((set.old_tags, set.new_tags), (Some(Tags::new()), Some(ssd())));
    let both = scale(old.id, tags("worker", &[("zone", "b")]), None).await.unwrap();
    assert_eq!(both.new_tags.unwrap().len(), 2, "what is not named stays");
    let stale = scale(old.id, Tags::new(), Some(tags("web", &[("disk", "hdd")]))).await;
    assert!(stale.unwrap_err().is_conflict());
    for wrong in
        [tags("wob", &[]), tags("web", &[("a b", "c")]), tags("web", &[("flynn-draining", "x")])]
    {
        scale(old.id, wrong, None).await.unwrap_err();
    }
    let new = world.release(&app, &["web", "worker"], "serve").await;
    world.deploy(&app, &new).await;
    assert_eq!(client.formation("one", new.id).await.unwrap().tags.len(), 2);
    let none = tags("web", &[]);
    scale(new.id, none, None).await.unwrap();
    let left: BTreeMap<_, _> = client.formation("one", new.id).await.unwrap().tags;
    assert_eq!(left, tags("worker", &[("zone", "b")]));
}
