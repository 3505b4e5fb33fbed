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
