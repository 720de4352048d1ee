//! Kernels from the archive that this machine's own packages come from, of any suite.
//!
//! By apt, with lists and settings of its own: what it fetches is signed, and this machine's apt knows nothing of it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use super::architecture;
use crate::{
    command::{output, outside, run},
    toolchain::tools,
};

/// The suite whose kernel is the oldest that is supported.
pub(super) const STABLE: &str = "trixie";

/// A suite of the archive.
pub(super) struct Suite {
    name: String,
    /// apt's folder for it.
    folder: PathBuf,
    architecture: String,
}

impl Suite {
    /// Fetches the suite's lists of packages.
    ///
    /// # Errors
    /// When this machine's apt knows no archive of Debian's, or that has no such suite.
    pub(super) fn open(name: &str) -> Result<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
        ensure!(!name.is_empty() && name.bytes().all(known), "`{name}` isn't a suite's name");
        let folder = tools("guest").join("apt").join(name);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let suite = Self { name: name.to_owned(), folder, architecture: architecture()? };
        // The keyring's path is what Debian's own sources say.
        let line = format!(
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {} {name} main\n",
            archive()?
        );
        fs::write(suite.folder.join("sources.list"), line)?;
        run(suite.apt("apt-get").args(["-qq", "update"]))
            .with_context(|| format!("the archive has no lists of the suite {name}"))?;
        Ok(suite)
    }

    /// The packages of kernels with everything switched on that Debian switches on.
    ///
    /// # Errors
    /// When apt fails.
    pub(super) fn kernels(&self) -> Result<Vec<String>> {
        let pattern = format!("^linux-image-[0-9].*-{}$", self.architecture);
        let said = output(self.apt("apt-cache").args(["--names-only", "search", &pattern]));
        let names = said.context("apt-cache failed")?;
        let names = names.lines().filter_map(|line| line.split(' ').next());
        let flavour = |name: &str| ["-cloud-", "-rt-"].iter().any(|other| name.contains(other));
        let mut names: Vec<String> = names.filter(|name| !flavour(name)).map(str::to_owned).collect();
        names.sort();
        Ok(names)
    }

    /// A kernel's image, with its modules in the folder above it; fetched where it isn't there yet.
    ///
    /// # Errors
    /// When the suite has no such package, or apt fails.
    pub(super) fn image(&self, package: Option<&str>) -> Result<PathBuf> {
        let default = format!("linux-image-{}", self.architecture);
        let package = match package {
            Some(package) => package.to_owned(),
            None => self
                .depends(&default)?
                .into_iter()
                .next()
                .with_context(|| format!("the suite {} has no package {default}", self.name))?,
        };
        let folder = tools("guest").join("kernels").join(&package);
        if !folder.exists() {
            self.fetch(&package, &folder)?;
        }
        image_in(&folder).with_context(|| format!("there is no kernel in {}", folder.display()))
    }

    /// Of a package's dependencies those of its own version; all of one that has none.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let said = output(self.apt("apt-cache").args(["depends", "--important", package]));
        let said = said.with_context(|| format!("the suite {} has no package {package}", self.name))?;
        let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let version = package
            .strip_prefix("linux-image-")
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let wanted = |name: &&str| match version {
            Some(version) => name.strip_suffix(version).is_some_and(|kind| kind.starts_with("linux-")),
            None => name.starts_with("linux-image-"),
        };
        Ok(names.filter(wanted).map(str::to_owned).collect())
    }

    /// Fetches a kernel and unpacks it. Newer ones come in several packages.
    fn fetch(&self, package: &str, folder: &Path) -> Result<()> {
        println!("apt: fetching {package} of {} (about 100 MB)", self.name);
        let unpacked = folder.with_extension("part");
        let debs = unpacked.join("debs");
        // What a fetch that was broken off has left.
        let _ = fs::remove_dir_all(&unpacked);
        fs::create_dir_all(&debs)?;
        let mut packages = self.depends(package)?;
        packages.insert(0, package.to_owned());
        run(self.apt("apt-get").args(["-qq", "download"]).args(&packages).current_dir(&debs))?;
        for deb in fs::read_dir(&debs)? {
            run(Command::new("dpkg-deb").arg("-x").arg(deb?.path()).arg(&unpacked))?;
        }
        fs::remove_dir_all(&debs)?;
        fs::rename(&unpacked, folder)?;
        Ok(())
    }

    /// A program of apt's that knows this suite alone.
    fn apt(&self, program: &str) -> Command {
        let mut command = outside(program);
        let folder = self.folder.display();
        for setting in [
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::Lists={folder}/lists"),
            format!("Dir::Cache={folder}/cache"),
            // Its own user can't write here.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &setting]);
        }
        command.stdin(Stdio::null());
        command
    }
}

/// The address of Debian's archive, as this machine's own apt has it.
fn archive() -> Result<String> {
    let ask = || {
        output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(LABEL) $(REPO_URI)",
            "Identifier: Packages",
        ]))
    };
    let found = |said: String| said.lines().find_map(|line| line.strip_prefix("Debian ")).map(str::to_owned);
    match ask().and_then(found) {
        Some(address) => Ok(address),
        None => bail!("this machine's apt knows no archive of Debian's (apt-get update?)"),
    }
}

/// A kernel's image among what its packages unpack: in `boot`, or beside its modules.
fn image_in(folder: &Path) -> Option<PathBuf> {
    let entries =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"));
    entries(folder.join("boot")).chain(entries(folder.join("usr/lib/modules")).flat_map(entries)).find(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suites_name_is_no_path() {
        for wrong in ["", "../etc", "a b", "a/b"] {
            assert!(
                Suite::open(wrong).is_err_and(|error| error.to_string().contains("isn't a suite")),
                "{wrong:?}"
            );
        }
    }
}
