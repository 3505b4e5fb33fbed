//! What the tree of a commit holds, read from `git ls-tree -r -t -l -z`: how much it is, and what of it is not deployed as
//! its author may think.

/// Names that are told; of the others the number is.
const TOLD_MAX: usize = 5;
/// Small files that are looked at for being a pointer of Git LFS.
const CANDIDATES_MAX: usize = 2000;
/// What a pointer of Git LFS begins with.
const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";
/// Sizes a pointer of Git LFS can have.
const POINTER_LENS: std::ops::RangeInclusive<u64> = 100..=400;
/// What a tar has for each entry beside its content.
const TAR_ENTRY_LEN: u64 = 1024;

/// A small file that may be a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Object id of its content.
    pub id: String,
    /// Where it is.
    pub path: String,
}

/// What a tree holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// Files, folders, links, submodules.
    pub entries: u64,
    /// About how many bytes its tar has.
    pub tar_len: u64,
    /// Paths of submodules.
    pub submodules: Vec<String>,
    /// Files that may be pointers of Git LFS.
    pub candidates: Vec<Candidate>,
}

impl Survey {
    /// Counts one line of `git ls-tree`, without its end: `<mode> <type> <id> <size>\t<path>`.
    pub fn add(&mut self, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        let Some((head, path)) = line.split_once('\t') else { return };
        let mut words = head.split_ascii_whitespace();
        let (mode, kind, id) = (words.next(), words.next(), words.next().unwrap_or_default());
        let size = words.next().and_then(|size| size.parse().ok()).unwrap_or(0);
        self.entries += 1;
        self.tar_len = self.tar_len.saturating_add(TAR_ENTRY_LEN).saturating_add(size);
        if kind == Some("commit") {
            self.submodules.push(path.into());
        }
        let is_file = matches!(mode, Some("100644" | "100755"));
        if is_file && POINTER_LENS.contains(&size) && self.candidates.len() < CANDIDATES_MAX {
            self.candidates.push(Candidate { id: id.into(), path: path.into() });
        }
    }
}

/// Which candidates are pointers, by the output of `git cat-file --batch` for them, in their order.
pub fn pointers(candidates: &[Candidate], mut batch: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for candidate in candidates {
        let Some(end) = batch.iter().position(|&b| b == b'\n') else { break };
        let head = String::from_utf8_lossy(&batch[..end]);
        let Some(size) = head.rsplit(' ').next().and_then(|size| size.parse::<usize>().ok()) else {
            break;
        };
        let rest = &batch[end + 1..];
        if rest.starts_with(POINTER) {
            found.push(candidate.path.clone());
        }
        batch = rest.get(size.saturating_add(1)..).unwrap_or_default();
    }
    found
}

/// What the pusher is told of a tree, a line each.
pub fn remarks(submodules: &[String], pointers: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    if !submodules.is_empty() {
        lines.push(format!(
            "Submodules are not fetched: {} will be empty in the app. Add their files to the repository instead \
             (git subtree, or a package manager).",
            some(submodules)
        ));
    }
    if !pointers.is_empty() {
        lines.push(format!(
            "Git LFS is not served here: {} will be a pointer of some 130 bytes in the app, not the file. Commit the file \
             itself (git lfs migrate export), or fetch it when the app is built.",
            some(pointers)
        ));
    }
    lines
}

fn some(names: &[String]) -> String {
    let shown =
        |name: &String| -> String { name.chars().filter(|c| !c.is_control()).take(100).collect() };
    let told: Vec<String> = names.iter().take(TOLD_MAX).map(shown).collect();
    match names.len().saturating_sub(TOLD_MAX) {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn submodules_and_possible_pointers_are_found_and_all_is_counted() {
        let mut survey = Survey::default();
        for line in [
            "040000 tree 1111111111111111111111111111111111111111       -\tsrc",
            "100644 blob 2222222222222222222222222222222222222222     134\tsrc/model.bin",
            "120000 blob 3333333333333333333333333333333333333333     134\tlink",
            "160000 commit 4444444444444444444444444444444444444444       -\tlib/a b",
            "100644 blob 5555555555555555555555555555555555555555 9000000\tbig",
        ] {
            survey.add(line.as_bytes());
        }
        assert_eq!((survey.entries, survey.tar_len), (5, 5 * 1024 + 9_000_268));
        assert_eq!(survey.submodules, ["lib/a b"]);
        let [candidate] = &survey.candidates[..] else { panic!("{survey:?}") };
        assert_eq!((&*candidate.path, &candidate.id[..4]), ("src/model.bin", "2222"));
    }

    #[test]
    fn a_pointer_is_told_from_a_small_file_by_its_first_line() {
        let candidate = |path: &str| Candidate { id: "2".repeat(40), path: path.into() };
        let pointer =
            format!("{}oid sha256:{}\nsize 7\n", String::from_utf8_lossy(POINTER), "a".repeat(64));
        let batch =
            format!("{0} blob 5\nhello\n{0} blob {1}\n{pointer}\n", "2".repeat(40), pointer.len());
        assert_eq!(pointers(&[candidate("a"), candidate("b")], batch.as_bytes()), ["b"]);
        let many: Vec<String> = (0..7).map(|n| format!("m{n}")).collect();
        let said = remarks(&many, &["b".into()]);
        assert!(said[0].contains("m0, m1, m2, m3, m4 and 2 more will be empty"), "{said:?}");
        assert!(said[1].contains("Git LFS") && remarks(&[], &[]).is_empty());
    }

    proptest! {
        #[test]
        fn reading_never_panics(line: Vec<u8>, batch: Vec<u8>, text in "[0-9a-f]{4} blob [0-9]{1,20}\n.{0,20}") {
            let mut survey = Survey::default();
            survey.add(&line);
            let candidates = vec![Candidate { id: "1".into(), path: "a".into() }; 3];
            pointers(&candidates, &batch);
            pointers(&candidates, text.as_bytes());
        }
    }
}
