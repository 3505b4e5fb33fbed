//! Which route a request takes.

use std::collections::HashMap;

/// Something for each host pattern: `example.com`, `*.example.com` or `*`.
#[derive(Debug, Clone)]
pub(crate) struct HostMap<V> {
    exact: HashMap<Box<str>, V>,
    /// By what follows the `*`, dot included.
    wildcard: HashMap<Box<str>, V>,
    any: Option<V>,
}

impl<V> Default for HostMap<V> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<V> HostMap<V> {
    /// Sets what a pattern stands for, and gives what it stood for.
    pub(crate) fn insert(&mut self, pattern: &str, value: V) -> Option<V> {
        match pattern.strip_prefix('*') {
            Some("") => self.any.replace(value),
            Some(suffix) => self.wildcard.insert(suffix.into(), value),
            None => self.exact.insert(pattern.into(), value),
        }
    }

    /// What a pattern itself stands for.
    pub(crate) fn get(&self, pattern: &str) -> Option<&V> {
        match pattern.strip_prefix('*') {
            Some("") => self.any.as_ref(),
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(pattern),
        }
    }

    fn get_mut(&mut self, pattern: &str) -> Option<&mut V> {
        match pattern.strip_prefix('*') {
            Some("") => self.any.as_mut(),
            Some(suffix) => self.wildcard.get_mut(suffix),
            None => self.exact.get_mut(pattern),
        }
    }

    /// What stands for a canonical host, the most specific first.
    pub(crate) fn matches<'a>(&'a self, host: &str) -> impl Iterator<Item = &'a V> {
        let exact = self.exact.get(host).into_iter();
        let labels = if self.wildcard.is_empty() { "" } else { host };
        let suffixes = labels.match_indices('.').map(|(at, _)| &host[at..]);
        let wildcard = suffixes.filter_map(|suffix| self.wildcard.get(suffix));
        exact.chain(wildcard).chain(self.any.as_ref())
    }
}

/// All routes, as they are looked up. Immutable once it is built.
#[derive(Debug)]
pub(crate) struct RouteTable<T> {
    http: HostMap<Paths<T>>,
    tcp: HashMap<u16, T>,
}

/// What a host's paths lead to.
#[derive(Debug)]
struct Paths<T> {
    /// All that no prefix stands for.
    whole: Option<T>,
    /// By prefix.
    prefixes: HashMap<Box<str>, T>,
    /// Length of the longest prefix.
    longest: usize,
}

impl<T> Default for Paths<T> {
    fn default() -> Self {
        Self { whole: None, prefixes: HashMap::new(), longest: 0 }
    }
}

impl<T> Paths<T> {
    fn add(&mut self, prefix: &str, target: T) {
        if prefix.is_empty() {
            self.whole = Some(target);
        } else {
            self.longest = self.longest.max(prefix.len());
            self.prefixes.insert(prefix.into(), target);
        }
    }

    /// That of the longest prefix. However many there are, only those are looked at that a path has.
    fn find(&self, path: &str) -> Option<&T> {
        let of_prefix = |prefix: &str| self.prefixes.get(prefix);
        let longest = if self.prefixes.is_empty() { 0 } else { self.longest };
        prefixes(path, longest).find_map(of_prefix).or(self.whole.as_ref())
    }
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { http: HostMap::default(), tcp: HashMap::new() }
    }
}

impl<T> RouteTable<T> {
    /// Adds a route for a host pattern and a path prefix, `""` for all paths.
    pub(crate) fn add_http(&mut self, pattern: &str, path: &str, target: T) {
        match self.http.get_mut(pattern) {
            Some(paths) => paths.add(path, target),
            None => {
                let mut paths = Paths::default();
                paths.add(path, target);
                self.http.insert(pattern, paths);
            }
        }
    }

    /// Adds a route for a port.
    pub(crate) fn add_tcp(&mut self, port: u16, target: T) {
        self.tcp.insert(port, target);
    }

    /// The route for a canonical host and a path: that of the most specific host which has one for the path, and there
    /// the one with the longest prefix.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&T> {
        self.http.matches(host).find_map(|paths| paths.find(path))
    }

    /// The route for a port.
    pub(crate) fn port(&self, port: u16) -> Option<&T> {
        self.tcp.get(&port)
    }

    /// All ports that have a route.
    pub(crate) fn ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.tcp.keys().copied()
    }
}

/// The prefixes of a path that a route may have, of at most this length, the longest first: the path itself, and what comes
/// before each slash in it. `/api` covers `/api/x` but not `/apis`.
fn prefixes(path: &str, longest: usize) -> impl Iterator<Item = &str> {
    let whole = (path.len() <= longest).then_some(path);
    // One more, for the slash after a prefix of that length.
    let bytes = &path.as_bytes()[..path.len().min(longest + 1)];
    let ends = bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    // A slash is never a part of another character.
    whole.into_iter().chain(ends.map(|(at, _)| &path[..at]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(routes: &[(&'static str, &'static str)]) -> RouteTable<String> {
        let mut table = RouteTable::default();
        for (host, path) in routes {
            table.add_http(host, path, format!("{host}{path}"));
        }
        table
    }

    #[test]
    fn the_most_specific_route_wins() {
        let routes = [
            ("*", ""),
            ("*.a.com", ""),
            ("*.x.a.com", ""),
            ("y.a.com", ""),
            ("y.a.com", "/api"),
            ("y.a.com", "/api/v2"),
            ("only.a.com", "/p"),
        ];
        let table = table(&routes);
        for (host, path, want) in [
            ("y.a.com", "/", "y.a.com"),
            ("y.a.com", "/api", "y.a.com/api"),
            ("y.a.com", "/api/", "y.a.com/api"),
            ("y.a.com", "/api/v2/x", "y.a.com/api/v2"),
            ("y.a.com", "/api/v22", "y.a.com/api"),
            ("y.a.com", "/apis", "y.a.com"),
            ("z.a.com", "/", "*.a.com"),
            ("q.z.a.com", "/", "*.a.com"),
            ("z.x.a.com", "/", "*.x.a.com"),
            ("a.com", "/", "*"),
            ("", "/", "*"),
            ("only.a.com", "/p/q", "only.a.com/p"),
            ("only.a.com", "/q", "*.a.com"),
        ] {
            assert_eq!(table.find(host, path).map(String::as_str), Some(want), "{host}{path}");
        }
    }

    #[test]
    fn without_a_route_there_is_none() {
        let table = table(&[("a.com", ""), ("*.b.com", "")]);
        assert_eq!(table.find("b.com", "/"), None);
        assert_eq!(table.find("aa.com", "/"), None);
        assert_eq!(table.find("", "/"), None);
        assert_eq!(table.port(80), None);
    }

    proptest! {
        #[test]
        fn an_exact_route_beats_any_other_in_whatever_order_they_came(
            mut routes in prop::collection::vec("(\\*\\.|)[ab]\\.[ab]|\\*", 0..12).prop_shuffle(),
            host in "[ab]\\.[ab]",
        ) {
            routes.push(host.clone());
            routes.dedup();
            let mut table = RouteTable::default();
            for route in &routes {
                table.add_http(route, "", route.clone());
            }
            prop_assert_eq!(table.find(&host, "/"), Some(&host));
        }

        #[test]
        fn the_route_of_a_path_is_the_one_with_the_longest_prefix(
            prefixes in prop::collection::vec("(/[ab]{1,2}){1,3}", 0..12), path in "(/[ab]{0,2}){1,4}",
        ) {
            let mut table = RouteTable::default();
            for prefix in &prefixes {
                table.add_http("a.com", prefix, prefix.clone());
            }
            let is_under = |prefix: &&String| {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let longest = prefixes.iter().filter(is_under).max_by_key(|prefix| prefix.len());
            prop_assert_eq!(table.find("a.com", &path), longest);
        }

        #[test]
        fn looking_up_never_panics(host: String, path: String) {
            let _ = table(&[("*", "/a"), ("*.b", "")]).find(&host, &path);
        }
    }
}
