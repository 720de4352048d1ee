//! The workspace's tests and programs, built by one command.
//!
//! The features of a dependency depend on the packages and targets that a cargo command names, and a dependency with other
//! features is built again: stages that each asked for their own packages built most of them three times.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, locked, root, shown};

/// A program of tests.
pub(super) struct Tests {
    /// What its file is called: a scenario.
    pub(super) name: String,
    path: PathBuf,
    /// Its package's, where cargo would run it.
    folder: PathBuf,
    is_integration: bool,
}

impl Tests {
    /// It, with arguments of the harness.
    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.folder).args(arguments);
        command
    }

    /// The tests in it, those that are ignored among them.
    ///
    /// # Errors
    /// When it doesn't say.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut command = self.command(&["--list", "--format", "terse"]);
        let output = command.output().with_context(|| format!("can't start `{}`", shown(&command)))?;
        if !output.status.success() {
            bail!("`{}` failed: {}", shown(&command), output.status);
        }
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }
}

/// Every test, example and program of the workspace.
pub(super) struct Built(Vec<Tests>);

impl Built {
    /// Builds what isn't built yet.
    ///
    /// # Errors
    /// When it doesn't build.
    pub(super) fn new() -> Result<Self> {
        Self::said().map(|said| Self::read(&said))
    }

    /// What [`Built::say_to`] wrote into `file`.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn read_from(file: &Path) -> Result<Self> {
        let said = fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?;
        Ok(Self::read(&said))
    }

    /// Builds what isn't built yet, and writes for [`Built::read_from`] what that is.
    ///
    /// # Errors
    /// As [`Built::new`], or when it can't be written.
    pub(super) fn say_to(file: &Path) -> Result<()> {
        fs::write(file, Self::said()?).with_context(|| format!("can't write {}", file.display()))
    }

    fn read(said: &str) -> Self {
        let messages = said.lines().filter_map(|line| serde_json::from_str(line).ok());
        Self(messages.filter_map(|message| tests(&message)).collect())
    }

    /// Builds; returns cargo's messages, a line each.
    fn said() -> Result<String> {
        let mut command = cargo();
        command.args(["test", "--quiet", "--workspace", "--no-run"]).args(locked());
        command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
        let output = command.output().with_context(|| format!("can't start `{}`", shown(&command)))?;
        if !output.status.success() {
            bail!("`{}` failed: {}", shown(&command), output.status);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A package's, by its folder in the workspace.
    pub(super) fn package(self, folder: &str) -> Vec<Tests> {
        let folder = root().join(folder);
        self.0.into_iter().filter(|tests| tests.folder == folder).collect()
    }

    /// Of them those in files of their own, by name.
    pub(super) fn integration(self, folder: &str) -> Vec<Tests> {
        let mut all = self.package(folder);
        all.retain(|tests| tests.is_integration);
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

/// What cargo says of a program of tests that is built now.
fn tests(message: &Value) -> Option<Tests> {
    let is_tests = message["reason"] == "compiler-artifact" && message["profile"]["test"] == true;
    let path = message["executable"].as_str().filter(|_| is_tests)?.into();
    let name = message["target"]["name"].as_str()?.to_owned();
    let folder = PathBuf::from(message["manifest_path"].as_str()?).parent()?.to_owned();
    Some(Tests { name, path, folder, is_integration: message["target"]["kind"][0] == "test" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_tests_are_told_from_others() {
        let mut message = serde_json::json!({
            "reason": "compiler-artifact",
            "manifest_path": "/w/tests/netns/Cargo.toml",
            "target": { "kind": ["test"], "name": "moves" },
            "profile": { "test": true },
            "executable": "/w/target/debug/deps/moves-1",
        });
        let found = tests(&message).expect("a program of tests");
        assert_eq!((found.name.as_str(), found.is_integration), ("moves", true));
        assert_eq!(found.folder, PathBuf::from("/w/tests/netns"));
        message["target"]["kind"][0] = "bin".into();
        assert!(!tests(&message).expect("a program's own tests").is_integration);
        message["profile"]["test"] = false.into();
        assert!(tests(&message).is_none());
    }
}
