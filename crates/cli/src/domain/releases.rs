//! Which release a rollback goes back to.

use api::controller::{Deployment, DeploymentStatus, Release};

/// The newest release made before `current` that served once and differs from it in what runs.
pub(crate) fn previous<'a>(
    current: &Release,
    releases: &'a [Release],
    deployments: &[Deployment],
) -> Option<&'a Release> {
    let served = |release: &Release| {
        deployments.iter().any(|deployment| {
            let completed = deployment.status == DeploymentStatus::Complete;
            (completed && deployment.new_release == release.id)
                || deployment.old_release == Some(release.id)
        })
    };
    let runs = |r: &Release| (r.artifacts.clone(), r.env.clone(), r.processes.clone());
    let what = runs(current);
    releases
        .iter()
        .filter(|release| release.id != current.id && release.created_at < current.created_at)
        .filter(|release| runs(release) != what && served(release))
        .max_by_key(|release| release.created_at)
}

#[cfg(test)]
mod tests {
    use api::{
        controller::Strategy,
        id::{AppId, ArtifactId, DeploymentId, ReleaseId},
    };
    use jiff::Timestamp;

    use super::*;

    fn release(second: i64, env: &str, artifact: ArtifactId) -> Release {
        Release {
            id: ReleaseId::random(),
            app_id: None,
            artifacts: vec![artifact],
            env: [("A".to_owned(), env.to_owned())].into(),
            meta: [].into(),
            processes: [].into(),
            created_at: Timestamp::from_second(second).unwrap(),
        }
    }

    fn deployed(release: &Release, status: DeploymentStatus) -> Deployment {
        Deployment {
            id: DeploymentId::random(),
            app: AppId::random(),
            old_release: None,
            new_release: release.id,
            strategy: Strategy::OneByOne,
            status,
            processes: [].into(),
            deploy_timeout: 1,
            error: None,
            created_at: release.created_at,
            finished_at: None,
        }
    }

    #[test]
    fn a_rollback_goes_to_the_last_release_that_served_something_else() {
        let slug = ArtifactId::random();
        let releases: Vec<_> = [(1, "a"), (2, "b"), (3, "broken"), (4, "c"), (5, "c")]
            .map(|(at, env)| release(at, env, slug))
            .into();
        let deployments: Vec<_> = releases
            .iter()
            .map(|release| match release.env["A"].as_str() {
                "broken" => deployed(release, DeploymentStatus::Failed),
                _ => deployed(release, DeploymentStatus::Complete),
            })
            .collect();
        let back =
            |from: &Release| previous(from, &releases, &deployments).map(|r| r.env["A"].as_str());
        assert_eq!(back(&releases[4]), Some("b"));
        assert_eq!(back(&releases[1]), Some("a"));
        assert_eq!(back(&releases[0]), None);
    }

    #[test]
    fn a_release_that_never_served_is_not_gone_back_to() {
        let releases =
            [release(1, "a", ArtifactId::random()), release(2, "b", ArtifactId::random())];
        assert_eq!(previous(&releases[1], &releases, &[]), None);
        let mut second = deployed(&releases[1], DeploymentStatus::Complete);
        second.old_release = Some(releases[0].id);
        assert_eq!(previous(&releases[1], &releases, &[second]), Some(&releases[0]));
    }
}
