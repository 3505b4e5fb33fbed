//! Names in a slug's tar: everything a slug holds is below its own folder.

use std::collections::HashSet;

use super::slug_tar::BadTar;

/// Longest name or link target that GNU's long names may bring.
const LONGEST: usize = 64 << 10;

/// The names seen so far, as far as they decide on later ones.
#[derive(Debug, Default)]
pub(crate) struct Names {
    links: HashSet<Vec<u8>>,
    /// A long name that comes: whose (`L` of the entry, `K` of its target), and how much is missing.
    comes: Option<(u8, usize, Vec<u8>)>,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
}

impl Names {
    /// Takes a head; `size` is that of its body.
    pub(crate) fn head(&mut self, head: &[u8], size: u64) -> Result<(), BadTar> {
        let kind = head[156];
        if matches!(kind, b'L' | b'K') {
            let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST);
            self.comes = Some((kind, size.ok_or(BadTar::Damaged)?, Vec::new()));
            return Ok(());
        }
        let name = self.name.take().unwrap_or_else(|| short_name(head));
        let target = self.target.take().unwrap_or_else(|| until_nul(&head[157..257]).to_vec());
        let path = self.below(&name)?;
        let is_link = match kind {
            b'2' => true,
            b'1' => {
                let of = self.below(&target)?;
                self.links.contains(&of)
            }
            _ => false,
        };
        if is_link {
            self.links.insert(path);
        } else {
            self.links.remove(&path);
        }
        Ok(())
    }

    /// Takes a part of the body of the last head.
    pub(crate) fn body(&mut self, part: &[u8]) {
        let Some((kind, missing, text)) = &mut self.comes else { return };
        let part = &part[..part.len().min(*missing)];
        text.extend_from_slice(part);
        *missing -= part.len();
        if *missing > 0 {
            return;
        }
        let whole = Some(until_nul(text).to_vec());
        match kind {
            b'L' => self.name = whole,
            _ => self.target = whole,
        }
        self.comes = None;
    }

    /// The name without what says nothing, if it stays below the slug's folder and leads through no link.
    fn below(&self, name: &[u8]) -> Result<Vec<u8>, BadTar> {
        let parts = || name.split(|&b| b == b'/').filter(|part| !matches!(*part, b"" | b"."));
        if name.starts_with(b"/") || parts().any(|part| part == b"..") {
            return Err(BadTar::Outside);
        }
        let mut path = Vec::new();
        for part in parts() {
            if !path.is_empty() {
                if self.links.contains(&path) {
                    return Err(BadTar::BehindLink);
                }
                path.push(b'/');
            }
            path.extend_from_slice(part);
        }
        Ok(path)
    }
}

/// The name in the head itself, which POSIX lets be in two parts.
fn short_name(head: &[u8]) -> Vec<u8> {
    let name = until_nul(&head[..100]);
    let prefix = if &head[257..263] == b"ustar\0" { until_nul(&head[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&b| b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: u8, name: &str, target: &str) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..name.len()].copy_from_slice(name.as_bytes());
        head[157..157 + target.len()].copy_from_slice(target.as_bytes());
        head[156] = kind;
        head
    }

    fn of(entries: &[(u8, &str, &str)]) -> Result<(), BadTar> {
        let mut names = Names::default();
        entries.iter().try_for_each(|(kind, name, to)| names.head(&head(*kind, name, to), 0))
    }

    #[test]
    fn a_slug_stays_in_its_folder() {
        let fine = [
            (b'5', "./", ""),
            (b'0', "./bin/a..b", ""),
            (b'2', "lib", "/usr/lib"),
            (b'2', "up", "../../etc"),
            (b'1', "bin/c", "bin/a..b"),
            // A folder takes the place of the link.
            (b'5', "lib", ""),
            (b'0', "lib/x", ""),
        ];
        assert_eq!(of(&fine), Ok(()));
        for name in ["/etc/passwd", "../etc/passwd", "a/../../b", "./.."] {
            assert_eq!(of(&[(b'0', name, "")]), Err(BadTar::Outside), "{name}");
        }
        assert_eq!(of(&[(b'1', "a", "../etc/shadow")]), Err(BadTar::Outside));
        let behind = [(b'2', "etc", "/etc"), (b'0', "./etc//passwd", "")];
        assert_eq!(of(&behind), Err(BadTar::BehindLink));
        let twice = [(b'2', "a", "/etc"), (b'1', "b", "a"), (b'0', "b/passwd", "")];
        assert_eq!(of(&twice), Err(BadTar::BehindLink));
    }

    #[test]
    fn long_names_and_those_in_two_parts_are_read_as_well() {
        let mut names = Names::default();
        names.head(&head(b'L', "././@LongLink", ""), 11).unwrap();
        names.body(b"../etc");
        names.body(b"/x\0\0\0and what pads it");
        assert_eq!(names.head(&head(b'0', "harmless", ""), 0), Err(BadTar::Outside));
        assert_eq!(names.head(&head(b'0', "harmless", ""), 0), Ok(()), "it was for one entry");
        let mut two = head(b'0', "passwd", "");
        two[257..263].copy_from_slice(b"ustar\0");
        two[345..351].copy_from_slice(b"../etc");
        assert_eq!(names.head(&two, 0), Err(BadTar::Outside));
        assert_eq!(names.head(&head(b'L', "x", ""), 1 << 40), Err(BadTar::Damaged));
    }
}
