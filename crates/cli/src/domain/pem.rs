//! PEM files: which part is certificate, which is key.

/// The certificates of a text, as they stand, and its first private key of any kind.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// The chain.
    pub(crate) certificates: String,
    /// The key.
    pub(crate) key: Option<String>,
}

/// Takes a text apart; what is neither certificate nor key (comments, parameters) is left out.
pub(crate) fn parts(text: &str) -> Parts {
    let mut parts = Parts::default();
    let mut block: Option<(String, String)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----"))
        {
            block = Some((label.to_owned(), String::new()));
        }
        let Some((label, body)) = &mut block else { continue };
        body.push_str(line);
        body.push('\n');
        if line == format!("-----END {label}-----") {
            match label.as_str() {
                "CERTIFICATE" => parts.certificates += body,
                label if label.ends_with("PRIVATE KEY") && parts.key.is_none() => {
                    parts.key = Some(std::mem::take(body));
                }
                _ => {}
            }
            block = None;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chain_and_a_key_of_any_kind_are_told_apart() {
        let block = |label| format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n");
        for kind in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY"] {
            let text = ["# mine\n", &block("EC PARAMETERS"), &block("CERTIFICATE"), &block(kind)];
            let got = parts(&(text.concat() + &block("CERTIFICATE")));
            assert_eq!(got.certificates, block("CERTIFICATE").repeat(2));
            assert_eq!(got.key, Some(block(kind)));
        }
        assert_eq!(parts("-----BEGIN CERTIFICATE-----\nAAAA\n"), Parts::default());
    }

    proptest! {
        #[test]
        fn taking_apart_never_panics(text in "(-----BEGIN |-----END |CERTIFICATE|PRIVATE KEY|-----|\n|.){0,20}") {
            parts(&text);
        }
    }
}
