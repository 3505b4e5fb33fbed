//! A slug's tar on its way into an image: every entry comes to belong to the user that runs apps, nothing is set-uid and
//! nothing is a device.
//!
//! Heads are rewritten where they stand and bodies pass unread. So only kinds of entries pass whose bodies cannot say
//! anything about owner, size or rights: what slugbuilder writes, with GNU's long names. The records of PAX could.

use super::slug_names::Names;

/// The user and the group that run apps.
pub(crate) const APP_USER: u32 = 1000;

const BLOCK: usize = 512;
/// Most bytes a slug unpacks to: an image layer of that size is a mistake.
const LIMIT: u64 = 8 << 30;

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
    /// A name leads elsewhere.
    #[error("the slug names a file outside its own folder; build it with slugbuilder")]
    Outside,
    /// A name leads through a link.
    #[error("the slug holds a file behind one of its own links; build it with slugbuilder")]
    BehindLink,
    /// It is larger than [`LIMIT`].
    #[error("the slug unpacks to more than 8 GiB")]
    TooLarge,
}

/// Rewrites a tar stream chunk by chunk.
#[derive(Debug, Default)]
pub(crate) struct Chown {
    head: Vec<u8>,
    body: u64,
    total: u64,
    names: Names,
}

impl Chown {
    /// Takes a chunk and gives what can go on.
    pub(crate) fn push(&mut self, mut chunk: &[u8]) -> Result<Vec<u8>, BadTar> {
        self.total += chunk.len() as u64;
        if self.total > LIMIT {
            return Err(BadTar::TooLarge);
        }
        let mut out = Vec::with_capacity(chunk.len() + BLOCK);
        while !chunk.is_empty() {
            if self.body > 0 {
                let take = usize::try_from(self.body).unwrap_or(usize::MAX).min(chunk.len());
                let (body, rest) = chunk.split_at(take);
                self.names.body(body);
                out.extend_from_slice(body);
                self.body -= take as u64;
                chunk = rest;
                continue;
            }
            let (part, rest) = chunk.split_at((BLOCK - self.head.len()).min(chunk.len()));
            self.head.extend_from_slice(part);
            chunk = rest;
            if self.head.len() == BLOCK {
                let mut head = std::mem::take(&mut self.head);
                let size = rewrite(&mut head)?;
                if head.iter().any(|&b| b != 0) {
                    self.names.head(&head, size)?;
                }
                // Padding included.
                self.body = size.div_ceil(BLOCK as u64) * BLOCK as u64;
                out.extend_from_slice(&head);
            }
        }
        Ok(out)
    }

    /// Whether the stream may end here.
    pub(crate) fn finish(&self) -> Result<(), BadTar> {
        if self.head.is_empty() && self.body == 0 { Ok(()) } else { Err(BadTar::Truncated) }
    }
}

/// An archive with nothing but the app's own folder, which the engine would otherwise leave as it is.
pub(crate) fn app_folder(name: &str) -> Vec<u8> {
    folder(name, 0o755, APP_USER)
}

/// An archive with nothing but a folder for files of everybody.
pub(crate) fn tmp_folder(name: &str) -> Vec<u8> {
    folder(name, 0o1777, 0)
}

fn folder(name: &str, mode: u64, owner: u32) -> Vec<u8> {
    let mut tar = vec![0; 3 * BLOCK];
    let head = &mut tar[..BLOCK];
    head[..name.len()].copy_from_slice(name.as_bytes());
    octal(&mut head[100..108], mode);
    octal(&mut head[108..116], owner.into());
    octal(&mut head[116..124], owner.into());
    octal(&mut head[124..136], 0);
    octal(&mut head[136..148], 0);
    head[156] = b'5';
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(head);
    octal(&mut head[148..156], sum);
    tar
}

/// Rewrites a head and answers how many bytes of body follow, without their padding.
fn rewrite(head: &mut [u8]) -> Result<u64, BadTar> {
    if head.iter().all(|&b| b == 0) {
        return Ok(0);
    }
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
    octal(&mut head[108..116], APP_USER.into());
    octal(&mut head[116..124], APP_USER.into());
    let sum = checksum(head);
    octal(&mut head[148..156], sum);
    // Links have no body, whatever their size field says.
    Ok(if matches!(head[156], b'1' | b'2') { 0 } else { size })
}

/// The sum of a head's bytes, with its checksum taken as spaces.
fn checksum(head: &[u8]) -> u64 {
    let bytes = head.iter().enumerate();
    bytes.map(|(n, &b)| u64::from(if (148..156).contains(&n) { b' ' } else { b })).sum()
}

/// Octal digits, or a binary number if the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
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

fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(digits.as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        let mut chown = Chown::default();
        let out = chown.push(&archive(b'0')).unwrap();
        chown.finish().unwrap();
        let want = [entry_of(&out, 0), entry_of(&out, BLOCK)];
        assert_eq!(want, [(0o755, 1000, 1000), (0o755, 1000, 1000)]);
        assert_eq!(out[2 * BLOCK..2 * BLOCK + 700], [7; 700]);
        assert_eq!(out.len(), archive(b'0').len());
    }

    fn entry_of(tar: &[u8], at: usize) -> (u64, u64, u64) {
        let head = &tar[at..at + BLOCK];
        assert_eq!(number(&head[148..156]), Some(checksum(head)));
        let field = |range: std::ops::Range<usize>| number(&head[range]).unwrap();
        (field(100..108), field(108..116), field(116..124))
    }

    #[test]
    fn devices_damage_and_truncation_are_refused() {
        assert_eq!(Chown::default().push(&archive(b'4')), Err(BadTar::Special));
        for kind in [b'x', b'g', b'S', b'7'] {
            assert_eq!(Chown::default().push(&archive(kind)), Err(BadTar::Extension(kind.into())));
        }
        assert_eq!(Chown::default().push(&[b'x'; BLOCK]), Err(BadTar::Damaged));
        let mut chown = Chown::default();
        chown.push(&archive(b'0')[..BLOCK * 2 + 100]).unwrap();
        assert_eq!(chown.finish(), Err(BadTar::Truncated));
    }

    #[test]
    fn what_leads_out_of_the_folder_is_refused_whatever_names_it() {
        let long =
            [entry("././@LongLink", b'L', 0o644, b"../etc/passwd\0"), entry("x", b'0', 0o644, b"")];
        assert_eq!(Chown::default().push(&long.concat()), Err(BadTar::Outside));
        assert_eq!(Chown::default().push(&entry("/x", b'0', 0o644, b"y")), Err(BadTar::Outside));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_archive(cuts in prop::collection::vec(1usize..700, 1..20)) {
            let tar = archive(b'0');
            let (mut chown, mut out, mut rest) = (Chown::default(), Vec::new(), &tar[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (chunk, after) = rest.split_at((*cut).min(rest.len()));
                out.extend(chown.push(chunk).unwrap());
                rest = after;
            }
            prop_assert_eq!(out, Chown::default().push(&tar).unwrap());
        }

        #[test]
        fn rewriting_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..1200), sum: bool) {
            let mut bytes = bytes;
            if sum && bytes.len() >= BLOCK {
                let right = checksum(&bytes[..BLOCK]);
                octal(&mut bytes[148..156], right);
            }
            let mut chown = Chown::default();
            let _ = chown.push(&bytes);
            let _ = chown.finish();
        }
    }
}
