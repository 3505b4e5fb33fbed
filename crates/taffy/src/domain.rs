//! Pure rules: what may be handed to git.

/// Longest argument.
const LEN_MAX: usize = 2048;

/// Whether git can be given this as a repository: a URL that goes over the network, never an option, a command or a file.
pub fn is_remote(url: &str) -> bool {
    let plain = url.len() <= LEN_MAX && !url.bytes().any(|b| b.is_ascii_control() || b == b' ');
    let schemed = ["https://", "http://", "git://", "ssh://"]
        .iter()
        .filter_map(|scheme| url.strip_prefix(scheme))
        .any(|rest| !rest.is_empty() && !rest.starts_with('-'));
    plain && (schemed || is_scp_like(url))
}

/// `user@host:path`.
fn is_scp_like(url: &str) -> bool {
    let Some((user, rest)) = url.split_once('@') else { return false };
    let Some((host, path)) = rest.split_once(':') else { return false };
    let name = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    name(user) && name(host) && !path.is_empty() && !path.starts_with(['-', ':'])
}

/// Whether git can be given this as the name of a branch or a commit.
pub fn is_revision(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 255
        && !name.starts_with(['-', '/', '.'])
        && !name.contains("..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._/+".contains(&b))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_goes_over_the_network_is_a_remote() {
        for url in ["https://example.com/a.git", "ssh://git@h/x", "git@example.com:a/b.git"] {
            assert!(is_remote(url), "{url}");
        }
        for url in [
            "",
            "/etc",
            "file:///etc",
            "ext::sh -c id",
            "--upload-pack=id",
            "https://",
            "ssh://-oProxyCommand=id/x",
            "git@-oProxyCommand=id:x",
            "-x@h:p",
            "a b@h:p",
            "https://a/\n",
            "git@h:-x",
        ] {
            assert!(!is_remote(url), "{url}");
        }
    }

    proptest! {
        #[test]
        fn checking_never_panics_and_passes_no_option(text in "(https?://|ssh://|-|--)?.{0,40}") {
            if is_remote(&text) || is_revision(&text) {
                prop_assert!(!text.starts_with('-'));
            }
        }
    }
}
