//! What is where a repository is pushed to. git makes one of any folder it is told to, and takes pushes in the `.git` of one; so
//! what is there is looked at before anything of it is changed.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use crate::domain::update::is_object_id;

/// All that git makes of a bare repository.
const PARTS: [&str; 4] = ["HEAD", "config", "objects", "refs"];
/// What these hold in a new one: folders, and nothing in them.
const FOLDERS: [(&str, [&str; 2]); 2] =
    [("objects", ["info", "pack"]), ("refs", ["heads", "tags"])];

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// A bare repository.
    Repository,
    /// Nothing, or what a git that was killed had begun to make.
    Unmade,
}

/// Where a path leads, of which the last parts may not be there yet; or a sentence that says why it leads nowhere.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf, String> {
    let err = match path.canonicalize() {
        Ok(resolved) => return Ok(resolved),
        Err(err) => err,
    };
    if path.symlink_metadata().is_ok_and(|meta| meta.is_symlink()) {
        return Err(nowhere(path, &err));
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => Ok(resolve(parent)?.join(name)),
        _ => Ok(path.into()),
    }
}

/// Why a link cannot be followed.
fn nowhere(link: &Path, err: &io::Error) -> String {
    let shown = link.display();
    if err.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
        return format!("{shown} is a link that leads back to itself; remove it.");
    }
    if err.kind() != io::ErrorKind::NotFound {
        return format!("{shown} is a link that cannot be followed: {err}.");
    }
    let to = link.read_link().unwrap_or_default();
    let to = link.parent().map_or_else(|| to.clone(), |folder| folder.join(&to));
    format!(
        "{shown} is a link to {}, and there is nothing. Remove the link, or make a repository there (git init --bare {}).",
        to.display(),
        quoted(&to)
    )
}

/// What is at a path that leads somewhere; or a sentence that says why it takes no push.
pub(crate) fn look(path: &Path) -> Result<Place, String> {
    let meta = match path.metadata() {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Place::Unmade),
        meta => meta.map_err(|err| unreadable(path, &err))?,
    };
    let shown = path.display();
    if !meta.is_dir() {
        return Err(match read_start(path).starts_with("gitdir:") {
            true => format!(
                "{shown} is a file that names a repository elsewhere. Put a link to that in its place (ln -s)."
            ),
            false => format!("{shown} is a file, and a repository is a folder. Move it away."),
        });
    }
    // Also where it is a file, or a link to nothing: git looks into it first.
    if path.join(".git").symlink_metadata().is_ok() {
        return Err(format!(
            "{shown} is a work tree: it has a .git, and files that a push would not bring up to date. Put a bare repository in its \
             place (git clone --bare {} <new folder>).",
            quoted(path)
        ));
    }
    if is_repository(path) {
        return Ok(Place::Repository);
    }
    match is_unmade(path).map_err(|err| unreadable(path, &err))? {
        true => Ok(Place::Unmade),
        false => Err(format!(
            "{shown} is neither empty nor a bare repository, or one whose HEAD is lost. Move it away, or mend it, or put a bare \
             repository in its place (git clone --bare)."
        )),
    }
}

fn unreadable(path: &Path, err: &io::Error) -> String {
    format!("{} cannot be read: {err}.", path.display())
}

fn quoted(path: &Path) -> String {
    shell_words::quote(&path.to_string_lossy()).into_owned()
}

/// Whether git takes a folder for a repository.
fn is_repository(path: &Path) -> bool {
    let is_dir = |part: &str| path.join(part).is_dir();
    is_dir("objects") && is_dir("refs") && is_head(&path.join("HEAD"))
}

/// Whether a file says what a `HEAD` says: the name of a branch, or the id of a commit.
fn is_head(path: &Path) -> bool {
    if let Ok(to) = path.read_link() {
        return to.starts_with("refs");
    }
    let text = read_start(path);
    match text.strip_prefix("ref:") {
        Some(name) => name.trim_start().starts_with("refs/"),
        None => is_object_id(text.trim_end()),
    }
}

/// Whether a folder has nothing in it that git does not make of an empty one, and may so be made a repository.
pub(crate) fn is_unmade(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let part = name.strip_suffix(".lock").unwrap_or(&name);
        let is_begun = match FOLDERS.iter().find(|(folder, _)| *folder == name) {
            Some((_, inner)) => has_only_empty(&entry.path(), inner)?,
            // What git has locked it has not begun to use.
            None if part != name => PARTS.contains(&part) && entry.file_type()?.is_file(),
            None => is_new(&name, &read_start(&entry.path())) && entry.file_type()?.is_file(),
        };
        if !is_begun {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a file of a new repository says this.
fn is_new(name: &str, text: &str) -> bool {
    let start = match name {
        "HEAD" => "ref: refs/heads/",
        "config" => "[core]",
        _ => return false,
    };
    text.is_empty() || text.starts_with(start)
}

/// Whether a folder has no more than some empty folders.
fn has_only_empty(path: &Path, names: &[&str]) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let is_known = names.iter().any(|name| *name == entry.file_name());
        if !is_known || fs::read_dir(entry.path())?.next().is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The first bytes of a file, as text.
fn read_start(path: &Path) -> String {
    let mut start = Vec::new();
    // What cannot be read says nothing.
    let _ = fs::File::open(path).and_then(|file| file.take(256).read_to_end(&mut start));
    String::from_utf8_lossy(&start).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_git_has_begun_is_told_from_what_somebody_keeps() {
        for (files, place) in [
            (&[][..], Some(Place::Unmade)),
            (
                &[("HEAD", ""), ("config.lock", ""), ("objects/", ""), ("refs/heads/", "")],
                Some(Place::Unmade),
            ),
            (&[("HEAD", "ref: refs/heads/x\n"), ("config", "[core]\n")], Some(Place::Unmade)),
            (
                &[("HEAD", "ref: refs/heads/x\n"), ("objects/", ""), ("refs/", "")],
                Some(Place::Repository),
            ),
            (&[("HEAD", "precious\n")], None),
            (&[("a.lock", "")], None),
            (&[("config", "[other]\n")], None),
            (&[("objects/pack/", ""), ("objects/pack/a", "")], None),
            (&[("refs/heads/", ""), ("refs/heads/main", "")], None),
            (&[("HEAD", ""), ("objects/pack/", ""), ("objects/pack/a", ""), ("refs/", "")], None),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, text) in files {
                let path = dir.path().join(name);
                match name.ends_with('/') {
                    true => fs::create_dir_all(path).unwrap(),
                    false => fs::write(path, text).unwrap(),
                }
            }
            assert_eq!(look(dir.path()).ok(), place, "{files:?}");
        }
    }

    #[test]
    fn a_path_leads_where_its_links_lead_or_it_is_said_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir(root.join("real")).unwrap();
        for (to, link) in [("real", "folder"), ("gone", "lost"), ("loop", "loop")] {
            symlink(to, root.join(link)).unwrap();
        }
        assert_eq!(resolve(&root.join("folder/a/b.git")), Ok(root.join("real/a/b.git")));
        for (path, why) in [
            ("lost", "there is nothing"),
            ("lost/a.git", "lost is a link"),
            ("loop/a.git", "back to itself"),
        ] {
            let said = resolve(&root.join(path)).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
