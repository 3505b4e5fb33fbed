//! PostgreSQL's programs, kept beside the data they made.
//!
//! Data is of one version of PostgreSQL, and an image has the one of the system it was built on. When that system is
//! upgraded, the next image could not read the data; so the first server on a volume leaves its programs there, with the
//! libraries they use, and a server whose own are of another version runs those. (The C library is the system's: a newer one
//! runs what an older one ran.)

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tracing::{info, warn};

/// The directory, below the volume.
const DIR: &str = "programs";
/// Libraries, beside the programs.
const LIBRARIES: &str = "libraries";
/// What needs not be kept of the server's modules: the compiler, which is large, and what it compiles from.
const LEFT_OUT: [&str; 2] = ["bitcode", "llvmjit"];
/// The C library's parts, which fit the system's loader and nothing else.
const OF_THE_SYSTEM: [&str; 8] = [
    "ld-linux",
    "libc.so",
    "libm.so",
    "libpthread.so",
    "libdl.so",
    "librt.so",
    "libresolv.so",
    "libutil.so",
];

/// Programs to run a server with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// Where they are.
    pub bin: PathBuf,
    /// Where their libraries are, if not in the system.
    pub libraries: Option<PathBuf>,
}

/// The programs of a version that are kept on a volume.
pub fn find(data_dir: &Path, version: &str) -> Option<Programs> {
    let kept = data_dir.join(DIR).join(version);
    let bin = kept.join("usr/lib/postgresql").join(version).join("bin");
    let there = bin.join("postgres").exists();
    there.then(|| Programs { bin, libraries: Some(kept.join(LIBRARIES)) })
}

/// Keeps the programs that a server runs, unless they are kept. They are looked for below `/`, where they find the rest of
/// themselves by their own place.
pub fn keep(data_dir: &Path, bin: &Path, server: u32) {
    let Some(version) = version_of(bin) else { return };
    if find(data_dir, &version).is_some() {
        return;
    }
    match copy_all(data_dir, bin, &version, server) {
        Ok(()) => info!("the programs of PostgreSQL {version} are kept beside the data"),
        Err(err) => warn!(
            error = &err as &dyn std::error::Error,
            "the programs of PostgreSQL {version} could not be kept beside the data"
        ),
    }
}

/// The version that programs in `…/<version>/bin` are of.
pub fn version_of(bin: &Path) -> Option<String> {
    let name = bin.parent()?.file_name()?.to_str()?;
    name.parse::<u32>().ok()?;
    Some(name.to_owned())
}

fn copy_all(data_dir: &Path, bin: &Path, version: &str, server: u32) -> io::Result<()> {
    let all = data_dir.join(DIR);
    let new = all.join(format!("{version}.new"));
    match fs::remove_dir_all(&new) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let programs = new.join("usr/lib/postgresql").join(version);
    copy_dir(bin, &programs.join("bin"))?;
    copy_dir(&bin.with_file_name("lib"), &programs.join("lib"))?;
    let share = Path::new("share/postgresql").join(version);
    // From `<root>/lib/postgresql/<version>/bin` to `<root>/share/postgresql/<version>`.
    let root = bin.ancestors().nth(4).unwrap_or(bin);
    copy_dir(&root.join(&share), &new.join("usr").join(&share))?;
    fs::create_dir_all(new.join(LIBRARIES))?;
    for library in libraries(&fs::read_to_string(format!("/proc/{server}/maps"))?) {
        let name = library.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        fs::copy(&library, new.join(LIBRARIES).join(name))?;
        for short in short_names(name) {
            std::os::unix::fs::symlink(name, new.join(LIBRARIES).join(short))?;
        }
    }
    rustix::fs::syncfs(fs::File::open(&new)?)?;
    fs::rename(&new, all.join(version))
}

/// The files of libraries that a process has loaded, by its `/proc/<pid>/maps`.
fn libraries(maps: &str) -> Vec<PathBuf> {
    let file = |line: &str| Some(PathBuf::from(&line[line.find('/')?..]));
    let mut all: Vec<PathBuf> = maps.lines().filter_map(file).collect();
    all.sort_unstable();
    all.dedup();
    all.retain(|path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.contains(".so") && !OF_THE_SYSTEM.iter().any(|own| name.starts_with(own))
    });
    all
}

/// The names that a library's file may be asked for by: with fewer numbers behind it.
fn short_names(name: &str) -> Vec<&str> {
    let end = name.find(".so").map_or(name.len(), |at| at + ".so".len());
    name.match_indices('.').filter(|(at, _)| *at >= end).map(|(at, _)| &name[..at]).collect()
}

/// Copies a directory, and what links in it lead to.
fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let begins = |part: &&str| name.to_string_lossy().starts_with(*part);
        if LEFT_OUT.iter().any(begins) {
            continue;
        }
        let (from, to) = (entry.path(), to.join(&name));
        match fs::metadata(&from) {
            Ok(data) if data.is_dir() => copy_dir(&from, &to)?,
            Ok(_) => drop(fs::copy(&from, &to)?),
            // A link that leads nowhere.
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_libraries_of_a_process_are_those_it_has_loaded_but_the_systems() {
        let maps = "\
            55e0-55e1 r-xp 0 08:01 1 /usr/lib/postgresql/15/bin/postgres\n\
            7f00-7f01 r--p 0 08:01 2 /usr/lib/x86_64-linux-gnu/libicuuc.so.72.1\n\
            7f01-7f02 r-xp 0 08:01 2 /usr/lib/x86_64-linux-gnu/libicuuc.so.72.1\n\
            7f03-7f04 r-xp 0 08:01 3 /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f05-7f06 r-xp 0 08:01 4 /lib64/ld-linux-x86-64.so.2\n\
            7f07-7f08 rw-p 0 00:00 0 [heap]\n";
        let found = libraries(maps);
        assert_eq!(found, [Path::new("/usr/lib/x86_64-linux-gnu/libicuuc.so.72.1")]);
        assert_eq!(short_names("libicuuc.so.72.1"), ["libicuuc.so", "libicuuc.so.72"]);
        assert_eq!(short_names("libldap-2.5.so.0"), ["libldap-2.5.so"]);
        assert!(short_names("plpgsql.so").is_empty());
        assert_eq!(version_of(Path::new("/usr/lib/postgresql/15/bin")), Some("15".into()));
        assert_eq!(version_of(Path::new("/opt/postgres/bin")), None);
    }

    proptest! {
        #[test]
        fn reading_never_panics(maps in "\\PC{0,200}") {
            for library in libraries(&maps) {
                short_names(&library.display().to_string());
            }
        }
    }
}
