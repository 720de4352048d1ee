//! Running other programs: said, checked, and without this cargo's own environment.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        // What `cargo run` says comes first: two clones that share a target directory share this binary too.
        let manifest =
            std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        Path::new(&manifest).parent().expect("xtask lies in the workspace").to_owned()
    })
}

/// Where the kernel side's object, and what belongs to it, lies. Not below `CARGO_TARGET_DIR`: the place is the same
/// for everybody who looks for it.
pub(crate) fn bpf_dir() -> PathBuf {
    root().join("target/bpf")
}

/// Where cargo builds.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into)
}

/// The cargo that runs this, at the workspace's root.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// On a machine that only checks, a lock file that doesn't fit is a fault.
pub(crate) fn locked() -> &'static [&'static str] {
    if std::env::var_os("CI").is_some() { &["--locked"] } else { &[] }
}

/// A command that sees nothing of the cargo and toolchain that run this: another toolchain is to be used.
pub(crate) fn outside(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let cargo_own = text.starts_with("CARGO") && text != "CARGO_HOME" && !text.starts_with("CARGO_NET_");
        let rust_own = text.starts_with("RUST") && text != "RUSTUP_HOME";
        // Both are set by rustup's proxies and by `cargo run`, and make another toolchain load the wrong libraries.
        if cargo_own || rust_own || text == "LD_LIBRARY_PATH" {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs it with this terminal; an error names the command and how it ended.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// Its standard output, if it starts and succeeds: for looking at what is there.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// All that it said, and whether it succeeded.
///
/// # Errors
/// When it can't be started.
pub(crate) fn said(command: &mut Command) -> Result<(String, bool)> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("can't start `{}`", shown(command)))?;
    let both = [output.stdout, output.stderr].map(|part| String::from_utf8_lossy(&part).into_owned());
    Ok((both.concat(), output.status.success()))
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Whether this process is root's.
pub(crate) fn is_root() -> bool {
    output(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0")
}
