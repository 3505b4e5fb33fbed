//! Our buildpacks, in the order in which they are asked.

/// One of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its directory.
    pub directory: String,
    /// What people call it.
    pub name: String,
    /// What makes it want an app.
    pub wants: String,
    /// Whether it installs the dependencies of a language, so that an app may need it beside another one.
    pub is_language: bool,
}

/// Reads the `order` file: directory, name, wish and, for some, the word `language`, with tabs between.
pub fn parse(text: &str) -> Vec<Known> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut fields = line.split('\t').map(str::trim);
            let (directory, name, wants) = (fields.next()?, fields.next()?, fields.next()?);
            let is_language = fields.next() == Some("language");
            let [directory, name, wants] = [directory, name, wants].map(Into::into);
            Some(Known { directory, name, wants, is_language })
        })
        .collect()
}

/// What to say when none of them wants an app.
pub fn none_wants(known: &[Known]) -> String {
    let mut text =
        String::from("No buildpack wants this app. They look, at the root of the repository, for:");
    for known in known {
        text.push_str(&format!("\n  {:<9} {}", known.name, known.wants));
    }
    text.push_str("\nAdd one of these, commit, and push again; or name another buildpack:");
    text.push_str("\n  flynn env-set BUILDPACK_URL=https://...");
    text
}

/// What to say when one of them was taken and others want the app too.
pub fn several(taken: &Known, others: &[&Known]) -> String {
    let names = |of: fn(&Known) -> &str, between| {
        let all = others.iter().map(|&known| of(known));
        all.collect::<Vec<_>>().join(between)
    };
    format!(
        "More than one buildpack fits: {} is taken, {} is not. To have all of them, or another order, commit\na file \
         .buildpacks with one name a line:\n  {}\n  {}",
        taken.name,
        names(|known| &known.name, " and "),
        taken.directory,
        names(|known| &known.directory, "\n  "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_named_with_the_way_to_have_it() {
        let known = parse(
            "nodejs\tNode.js\tpackage.json\tlanguage\npython\tPython\tx\tlanguage\nstatic\tstatic\ty\n",
        );
        assert_eq!(known.iter().filter(|known| known.is_language).count(), 2);
        let text = several(&known[0], &[&known[1]]);
        assert!(text.contains("Node.js is taken, Python is not"), "{text}");
        assert!(text.ends_with("\n  nodejs\n  python"), "{text}");
    }

    #[test]
    fn whoever_has_no_buildpack_learns_what_they_look_for() {
        let known = parse("# c\nnodejs\tNode.js\tpackage.json\nbroken\n");
        assert_eq!(known.len(), 1);
        let text = none_wants(&known);
        assert!(
            text.contains("Node.js   package.json") && text.contains("BUILDPACK_URL"),
            "{text}"
        );
    }
}
