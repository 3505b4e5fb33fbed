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
    cpu(pid, 2)
}

/// The same, where it is asked for 4 times, with that of its children that have ended.
fn cpu(pid: u32, times: usize) -> anyhow::Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The program's name may hold spaces and ends with the last parenthesis.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{path}: {text}"))?;
    let times = rest.split_whitespace().skip(11).take(times).map(str::parse::<u32>);
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

/// A process and those it started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Family(pub(crate) u32);

impl Family {
    /// CPU time of all, also of those that have ended.
    pub(crate) fn cpu(self) -> anyhow::Result<Duration> {
        self.members().into_iter().map(|pid| cpu(pid, 4)).sum()
    }

    /// Memory of all, in bytes; what they share is counted once.
    pub(crate) fn memory(self) -> anyhow::Result<u64> {
        self.members().into_iter().map(pss).sum()
    }

    /// The most memory that each has held since it was forgotten, in bytes.
    pub(crate) fn peak(self) -> anyhow::Result<u64> {
        let peak = |pid| kilobytes(&format!("/proc/{pid}/status"), "VmHWM:");
        self.members().into_iter().map(peak).sum()
    }

    /// Begins anew with the most memory held.
    pub(crate) fn forget_peak(self) -> anyhow::Result<()> {
        let forget = |pid| {
            let path = format!("/proc/{pid}/clear_refs");
            fs::write(&path, "5").with_context(|| format!("writing {path}"))
        };
        self.members().into_iter().try_for_each(forget)
    }

    fn members(self) -> Vec<u32> {
        let mut members = vec![self.0];
        let mut at = 0;
        while let Some(pid) = members.get(at) {
            // One that ends this moment has none.
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
            let children = children.unwrap_or_default();
            members.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            at += 1;
        }
        members
    }
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
    use std::{io::Read, process::Stdio};

    use super::*;

    #[test]
    fn this_process_uses_something() {
        thread_cpu().unwrap();
        assert!(peak_rss().unwrap() > 1 << 20);
        assert!(pss(std::process::id()).unwrap() > 1 << 18);
        process_cpu(std::process::id()).unwrap();
        assert!(pids_of("no such program").is_err());
    }

    #[test]
    fn a_family_is_a_process_and_its_children() {
        let mut shell = std::process::Command::new("sh");
        let shell = shell.args(["-c", "sleep 60 & echo; wait"]).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        shell.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let family = Family(shell.id());
        let members = family.members();
        assert_eq!((members.len(), members[0]), (2, shell.id()));
        family.forget_peak().unwrap();
        assert!(family.peak().unwrap() >= family.memory().unwrap());
        family.cpu().unwrap();
        for pid in members.iter().rev() {
            let pid = rustix::process::Pid::from_raw(*pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
    }
}
