//! Who runs what. Users are numbers, for a name is what an image says it is; and every app has a number of its own, so
//! that one app's files, and what the kernel counts by user (watched files, pipes, pending signals), are not another's.
//!
//! An app's number follows from its id: every host knows it, and a volume belongs to it wherever its app runs. There are
//! as many as the plain head of a tar archive has room for, so two apps share one by a chance of one in a million.

use api::host::{Job, META_APP};
use sha2::{Digest, Sha256};

/// Runs the images that are built here, and owns the slugs that slugbuilder packs.
pub(crate) const PLATFORM: u32 = 1000;
/// Runs layer 0. No login of a machine has that number, as the first one has 1000.
pub(crate) const LAYER0: u32 = 1_048_575;
/// Runs the platform's own jobs on the host's network: the router, which asks etcd.
pub(crate) const ROUTER: u32 = LAYER0 - 1;
/// The first of the apps' users.
const APPS: u32 = LAYER0 + 1;
/// How many there are: the last has seven octal digits.
const COUNT: u32 = 1 << 20;

/// The user of a job's app; of the job itself if it is of no app.
pub(crate) fn of_app(job: &Job) -> u32 {
    let own = job.id.to_string();
    let of = job.metadata.get(META_APP).unwrap_or(&own);
    let digest = Sha256::digest(of);
    APPS + u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) % COUNT
}

/// Who runs a job: `None` leaves it to the image, whose user is not root.
pub(crate) fn of_job(job: &Job, image_user: &str) -> Option<u32> {
    if is_router(job) {
        return Some(ROUTER);
    }
    (job.slug.is_some() || runs_as_root(image_user)).then(|| of_app(job))
}

fn is_router(job: &Job) -> bool {
    job.resurrect && job.config.host_network && job.slug.is_none()
}

/// Whose a job's volumes are.
pub(crate) fn of_volumes(job: &Job, image_user: &str) -> u32 {
    of_job(job, image_user).unwrap_or_else(|| {
        image_user.split(':').next().and_then(|user| user.parse().ok()).unwrap_or(PLATFORM)
    })
}

/// Whether an image's user is root, as the engine reads it: `00` and `+0` are 0.
fn runs_as_root(user: &str) -> bool {
    let user = user.split(':').next().unwrap_or_default();
    matches!(user, "" | "root") || user.parse::<i64>() == Ok(0)
}

/// The users of a process, by its `/proc/<pid>/status`.
pub(crate) fn of_process(status: &str) -> impl Iterator<Item = u32> {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    ids.split_ascii_whitespace().filter_map(|id| id.parse().ok())
}

/// Whether a job's process runs as one whom etcd answers and whom it must not be: a name may stand for any number in an
/// image.
pub(crate) fn is_above_itself(job: &Job, status: &str) -> bool {
    let own = is_router(job).then_some(ROUTER);
    of_process(status).any(|user| is_above(user) && Some(user) != own)
}

/// Whether a user is root's, or one of those whom etcd answers.
pub(crate) fn is_above(user: u32) -> bool {
    [0, LAYER0, ROUTER].contains(&user)
}

/// Whom an image asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked<'a> {
    /// One by whom a job may run, or that does not count.
    Good,
    /// One by whom none may.
    Above,
    /// Whoever has that name in the image.
    Name(&'a str),
}

/// Whom an image asks for by whose user a job would run.
pub(crate) fn asked<'a>(job: &Job, image_user: &'a str) -> Asked<'a> {
    if of_job(job, image_user).is_some() {
        return Asked::Good;
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<i64>() {
        Err(_) => Asked::Name(user),
        Ok(number) if u32::try_from(number).is_ok_and(|user| !is_above(user)) => Asked::Good,
        Ok(_) => Asked::Above,
    }
}

/// Whether a name may stand for one by whom no job runs, as the engine reads `/etc/passwd`: what is no number is 0.
pub(crate) fn may_be_above(passwd: &str, name: &str) -> bool {
    let users = passwd.lines().map(|line| line.trim().split(':'));
    let mut own = users.filter_map(|mut fields| (fields.next()? == name).then(|| fields.nth(1)));
    own.any(|user| user.and_then(|user| user.parse().ok()).is_none_or(is_above))
}

/// `/etc/passwd` or `/etc/group` with another number for the platform's user: what asks for its own name finds one.
pub(crate) fn renumbered(text: &str, user: u32) -> String {
    let (was, is) = (PLATFORM.to_string(), user.to_string());
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if fields.len() >= 4 && fields[2] == was {
            fields[2] = &is;
            // In passwd the group's number follows; in group the members' names do.
            if fields[3] == was {
                fields[3] = &is;
            }
        }
        fields.join(":") + "\n"
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests {
    use api::id::JobId;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn job(app: Option<&str>) -> Job {
        let metadata = app.map_or(json!({}), |app| json!({ META_APP: app }));
        let job = json!({ "id": JobId::random(), "image": "redis", "metadata": metadata });
        serde_json::from_value(job).unwrap()
    }

    #[test]
    fn jobs_of_an_app_have_one_user_and_those_of_another_another() {
        let one = of_job(&job(Some("one")), "");
        assert_eq!(one, of_job(&job(Some("one")), "root"));
        assert_ne!(one, of_job(&job(Some("two")), ""));
        assert_ne!(of_job(&job(None), ""), of_job(&job(None), ""));
        assert_eq!(Some(of_volumes(&job(Some("one")), "0:0")), one);
    }

    #[test]
    fn an_image_with_a_user_of_its_own_keeps_it_and_its_volumes_are_that_users() {
        assert_eq!(of_job(&job(Some("one")), "redis"), None);
        assert_eq!(of_volumes(&job(Some("one")), "999:999"), 999);
        assert_eq!(of_volumes(&job(Some("one")), "flynn"), PLATFORM);
        for root in ["0:0", "00", "+0:5", "root", ""] {
            assert!(of_job(&job(Some("one")), root).is_some(), "{root}");
        }
        let status = |uid: u32| format!("Name:\tsh\nUid:\t1000\t{uid}\t1000\t1000\n");
        for (user, refused) in [(0, true), (LAYER0, true), (ROUTER, true), (1000, false)] {
            assert_eq!(is_above_itself(&job(None), &status(user)), refused, "{user}");
        }
    }

    #[test]
    fn who_no_job_may_be_is_refused_by_number_and_by_name() {
        let job = job(Some("one"));
        for user in ["1048575", "+1048574:5", "4294967296", "-1"] {
            assert_eq!(asked(&job, user), Asked::Above, "{user}");
        }
        for user in ["1000", "", "root", "0:0"] {
            assert_eq!(asked(&job, user), Asked::Good, "{user}");
        }
        assert_eq!(asked(&job, "web:5"), Asked::Name("web"));
        let above =
            |line: &str| may_be_above(&format!("root:x:0:0\n{line}\nweb:x:1000:0\n"), "web");
        for line in ["web:x:0:0", " web:x:1048575:", "web:x::", "web", "web:x:x", "web:x:+0"] {
            assert!(above(line), "{line}");
        }
        assert!(!above("we:x:0:0"));
    }

    #[test]
    fn the_router_is_the_routers_user_whatever_its_image_says() {
        let mut router = job(Some("router"));
        router.config.host_network = true;
        assert_eq!(of_job(&router, "flynn"), None, "an app may have the host's network too");
        router.resurrect = true;
        assert_eq!(of_job(&router, "flynn"), Some(ROUTER));
        let status = |user: u32| format!("Uid:\t{user}\t{user}\t{user}\t{user}\n");
        assert!(!is_above_itself(&router, &status(ROUTER)));
        assert!(is_above_itself(&router, &status(LAYER0)));
    }

    #[test]
    fn the_user_keeps_its_name_under_another_number() {
        let passwd = "root:x:0:0::/:/bin/sh\nflynn:x:1000:1000::/app:/bin/sh\n";
        let want = "root:x:0:0::/:/bin/sh\nflynn:x:7:7::/app:/bin/sh\n";
        assert_eq!(renumbered(passwd, 7), want);
        assert_eq!(renumbered("flynn:x:1000:\nx:x:10:1000", 7), "flynn:x:7:\nx:x:10:1000\n");
    }

    proptest! {
        #[test]
        fn every_apps_user_fits_into_a_head_of_tar_and_is_nobody_elses(app in ".{0,40}") {
            let user = of_app(&job(Some(&app)));
            prop_assert!(user > LAYER0 && user <= 0o7_777_777);
        }
    }
}
