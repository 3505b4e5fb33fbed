//! What bootstrap remembers: everything it drew or learnt, on disk before it is used.
//!
//! One JSON file, mode 0600, replaced atomically. With it an interrupted bootstrap goes on where it was, and a finished
//! one changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// The state file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// IO.
    #[error("the state of bootstrap in {path} could not be {doing}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what bootstrap writes.
    #[error("the state of bootstrap in {path} is damaged; restore it, or purge this installation")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// What is known of one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepState {
    /// Drawn before the step acts: ids, keys.
    #[serde(default)]
    pub drawn: BTreeMap<String, Value>,
    /// Its result, for later steps.
    #[serde(default)]
    pub result: Value,
    /// Nothing is left to do.
    #[serde(default)]
    pub done: bool,
}

/// The memory of bootstrap.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    steps: BTreeMap<String, StepState>,
}

impl State {
    /// Reads the file, which need not exist.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let steps = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| StateError::Damaged { path: path.into(), source })?,
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => {
                return Err(StateError::Io { path: path.into(), doing: "read", source });
            }
        };
        Ok(Self { path: path.into(), steps })
    }

    /// What is known of a step.
    pub fn step(&self, id: &str) -> StepState {
        self.steps.get(id).cloned().unwrap_or_default()
    }

    /// Whether bootstrap has begun here before.
    pub fn is_new(&self) -> bool {
        self.steps.is_empty()
    }

    /// Results of all steps that have one.
    pub fn results(&self) -> BTreeMap<String, Value> {
        let results = self.steps.iter().filter(|(_, step)| !step.result.is_null());
        results.map(|(id, step)| (id.clone(), step.result.clone())).collect()
    }

    /// The value a step drew under a name, drawn now if it was not, and safe on disk when this returns.
    pub fn draw<T: Serialize + DeserializeOwned>(
        &mut self,
        step: &str,
        name: &str,
        make: impl FnOnce() -> T,
    ) -> Result<T, StateError> {
        let known = self.steps.get(step).and_then(|state| state.drawn.get(name));
        if let Some(value) = known.cloned().and_then(|value| serde_json::from_value(value).ok()) {
            return Ok(value);
        }
        let value = make();
        let json = serde_json::to_value(&value)
            .map_err(|source| StateError::Damaged { path: self.path.clone(), source })?;
        self.steps.entry(step.into()).or_default().drawn.insert(name.into(), json);
        self.save()?;
        Ok(value)
    }

    /// Marks a step as done, with its result.
    pub fn finish(&mut self, step: &str, result: Value) -> Result<(), StateError> {
        let state = self.steps.entry(step.into()).or_default();
        state.result = result;
        state.done = true;
        self.save()
    }

    fn save(&self) -> Result<(), StateError> {
        let doing = "written";
        let failed = |source| StateError::Io { path: self.path.clone(), doing, source };
        let bytes = serde_json::to_vec_pretty(&self.steps)
            .map_err(|source| StateError::Damaged { path: self.path.clone(), source })?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(failed)?;
        let new = self.path.with_extension("new");
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new).map_err(failed)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
        fs::rename(&new, &self.path).map_err(failed)?;
        fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_drawn_stays_drawn_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        let mut state = State::open(&path).unwrap();
        assert_eq!(state.draw("key", "data", || "one".to_owned()).unwrap(), "one");
        let mut again = State::open(&path).unwrap();
        assert_eq!(again.draw("key", "data", || "two".to_owned()).unwrap(), "one");
        assert!(!again.step("key").done);
        again.finish("key", serde_json::json!({"data": "one"})).unwrap();
        let last = State::open(&path).unwrap();
        assert!(last.step("key").done);
        assert_eq!(last.results()["key"]["data"], "one");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
