//! Archives of one entry: what the engine puts into a container, and what it takes out of one.

use super::slug_tar::{BLOCK, checksum, number, octal};

/// An archive with nothing but the app's own folder, which the engine would otherwise leave as it is.
pub(crate) fn app_folder(name: &str, owner: u32) -> Vec<u8> {
    one(name, b'5', 0o755, owner, b"")
}

/// An archive with nothing but a folder for files of everybody.
pub(crate) fn tmp_folder(name: &str) -> Vec<u8> {
    one(name, b'5', 0o1777, 0, b"")
}

/// An archive with nothing but a file of root's that everybody may read.
pub(crate) fn file(name: &str, content: &[u8]) -> Vec<u8> {
    one(name, b'0', 0o644, 0, content)
}

/// The content of the one file of an archive, which is a small one.
pub(crate) fn content(tar: &[u8]) -> Option<&[u8]> {
    let head = tar.get(..BLOCK)?;
    let size = usize::try_from(number(&head[124..136])?).ok()?;
    if matches!(head[156], b'0' | 0) { tar.get(BLOCK..)?.get(..size) } else { None }
}

/// Where the one entry of an archive leads, which is a link.
pub(crate) fn link(tar: &[u8]) -> Option<&str> {
    let head = tar.get(..BLOCK).filter(|head| head[156] == b'2')?;
    let to = std::str::from_utf8(&head[157..257]).ok()?;
    // A longer one is told otherwise, and then this is cut off.
    Some(to.trim_end_matches('\0')).filter(|to| to.len() < 100)
}

fn one(name: &str, kind: u8, mode: u64, owner: u32, content: &[u8]) -> Vec<u8> {
    let mut tar = vec![0; BLOCK];
    tar.extend_from_slice(content);
    tar.resize(tar.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    let head = &mut tar[..BLOCK];
    head[..name.len()].copy_from_slice(name.as_bytes());
    octal(&mut head[100..108], mode);
    octal(&mut head[108..116], owner.into());
    octal(&mut head[116..124], owner.into());
    octal(&mut head[124..136], content.len() as u64);
    octal(&mut head[136..148], 0);
    head[156] = kind;
    head[257..265].copy_from_slice(b"ustar\x0000");
    let sum = checksum(head);
    octal(&mut head[148..156], sum);
    tar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_back_and_what_is_none_has_no_content() {
        let text = [b'x'; 600];
        assert_eq!(content(&file("etc/passwd", &text)), Some(&text[..]));
        assert_eq!(content(&tmp_folder("tmp/")), None);
        assert_eq!(content(&file("etc/passwd", &text)[..700]), None);
        assert_eq!(link(&file("etc/passwd", &text)), None);
        let mut leads = one("etc/passwd", b'2', 0o777, 0, b"");
        leads[157..160].copy_from_slice(b"/to");
        assert_eq!(link(&leads), Some("/to"));
        leads[157..257].fill(b'x');
        assert_eq!(link(&leads), None, "it may go on");
    }
}
