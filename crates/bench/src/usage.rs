//! What processes use, by the kernel's books.

use std::{fs, time::Duration};

use anyhow::{Context, bail};

/// The kernel counts in clock ticks, which it shows as hundredths of a second on every machine we run on.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of the thread that asks.
pub(crate) fn thread_cpu() -> anyhow::Result<Duration> {
    let path = "/proc/thread-self/schedstat";
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let nanos = text.split(' ').next().and_then(|first| first.parse().ok());
    Ok(Duration::from_nanos(nanos.with_context(|| format!("{path}: {text}"))?))
}

/// CPU time of a process with all its threads.
pub(crate) fn process_cpu(pid: u32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The program's name may hold spaces and ends with the last parenthesis.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path}: {text}"))?;
    let times = rest.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    let ticks: u32 = times.sum::<Result<u32, _>>().with_context(|| format!("{path}: {text}"))?;
    Ok(TICK * ticks)
}

/// The most memory this process has held, in bytes.
pub(crate) fn peak_rss() -> anyhow::Result<u64> {
    kilobytes("/proc/self/status", "VmHWM:")
}

/// Memory of a process, its part of what it shares, in bytes.
pub(crate) fn pss(pid: u32) -> anyhow::Result<u64> {
    kilobytes(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

fn kilobytes(path: &str, field: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix(field)?.split_whitespace().next());
    let kilobytes: u64 = value.with_context(|| format!("{path} has no {field}"))?.parse()?;
    Ok(kilobytes << 10)
}

/// The processes of a program.
pub(crate) fn pids_of(program: &str) -> anyhow::Result<Vec<u32>> {
    let named = |pid: u32| {
        fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
    };
    let entries = fs::read_dir("/proc").context("listing /proc")?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let pids: Vec<u32> = pids.filter(|&pid| named(pid)).collect();
    if pids.is_empty() {
        bail!("no {program} runs here");
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_something() {
        thread_cpu().unwrap();
        assert!(peak_rss().unwrap() > 1 << 20);
        assert!(pss(std::process::id()).unwrap() > 1 << 18);
        process_cpu(std::process::id()).unwrap();
        assert!(pids_of("no such program").is_err());
    }
}
