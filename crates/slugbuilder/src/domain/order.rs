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
}

/// Reads the `order` file: directory, name and wish, with tabs between.
pub fn parse(text: &str) -> Vec<Known> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| {
            let mut fields = line.split('\t').map(str::trim);
            let (directory, name, wants) = (fields.next()?, fields.next()?, fields.next()?);
            Some(Known { directory: directory.into(), name: name.into(), wants: wants.into() })
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

#[cfg(test)]
mod tests {
    use super::*;

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
