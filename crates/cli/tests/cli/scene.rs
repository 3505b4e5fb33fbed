//! A person with one app, deployed, `web=1`.

use api::{controller::NewRelease, id::ReleaseId};

use crate::{
    fake::Fake,
    person::{Outcome, Person},
};

pub(crate) struct Scene {
    pub(crate) fake: Fake,
    pub(crate) person: Person,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let fake = Fake::start();
        fake.world().deployed_app("myapp");
        let person = Person::of(&fake);
        Self { fake, person }
    }

    pub(crate) fn flynn(&self, args: &[&str]) -> Outcome {
        self.person.flynn_with(args, &[("FLYNN_APP", "myapp")], "")
    }

    /// Has somebody else deploy a release of the app just before the next deployment of the person's.
    pub(crate) fn overtake(&self) -> ReleaseId {
        let mut world = self.fake.world();
        let new = NewRelease {
            app_id: Some(world.apps[0].id),
            env: [("THEIRS".to_owned(), "1".to_owned())].into(),
            ..NewRelease::default()
        };
        let theirs = world.add_release(new).id;
        world.meanwhile.deploy = Some(theirs);
        theirs
    }
}
