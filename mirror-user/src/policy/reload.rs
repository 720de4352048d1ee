//! A policy file that is read again under a running daemon: what decides may change, what is in the way of packets may not.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use super::Policy;

/// Tables that may change without a restart: bounds, steps, times and budgets, and who is told.
const CHANGEABLE: [&str; 4] = ["breaker", "events", "migration", "scale"];

/// A policy, and the file that it was read from.
#[derive(Clone, Debug)]
pub struct Loaded {
    path: PathBuf,
    text: toml::Table,
    /// The policy.
    pub policy: Policy,
}

/// What became of a file since it was read.
#[derive(Clone, Debug)]
pub struct Reread {
    /// As it is now.
    pub loaded: Loaded,
    /// The tables that are others, in the order of their names.
    pub changed: Vec<&'static str>,
}

/// Why a file isn't taken in place of the one before.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It can't be read.
    #[error("can't read {0}: {1}")]
    Unread(PathBuf, std::io::Error),
    /// It doesn't hold.
    #[error("policy {0} doesn't hold: {1}")]
    Invalid(PathBuf, String),
    /// Something else changed, too.
    #[error(
        "{}: changed, which takes a restart of the daemon; under a running one [breaker], [events], [migration] and [scale] may \
         change",
        .0.join(", ")
    )]
    Fixed(Vec<String>),
}

impl Loaded {
    /// Reads a policy file.
    ///
    /// # Errors
    /// When it can't be read, or doesn't hold.
    pub fn load(path: &Path) -> miette::Result<Self> {
        let policy = Policy::load(path)?;
        // Where it was replaced in between, the next reading finds more that has changed than there was.
        let text = std::fs::read_to_string(path).ok().and_then(|text| toml::from_str(&text).ok());
        Ok(Self { path: path.to_owned(), text: text.unwrap_or_default(), policy })
    }

    /// Reads the file again.
    ///
    /// # Errors
    /// When it can't take this one's place: then this one goes on.
    pub fn again(&self) -> Result<Reread, ReloadError> {
        let text = std::fs::read_to_string(&self.path)
            .map_err(|error| ReloadError::Unread(self.path.clone(), error))?;
        self.replaced_by(&text)
    }

    fn replaced_by(&self, text: &str) -> Result<Reread, ReloadError> {
        let invalid = |what| ReloadError::Invalid(self.path.clone(), what);
        let policy = Policy::parse(&self.path.display().to_string(), text)
            .map_err(|found| invalid(found.in_words()))?;
        let table: toml::Table = toml::from_str(text).map_err(|error| invalid(error.message().to_owned()))?;
        let mut keys: Vec<&String> = self.text.keys().chain(table.keys()).collect();
        keys.sort();
        keys.dedup();
        let mut changed = Vec::new();
        let mut fixed = Vec::new();
        for key in keys.into_iter().filter(|key| self.text.get(*key) != table.get(*key)) {
            match CHANGEABLE.iter().find(|name| *name == key) {
                Some(name) => changed.push(*name),
                None => fixed.push(format!("`{key}`")),
            }
        }
        if !fixed.is_empty() {
            return Err(ReloadError::Fixed(fixed));
        }
        Ok(Reread { loaded: Self { path: self.path.clone(), text: table, policy }, changed })
    }
}

/// The policy that holds now; soon it may be another one.
#[derive(Debug)]
pub struct Current(RwLock<Arc<Policy>>);

impl Current {
    /// Begins with a policy.
    pub fn new(policy: Policy) -> Self {
        Self(RwLock::new(Arc::new(policy)))
    }

    /// The one of this moment.
    pub fn get(&self) -> Arc<Policy> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on another one holds.
    pub fn set(&self, policy: Arc<Policy>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = policy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = include_str!("../../../policies/http.toml");

    fn before() -> Loaded {
        let policy = Policy::parse("x.toml", BEFORE).unwrap();
        Loaded { path: "x.toml".into(), text: toml::from_str(BEFORE).unwrap(), policy }
    }

    fn refused(text: &str) -> String {
        before().replaced_by(text).map(|found| found.changed).unwrap_err().to_string()
    }

    #[test]
    fn what_decides_may_change() {
        let text =
            format!("{BEFORE}\n[migration]\nsteps = [10, 100]\ndwell = \"5m\"\n[breaker]\nlost_legs = 7\n");
        let found = before().replaced_by(&text).unwrap();
        assert_eq!(found.changed, ["breaker", "migration"]);
        assert_eq!(found.loaded.policy.migration.steps, [10.0, 100.0]);
        let same = found.loaded.replaced_by(&text).unwrap();
        assert!(same.changed.is_empty());
        assert_eq!(found.loaded.replaced_by(BEFORE).unwrap().changed, ["breaker", "migration"], "and back");
    }

    #[test]
    fn comments_and_blanks_are_no_change() {
        let text = format!("# by ann\n\n{}", BEFORE.replace(" = ", "   =  "));
        assert_eq!(before().replaced_by(&text).unwrap().changed, Vec::<&str>::new());
    }

    #[test]
    fn what_is_in_the_way_of_packets_takes_a_restart_and_is_named() {
        let moved = BEFORE.replacen("nat = \"", "nat = \"1", 1);
        let said = refused(&format!("stall = \"2s\"\n{moved}\n[breaker]\nlost_legs = 7\n"));
        assert!(said.starts_with("`primary`, `stall`: changed, which takes a restart"), "{said}");
    }

    #[test]
    fn a_services_servers_take_a_restart_too() {
        let text = include_str!("../../../policies/services.toml");
        let policy = Policy::parse("x.toml", text).unwrap();
        let loaded = Loaded { path: "x.toml".into(), text: toml::from_str(text).unwrap(), policy };
        let moved = text.replacen("10.0.3.4:9000", "10.0.3.5:9000", 1);
        assert!(moved != text);
        let said = loaded.replaced_by(&moved).map(|found| found.changed).unwrap_err().to_string();
        assert!(said.starts_with("`services`: changed"), "{said}");
        let steps = format!("{text}\n[migration]\nsteps = [10, 100]\n");
        assert_eq!(loaded.replaced_by(&steps).unwrap().changed, ["migration"]);
    }

    #[test]
    fn one_that_does_not_hold_is_refused_with_its_place() {
        let said = refused(&format!("{BEFORE}\n[migration]\nsteps = [50, 10]\n"));
        assert!(said.contains("x.toml") && said.contains("weights rise"), "{said}");
        let said = refused(&format!("{BEFORE}\nnonsense = \"1\"\n"));
        assert!(said.contains("nonsense") && said.contains("line "), "{said}");
        assert!(refused("name = ").contains("line 1"));
    }

    #[test]
    fn who_asked_before_goes_on_with_the_one_of_then() {
        let (current, loaded) = (Current::new(before().policy), before());
        let then = current.get();
        current.set(Arc::new(Policy { durable: !then.durable, ..loaded.policy }));
        assert_ne!(current.get().durable, then.durable);
    }
}
