//! How volumes are shown.

use api::volume::{Size, Volume};

/// Columns of the table.
pub(crate) const HEADER: [&str; 7] = ["ID", "APP", "TYPE", "PATH", "HOST", "SIZE", "IN USE BY"];

/// A row of the table.
pub(crate) fn row(volume: &Volume) -> Vec<String> {
    let jobs: Vec<String> =
        volume.jobs.iter().map(|job| format!("{}-{job}", volume.host_id)).collect();
    vec![
        volume.id.clone(),
        app(volume),
        volume.job_type.clone(),
        volume.path.clone().unwrap_or_default(),
        volume.host_id.clone(),
        size(volume.size),
        jobs.join(" "),
    ]
}

/// The app, or that it is no more.
fn app(volume: &Volume) -> String {
    let gone = || if volume.app.is_some() { "(deleted)" } else { "" };
    volume.app_name.clone().unwrap_or_else(|| gone().into())
}

/// `/data of db of shop`.
pub(crate) fn whose(volume: &Volume) -> String {
    let path = volume.path.as_deref().unwrap_or(&volume.id);
    match (&*volume.job_type, &volume.app_name) {
        ("", _) => path.into(),
        (kind, Some(app)) => format!("{path} of {kind} of {app}"),
        (kind, None) => format!("{path} of {kind} of a deleted app"),
    }
}

/// The volume that an id names, or that id and a host. One volume may lie on several hosts, where it has moved.
pub(crate) fn chosen<'a>(
    all: &'a [Volume],
    id: &str,
    host: Option<&str>,
) -> Result<&'a Volume, ChoiceError> {
    let found: Vec<&Volume> = all.iter().filter(|volume| volume.id == id).collect();
    let hosts = || found.iter().map(|volume| &*volume.host_id).collect::<Vec<_>>().join(", ");
    let mut meant = found.iter().filter(|volume| host.is_none_or(|host| volume.host_id == host));
    match (found.is_empty(), meant.next(), meant.next(), host) {
        (true, ..) => Err(ChoiceError::None(id.into())),
        (_, None, _, host) => {
            Err(ChoiceError::Elsewhere(id.into(), host.unwrap_or_default().into(), hosts()))
        }
        (_, Some(_), Some(_), _) => Err(ChoiceError::Several(id.into(), hosts())),
        (_, Some(volume), None, _) => Ok(volume),
    }
}

/// What was said names no volume, or more than one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ChoiceError {
    #[error("there is no volume {0}; `flynn volumes --all` lists them")]
    None(String),
    #[error("volume {0} is not on host {1}, but on {2}")]
    Elsewhere(String, String, String),
    #[error("volume {0} is on {1}: say which with --host")]
    Several(String, String),
}

/// `1.5 GB`; `?` while the host does not answer.
pub(crate) fn size(size: Option<Size>) -> String {
    let Some(Size { bytes, at_least }) = size else { return "?".into() };
    let more = if at_least { "more than " } else { "" };
    format!("{more}{}", self::bytes(bytes))
}

/// `1.5 GB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [(40, "TB"), (30, "GB"), (20, "MB"), (10, "KB")];
    match units.iter().find(|(power, _)| count >= 1 << power) {
        Some((power, unit)) => {
            let tenths = (count >> (power - 10)) * 10 / 1024;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_chosen_by_its_host_where_it_is_on_several() {
        let on = |host: &str| Volume {
            id: "v".into(),
            host_id: host.into(),
            app: None,
            app_name: None,
            job_type: String::new(),
            path: None,
            size: None,
            jobs: Vec::new(),
        };
        let both = [on("a"), on("b")];
        assert_eq!(chosen(&both, "v", Some("b")).unwrap().host_id, "b");
        assert_eq!(chosen(&both[..1], "v", None).unwrap().host_id, "a");
        let error = |host| chosen(&both, "v", host).unwrap_err();
        assert_eq!(error(None), ChoiceError::Several("v".into(), "a, b".into()));
        let elsewhere = ChoiceError::Elsewhere("v".into(), "c".into(), "a, b".into());
        assert_eq!(error(Some("c")), elsewhere);
        assert_eq!(chosen(&both, "w", None), Err(ChoiceError::None("w".into())));
    }

    #[test]
    fn sizes_are_shown_as_people_read_them() {
        let of = |bytes| size(Some(Size { bytes, at_least: false }));
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1536, "1.5 KB"),
            (3 << 30, "3.0 GB"),
            ((1 << 40) - 1, "1023.9 GB"),
            (u64::MAX, "16777215.9 TB"),
        ] {
            assert_eq!(of(bytes), shown);
        }
        assert_eq!(size(Some(Size { bytes: 1 << 20, at_least: true })), "more than 1.0 MB");
        assert_eq!(size(None), "?");
    }
}
