//! The ratchet: what each program may cost. It is lowered, and a raise is seen in review.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::report::Cost;

const HEADER: &str = "\
# What each program may cost the verifier: a ratchet. `cargo xtask verifier` fails above it.
# After a change that is worth its cost: cargo xtask verifier -- --write-budget
";

/// Limits by program.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Budget(BTreeMap<String, Limits>);

/// What one program may cost.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Instructions that the verifier walks.
    verified: u64,
    /// Bytes of stack.
    stack: u64,
}

impl Budget {
    /// Reads a budget; a file that isn't there is an empty one.
    ///
    /// # Errors
    /// When the file can't be read, or isn't a budget.
    pub fn read(path: &Path) -> Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(|| format!("{} isn't a budget", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    /// Sets a program's limits to its cost and a quarter: there are two toolchains, and compilers differ.
    pub fn set(&mut self, name: &str, cost: &Cost) {
        let more = |cost: u64| cost + cost / 4;
        self.0.insert(name.to_owned(), Limits { verified: more(cost.verified), stack: more(cost.stack) });
    }

    /// Forgets programs that aren't there any more.
    pub fn keep_only(&mut self, names: &[String]) {
        self.0.retain(|name, _| names.contains(name));
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = format!("{HEADER}\n{}", toml::to_string(self)?);
        fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
    }

    /// What a program exceeds, in words; `None` if it stays within, or has no limits yet.
    pub fn exceeded(&self, name: &str, cost: &Cost) -> Option<String> {
        let limits = self.0.get(name)?;
        let over = |what, is: u64, may: u64| (is > may).then(|| format!("{what} {is}, may be {may}"));
        let both =
            [over("verified", cost.verified, limits.verified), over("stack", cost.stack, limits.stack)];
        let words = both.into_iter().flatten().collect::<Vec<_>>();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Whether a program has limits.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cost(verified: u64, stack: u64) -> Cost {
        Cost { instructions: 1, verified, states: 1, peak_states: 1, stack, jited: 1 }
    }

    #[test]
    fn above_the_limit_is_said_and_at_it_is_not() {
        let mut budget = Budget::default();
        budget.set("a", &cost(100, 64));
        assert_eq!(budget.exceeded("a", &cost(125, 80)), None);
        assert_eq!(budget.exceeded("a", &cost(126, 64)).as_deref(), Some("verified 126, may be 125"));
        assert_eq!(budget.exceeded("a", &cost(100, 88)).as_deref(), Some("stack 88, may be 80"));
        assert!(!budget.knows("b"));
    }

    #[test]
    fn a_written_budget_reads_the_same() {
        let mut budget = Budget::default();
        budget.set("a", &cost(100, 64));
        let again: Budget = toml::from_str(&toml::to_string(&budget).unwrap()).unwrap();
        assert!(again.exceeded("a", &cost(126, 64)).is_some());
    }
}
