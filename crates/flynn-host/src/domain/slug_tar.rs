//! A slug's tar on its way into an image: every entry comes to belong to the user that runs apps, nothing is set-uid,
//! nothing is a device, and nothing lies outside of the app's folder or behind a link.
//!
//! The names of entries get the app's folder in front, so that the engine unpacks them at its root: below a folder it refuses
//! links that lead out of it, which a repository may have.
//!
//! Heads are rewritten where they stand and bodies pass unread. So only kinds of entries pass whose bodies cannot say
//! anything about owner, size or rights: what slugbuilder writes, with GNU's long names. The records of PAX could.

use std::collections::HashSet;

pub(super) const BLOCK: usize = 512;
/// Most bytes a slug unpacks to: an image layer of that size is a mistake.
const LIMIT: u64 = 8 << 30;

/// Longest name of an entry or target of a link.
const NAME_LEN_MAX: u64 = 4096;
/// Bytes of a name that a head has room for.
const SHORT: usize = 100;
/// Most symbolic links that are remembered.
const LINKS_MAX: usize = 200_000;
/// The app's folder, before every name.
const FOLDER: &[u8] = b"app/";

/// The slug cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTar {
    /// A head's checksum is wrong.
    #[error("the slug is not a tar archive, or it is damaged")]
    Damaged,
    /// An entry is not a file, folder or link.
    #[error("the slug holds a device or pipe, which an app cannot have")]
    Special,
    /// An entry is of a kind that slugbuilder does not write.
    #[error(
        "the slug holds an entry of tar's kind {0:?}, which may say more than it shows; build it with slugbuilder"
    )]
    Extension(char),
    /// It ends in the middle.
    #[error("the slug's archive ends in the middle")]
    Truncated,
    /// A name leads out of the app's folder.
    #[error("the slug holds a file whose name leads out of the app's folder")]
    Outside,
    /// An entry would be written through a link before it.
    #[error("the slug holds a file behind a link, or two of a name of which one is a link")]
    BehindLink,
    /// More links than any app has.
    #[error("the slug holds more than {LINKS_MAX} links")]
    Links,
    /// It is larger than [`LIMIT`].
    #[error("the slug unpacks to more than 8 GiB")]
    TooLarge,
}

/// Rewrites a tar stream chunk by chunk.
#[derive(Debug)]
pub(crate) struct Chown {
    /// The user and the group to which everything comes to belong.
    owner: u32,
    head: Vec<u8>,
    body: u64,
    total: u64,
    /// A long name or target that is being read: its kind, its length, and what is there of it, padding included.
    long: Option<(u8, usize, Vec<u8>)>,
    /// Long name and target of the entry that comes next.
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    links: HashSet<Vec<u8>>,
}

impl Chown {
    /// Makes everything that user's.
    pub(crate) fn to(owner: u32) -> Self {
        Self {
            owner,
            head: Vec::new(),
            body: 0,
            total: 0,
            long: None,
            name: None,
            target: None,
            links: HashSet::new(),
        }
    }

    /// Takes a chunk and gives what can go on.
    pub(crate) fn push(&mut self, mut chunk: &[u8]) -> Result<Vec<u8>, BadTar> {
        self.total += chunk.len() as u64;
        if self.total > LIMIT {
            return Err(BadTar::TooLarge);
        }
        let mut out = Vec::with_capacity(chunk.len() + BLOCK);
        while !chunk.is_empty() {
            if let Some((_, length, text)) = &mut self.long {
                let (part, rest) =
                    chunk.split_at((length.next_multiple_of(BLOCK) - text.len()).min(chunk.len()));
                text.extend_from_slice(part);
                chunk = rest;
                self.keep_long();
                continue;
            }
            if self.body > 0 {
                let take = usize::try_from(self.body).unwrap_or(usize::MAX).min(chunk.len());
                let (body, rest) = chunk.split_at(take);
                out.extend_from_slice(body);
                self.body -= take as u64;
                chunk = rest;
                continue;
            }
            let (part, rest) = chunk.split_at((BLOCK - self.head.len()).min(chunk.len()));
            self.head.extend_from_slice(part);
            chunk = rest;
            if self.head.len() == BLOCK {
                let head = std::mem::take(&mut self.head);
                self.entry(head, &mut out)?;
            }
        }
        Ok(out)
    }

    /// Whether the stream may end here.
    pub(crate) fn finish(&self) -> Result<(), BadTar> {
        let between = self.head.is_empty() && self.body == 0 && self.long.is_none();
        if between { Ok(()) } else { Err(BadTar::Truncated) }
    }

    /// Keeps a long name for the entry that follows, once it is whole.
    fn keep_long(&mut self) {
        let Some((kind, length, text)) = &mut self.long else { return };
        if text.len() < length.next_multiple_of(BLOCK) {
            return;
        }
        text.truncate(*length);
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        text.truncate(end);
        let text = Some(std::mem::take(text));
        if *kind == b'L' {
            self.name = text;
        } else {
            self.target = text;
        }
        self.long = None;
    }

    /// Passes on an entry's head, rewritten.
    fn entry(&mut self, mut head: Vec<u8>, out: &mut Vec<u8>) -> Result<(), BadTar> {
        if head.iter().all(|&b| b == 0) {
            out.extend_from_slice(&head);
            return Ok(());
        }
        let size = rewrite(&mut head, self.owner)?;
        if matches!(head[156], b'L' | b'K') {
            if !(1..=NAME_LEN_MAX + 1).contains(&size) {
                return Err(BadTar::Damaged);
            }
            let length = usize::try_from(size).map_err(|_| BadTar::Damaged)?;
            self.long = Some((head[156], length, Vec::new()));
            return Ok(());
        }
        let name = self.name.take().unwrap_or_else(|| name_of(&head));
        let target = self.target.take().unwrap_or_else(|| text(&head[157..257]));
        let is_folder = head[156] == b'5';
        let place = self.admit(&name, head[156])?;
        let mut name = [FOLDER, &place].concat();
        if is_folder && !place.is_empty() {
            name.push(b'/');
        }
        let target = match head[156] {
            b'1' => [FOLDER, &self.linked(&target)?].concat(),
            b'2' => target,
            _ => Vec::new(),
        };
        put(&mut head, 0..SHORT, b'L', &name, out);
        put(&mut head, 157..257, b'K', &target, out);
        // GNU's kind of head, to which its long names belong; what others have in the rest of it is in the name.
        head[257..265].copy_from_slice(b"ustar  \0");
        head[345..500].fill(0);
        let sum = checksum(&head);
        octal(&mut head[148..156], sum);
        out.extend_from_slice(&head);
        self.body = size.next_multiple_of(BLOCK as u64);
        Ok(())
    }

    /// The place of an entry below the app's folder.
    fn admit(&mut self, name: &[u8], kind: u8) -> Result<Vec<u8>, BadTar> {
        let place = self.inside(name)?;
        if place.is_empty() && kind != b'5' {
            return Err(BadTar::Outside);
        }
        if self.links.contains(&place) {
            return Err(BadTar::BehindLink);
        }
        if kind == b'2' {
            if self.links.len() >= LINKS_MAX {
                return Err(BadTar::Links);
            }
            self.links.insert(place.clone());
        }
        Ok(place)
    }

    /// The file a hard link names.
    fn linked(&self, target: &[u8]) -> Result<Vec<u8>, BadTar> {
        let place = self.inside(target)?;
        if place.is_empty() || self.links.contains(&place) {
            return Err(BadTar::BehindLink);
        }
        Ok(place)
    }

    /// A path of plain names, none of which but the last is a link.
    fn inside(&self, path: &[u8]) -> Result<Vec<u8>, BadTar> {
        if path.starts_with(b"/") || path.len() as u64 > NAME_LEN_MAX {
            return Err(BadTar::Outside);
        }
        let mut place = Vec::with_capacity(path.len());
        for part in path.split(|&b| b == b'/') {
            match part {
                b"" | b"." => continue,
                b".." => return Err(BadTar::Outside),
                _ => {}
            }
            if !place.is_empty() {
                if self.links.contains(&place) {
                    return Err(BadTar::BehindLink);
                }
                place.push(b'/');
            }
            place.extend_from_slice(part);
        }
        Ok(place)
    }
}

/// Puts a name into its field, or, if it is too long, as much of it as fits, with an entry before that has all of it.
fn put(head: &mut [u8], field: std::ops::Range<usize>, kind: u8, name: &[u8], out: &mut Vec<u8>) {
    let short = &name[..name.len().min(SHORT)];
    let field = &mut head[field];
    field.fill(0);
    field[..short.len()].copy_from_slice(short);
    if name.len() <= SHORT {
        return;
    }
    let mut long = vec![0; BLOCK];
    long[..13].copy_from_slice(b"././@LongLink");
    for field in [100..108, 108..116, 116..124, 136..148] {
        octal(&mut long[field], 0);
    }
    octal(&mut long[124..136], name.len() as u64 + 1);
    long[156] = kind;
    long[257..265].copy_from_slice(b"ustar  \0");
    let sum = checksum(&long);
    octal(&mut long[148..156], sum);
    long.extend_from_slice(name);
    long.resize(BLOCK + (name.len() + 1).next_multiple_of(BLOCK), 0);
    out.extend_from_slice(&long);
}

/// The name a head has of itself, with POSIX's prefix.
fn name_of(head: &[u8]) -> Vec<u8> {
    let name = text(&head[..SHORT]);
    let prefix = text(&head[345..500]);
    if &head[257..263] == b"ustar\0" && !prefix.is_empty() {
        return [&prefix, &b"/"[..], &name].concat();
    }
    name
}

fn text(field: &[u8]) -> Vec<u8> {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    field[..end].to_vec()
}

/// Rewrites owner and rights in a head and answers how many bytes of body follow.
fn rewrite(head: &mut [u8], owner: u32) -> Result<u64, BadTar> {
    if number(&head[148..156]) != Some(checksum(head)) {
        return Err(BadTar::Damaged);
    }
    match head[156] {
        b'0' | 0 | b'1' | b'2' | b'5' | b'L' | b'K' => {}
        b'3' | b'4' | b'6' => return Err(BadTar::Special),
        other => return Err(BadTar::Extension(other.into())),
    }
    let mode = number(&head[100..108]).ok_or(BadTar::Damaged)?;
    let size = number(&head[124..136]).filter(|size| *size <= LIMIT).ok_or(BadTar::Damaged)?;
    octal(&mut head[100..108], mode & 0o1777);
    octal(&mut head[108..116], owner.into());
    octal(&mut head[116..124], owner.into());
    // Links and folders have no body, whatever their size field says.
    if matches!(head[156], b'1' | b'2' | b'5') {
        octal(&mut head[124..136], 0);
        return Ok(0);
    }
    Ok(size)
}

/// The sum of a head's bytes, with its checksum taken as spaces.
pub(super) fn checksum(head: &[u8]) -> u64 {
    let bytes = head.iter().enumerate();
    bytes.map(|(n, &b)| u64::from(if (148..156).contains(&n) { b' ' } else { b })).sum()
}

/// Octal digits, or a binary number if the first bit is set.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (high, low) = field.split_at(field.len() - 8.min(field.len() - 1));
        let first =
            u64::from(high[0] & 0x7f) + high[1..].iter().map(|&b| u64::from(b)).sum::<u64>();
        return (first == 0).then(|| low.iter().fold(0, |n, &b| n << 8 | u64::from(b)));
    }
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_matches(['\0', ' ']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

pub(super) fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::users::PLATFORM, *};

    fn entry(name: &str, kind: u8, mode: u64, body: &[u8]) -> Vec<u8> {
        let mut head = vec![0; BLOCK];
        head[..name.len()].copy_from_slice(name.as_bytes());
        octal(&mut head[100..108], mode);
        octal(&mut head[108..116], 0);
        octal(&mut head[116..124], 0);
        octal(&mut head[124..136], body.len() as u64);
        head[156] = kind;
        let sum = checksum(&head);
        octal(&mut head[148..156], sum);
        head.extend_from_slice(body);
        head.resize(head.len().next_multiple_of(BLOCK), 0);
        head
    }

    fn archive(kind: u8) -> Vec<u8> {
        let mut tar = entry("./bin", b'5', 0o755, b"");
        tar.extend(entry("./bin/app", kind, 0o6755, &[7; 700]));
        tar.extend([0; 2 * BLOCK]);
        tar
    }

    #[test]
    fn every_entry_comes_to_belong_to_the_app_and_none_is_set_uid() {
        let mut chown = Chown::to(0o7_654_321);
        let out = chown.push(&archive(b'0')).unwrap();
        chown.finish().unwrap();
        let want = [entry_of(&out, 0), entry_of(&out, BLOCK)];
        assert_eq!(want, [(0o755, 0o7_654_321, 0o7_654_321); 2]);
        assert_eq!(out[2 * BLOCK..2 * BLOCK + 700], [7; 700]);
        assert_eq!(out.len(), archive(b'0').len());
    }

    fn entry_of(tar: &[u8], at: usize) -> (u64, u64, u64) {
        let head = &tar[at..at + BLOCK];
        assert_eq!(number(&head[148..156]), Some(checksum(head)));
        let field = |range: std::ops::Range<usize>| number(&head[range]).unwrap();
        (field(100..108), field(108..116), field(116..124))
    }

    /// Names of the entries of what was passed on, as tar reads them.
    fn names(slug: &[u8]) -> Vec<Vec<u8>> {
        let out = Chown::to(PLATFORM).push(slug).unwrap();
        let (mut at, mut names, mut long) = (0, Vec::new(), None);
        while at + BLOCK <= out.len() && out[at] != 0 {
            let head = &out[at..at + BLOCK];
            assert_eq!(number(&head[148..156]), Some(checksum(head)));
            let size = usize::try_from(number(&head[124..136]).unwrap()).unwrap();
            let body = &out[at + BLOCK..at + BLOCK + size];
            match head[156] {
                b'L' => long = Some(text(body)),
                b'K' => names.push([b"K ", &text(body)[..]].concat()),
                _ => names.push(long.take().unwrap_or_else(|| text(&head[..SHORT]))),
            }
            at += BLOCK + size.next_multiple_of(BLOCK);
        }
        names
    }

    fn link(name: &str, target: &str) -> Vec<u8> {
        let mut head = entry(name, b'2', 0o777, b"");
        head[157..157 + target.len()].copy_from_slice(target.as_bytes());
        let sum = checksum(&head);
        octal(&mut head[148..156], sum);
        head
    }

    #[test]
    fn every_name_lies_in_the_apps_folder_however_long_it_is() {
        let (exact, longer) = ("n".repeat(96), "n".repeat(97));
        let mut tar = [entry("./", b'5', 0o755, b""), link("out", "../../etc")].concat();
        tar.extend(entry(&exact, b'0', 0o644, b"x"));
        tar.extend(entry(&longer, b'0', 0o644, b"x"));
        let very = "v/".repeat(400) + "end";
        tar.extend(entry("././@LongLink", b'L', 0o644, format!("{very}\0").as_bytes()));
        tar.extend(entry("v/v", b'0', 0o644, b"x"));
        tar.extend(entry("././@LongLink", b'K', 0o644, &[&[b't'; 300][..], b"\0"].concat()));
        tar.extend(link("far", "t"));
        let app = |name: &str| format!("app/{name}").into_bytes();
        let far = [b"K ", &[b't'; 300][..]].concat();
        let want = [app(""), app("out"), app(&exact), app(&longer), app(&very), far, app("far")];
        assert_eq!(names(&tar), want);
    }

    #[test]
    fn names_that_lead_out_or_lie_behind_a_link_are_refused() {
        for name in ["/etc/passwd", "../x", "a/../../x", "..", "a/.."] {
            let refused = Chown::to(PLATFORM).push(&entry(name, b'0', 0o644, b"x"));
            assert_eq!(refused, Err(BadTar::Outside), "{name}");
        }
        for (name, kind) in [("x/passwd", b'0'), ("./x//a/b", b'5'), ("x", b'0'), ("x", b'5')] {
            let tar = [link("x", "/etc"), entry(name, kind, 0o644, b"")].concat();
            assert_eq!(Chown::to(PLATFORM).push(&tar), Err(BadTar::BehindLink), "{name}");
        }
        let mut hard = entry("h", b'1', 0o644, b"");
        hard[157..158].copy_from_slice(b"x");
        let sum = checksum(&hard);
        octal(&mut hard[148..156], sum);
        let tar = [link("x", "/etc/passwd"), hard].concat();
        assert_eq!(Chown::to(PLATFORM).push(&tar), Err(BadTar::BehindLink));
    }

    #[test]
    fn devices_damage_and_truncation_are_refused() {
        assert_eq!(Chown::to(PLATFORM).push(&archive(b'4')), Err(BadTar::Special));
        for kind in [b'x', b'g', b'S', b'7'] {
            assert_eq!(
                Chown::to(PLATFORM).push(&archive(kind)),
                Err(BadTar::Extension(kind.into()))
            );
        }
        assert_eq!(Chown::to(PLATFORM).push(&[b'x'; BLOCK]), Err(BadTar::Damaged));
        let mut chown = Chown::to(PLATFORM);
        chown.push(&archive(b'0')[..BLOCK * 2 + 100]).unwrap();
        assert_eq!(chown.finish(), Err(BadTar::Truncated));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_archive(cuts in prop::collection::vec(1usize..700, 1..20)) {
            let tar = archive(b'0');
            let (mut chown, mut out, mut rest) = (Chown::to(PLATFORM), Vec::new(), &tar[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                out.extend(chown.push(chunk).unwrap());
                rest = after;
            }
            prop_assert_eq!(out, Chown::to(PLATFORM).push(&tar).unwrap());
        }

        #[test]
        fn rewriting_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..1200), sum: bool) {
            let mut bytes = bytes;
            if sum && bytes.len() >= BLOCK {
                let right = checksum(&bytes[..BLOCK]);
                octal(&mut bytes[148..156], right);
            }
            let mut chown = Chown::to(PLATFORM);
            let _ = chown.push(&bytes);
            let _ = chown.finish();
        }
    }
}
