//! Lines of a log as shown.

use api::controller::LogLine;

use super::jobs::{kind_shown, short};

/// `2026-11-23T12:00:00.000000Z app[web.1a2b3c4d]: GET /`.
pub(crate) fn with_source(line: &LogLine) -> String {
    let kind = kind_shown(&line.process_type);
    format!("{:.6} app[{kind}.{}]: {}", line.timestamp, short(&line.job_id), line.msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_and_which_job() {
        let line = |kind: &str| LogLine {
            host_id: "h".into(),
            job_id: "h-0123456789abcdef0123456789abcdef".into(),
            process_type: kind.into(),
            stream: "stdout".into(),
            msg: "hi".into(),
            timestamp: "2026-11-23T12:00:00.5Z".parse().unwrap(),
        };
        assert_eq!(with_source(&line("web")), "2026-11-23T12:00:00.500000Z app[web.01234567]: hi");
        assert_eq!(with_source(&line("")), "2026-11-23T12:00:00.500000Z app[run.01234567]: hi");
    }
}
