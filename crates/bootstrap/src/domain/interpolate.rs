//! Templates in manifests: `{{ … }}` in any string, in minijinja's language.
//!
//! Known are `steps["<id>"]` (the result of an earlier step), `getenv(name, default="")` and `service_key(service)`.
//! A name that stands for nothing is an error, never an empty text: the text may be a secret.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, context};
use serde_json::Value;

/// What templates can refer to.
#[derive(Debug, Default)]
pub struct Facts {
    /// Results of the steps done, by id.
    pub steps: BTreeMap<String, Value>,
    /// The environment of the process.
    pub env: BTreeMap<String, String>,
    /// The cluster's key, for `service_key`.
    pub cluster_key: String,
    /// How many hosts the cluster has at least.
    pub hosts: usize,
}

/// Fills in every string of a JSON value. A string that is one template alone takes the type of its value.
pub fn interpolate(value: &Value, facts: &Facts) -> Result<Value, minijinja::Error> {
    let env = environment(facts);
    fill(value, &env, facts)
}

fn environment(facts: &Facts) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    let vars = facts.env.clone();
    env.add_function("getenv", move |name: String, default: Option<String>| {
        vars.get(&name).cloned().filter(|set| !set.is_empty()).or(default).unwrap_or_default()
    });
    let cluster_key = facts.cluster_key.clone();
    env.add_function("service_key", move |service: String| {
        api::key::derive(&cluster_key, &service, api::key::VERSION)
    });
    env
}

fn fill(value: &Value, env: &Environment<'_>, facts: &Facts) -> Result<Value, minijinja::Error> {
    Ok(match value {
        Value::String(text) if text.contains("{{") || text.contains("{%") => {
            let facts = context! {
                steps => minijinja::Value::from(minijinja::value::Serde(&facts.steps)),
                hosts => facts.hosts,
            };
            match alone(text) {
                Some(expression) => {
                    let value = env.compile_expression(expression)?.eval(facts)?;
                    if value.is_undefined() {
                        let kind = minijinja::ErrorKind::UndefinedError;
                        let said = format!("{expression} stands for nothing");
                        return Err(minijinja::Error::new(kind, said));
                    }
                    serde_json::to_value(value).unwrap_or(Value::Null)
                }
                None => Value::String(env.render_str(text, facts)?),
            }
        }
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| fill(item, env, facts)).collect::<Result<_, _>>()?)
        }
        Value::Object(fields) => Value::Object(
            fields
                .iter()
                .map(|(name, value)| Ok((name.clone(), fill(value, env, facts)?)))
                .collect::<Result<_, minijinja::Error>>()?,
        ),
        other => other.clone(),
    })
}

/// The expression of a text that is `{{ expression }}` and nothing else.
fn alone(text: &str) -> Option<&str> {
    let inner = text.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then(|| inner.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn facts() -> Facts {
        Facts {
            steps: BTreeMap::from([("a-key".into(), json!({"data": "s3cret"}))]),
            env: BTreeMap::from([("PORT".into(), "81".into())]),
            cluster_key: "k".into(),
            hosts: 3,
        }
    }

    #[test]
    fn strings_are_filled_in_wherever_they_are() {
        let value = json!({
            "env": {"K": "{{ steps[\"a-key\"].data }}", "U": "x-{{ steps[\"a-key\"].data }}"},
            "port": "{{ getenv('PORT') | int }}",
            "count": "{{ 2 if hosts > 1 else 1 }}",
            "list": ["{{ getenv('NONE', 'd') }}", 7],
        });
        let want = json!({
            "env": {"K": "s3cret", "U": "x-s3cret"}, "port": 81, "count": 2, "list": ["d", 7],
        });
        assert_eq!(interpolate(&value, &facts()).unwrap(), want);
    }

    #[test]
    fn what_stands_for_nothing_is_an_error() {
        for text in ["{{ steps[\"b\"].data }}", "x{{ nothing }}", "{{ steps['a-key'].x }}"] {
            assert!(interpolate(&json!(text), &facts()).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn interpolation_never_panics(text in ".{0,60}") {
            let _ = interpolate(&json!(format!("{{{{ {text}")), &facts());
            let _ = interpolate(&json!(format!("{{{{ {text} }}}}")), &facts());
        }
    }
}
