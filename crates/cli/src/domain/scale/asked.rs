//! What `flynn scale` is told: `web=3,disk=ssd`.

use std::collections::BTreeMap;

use api::controller::Tags;

use super::{Counts, ScaleError};

/// Most processes of one type; more is a slip of the finger.
const MOST: u32 = 10_000;

/// A change.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    /// How many shall run, of the types named.
    pub(crate) counts: Counts,
    /// Tags their hosts must have, by type; an empty value takes one away.
    pub(crate) tags: Tags,
}

impl Asked {
    /// Reads `web=2`, `web=3,disk=ssd,zone=b`, `web=3,disk=`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, ScaleError> {
        let mut asked = Self::default();
        for arg in args {
            let bad = || ScaleError::NotACount(arg.clone());
            let (first, tags) = arg.split_once(',').map_or((&**arg, None), |(a, b)| (a, Some(b)));
            let (kind, count) = pair(first).ok_or_else(bad)?;
            let count: u32 = count.parse().map_err(|_| bad())?;
            if count > MOST {
                return Err(bad());
            }
            if asked.counts.insert(kind.into(), count).is_some() {
                return Err(ScaleError::Twice(kind.into()));
            }
            for tag in tags.into_iter().flat_map(|tags| tags.split(',')) {
                let (name, value) = pair(tag).ok_or_else(bad)?;
                let of = asked.tags.entry(kind.into()).or_default();
                of.insert(name.into(), value.into());
            }
        }
        Ok(asked)
    }

    /// The tags of the types whose tags change: all before, and all after.
    pub(crate) fn tags_changed(&self, now: &Tags) -> (Tags, Tags) {
        let of = |kind: &String| now.get(kind).cloned().unwrap_or_default();
        let before: Tags = self.tags.keys().map(|kind| (kind.clone(), of(kind))).collect();
        let after = self.tags.iter().map(|(kind, changes)| {
            let mut tags: BTreeMap<_, _> = of(kind);
            tags.extend(changes.clone());
            tags.retain(|_, value| !value.is_empty());
            (kind.clone(), tags)
        });
        let after = after.collect();
        (before, after)
    }
}

fn pair(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').filter(|(name, _)| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(args: &[&str]) -> Result<Asked, ScaleError> {
        Asked::parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn counts_are_types_with_numbers() {
        let web = Asked { counts: [("web".to_owned(), 8)].into(), ..Asked::default() };
        assert_eq!(parse(&["web=8"]), Ok(web));
        for bad in [
            "web",
            "=1",
            "web=",
            "web=-1",
            "web=x",
            "web=100000",
            "web=1.5",
            "web=1,disk",
            "web=1,=x",
            "web=1,",
        ] {
            assert_eq!(parse(&[bad]), Err(ScaleError::NotACount(bad.into())));
        }
    }

    #[test]
    fn a_type_has_one_count() {
        assert_eq!(parse(&["web=2", "web=3"]), Err(ScaleError::Twice("web".into())));
    }

    #[test]
    fn a_tag_is_added_to_those_there_are_and_an_empty_one_goes() {
        let tags = |tags: &[(&str, &str)]| -> BTreeMap<String, String> {
            tags.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let web = |of| Tags::from([("web".to_owned(), of)]);
        let asked = parse(&["web=3,disk=ssd,zone=", "worker=1"]).unwrap();
        assert_eq!(asked.counts.len(), 2);
        let now = web(tags(&[("zone", "b"), ("cpu", "new")]));
        let (before, after) = asked.tags_changed(&now);
        assert_eq!(before, now);
        assert_eq!(after, web(tags(&[("cpu", "new"), ("disk", "ssd")])));
        assert_eq!(parse(&["web=1"]).unwrap().tags_changed(&now), (Tags::new(), Tags::new()));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in ".{0,12}|[a-z]{0,4}=[0-9]{0,6},[a-z]{0,3}=?.{0,5}") {
            let _ = Asked::parse(&[text]);
        }
    }
}
