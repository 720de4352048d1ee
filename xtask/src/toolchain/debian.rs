//! Debian 12 with packages only: `rustc-web` brings the library's sources, `llvm-22-dev` the linker's LLVM.

use std::{
    ffi::OsString,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::{BPF_LINKER, Missing, Toolchain, Way, linker_version, path_with, tools};
use crate::command::{is_root, output, outside, run};

const PACKAGES: &[&str] = &[
    "cargo-web",
    "rustc-web",
    "rust-web-src",
    "llvm-22-dev",
    "libpolly-22-dev",
    "libzstd-dev",
    "zlib1g-dev",
    "gcc",
    "libc6-dev",
];
/// What building bpf-linker needs besides a Rust compiler.
const LINKER_PACKAGES: &[&str] =
    &["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "gcc", "libc6-dev"];
/// bpf-linker reads the compiler's bitcode, so both have this LLVM.
const LLVM_MAJOR: &str = "22";
const LLVM: &str = "/usr/lib/llvm-22";
const RUSTC: &str = "/usr/bin/rustc";
const CARGO: &str = "/usr/bin/cargo";

/// Whether packages can be asked for here.
pub(super) fn is_debian() -> bool {
    output(Command::new("dpkg-query").arg("--version")).is_some()
}

pub(super) fn look() -> Result<Missing> {
    if !is_debian() {
        bail!("this isn't a Debian machine");
    }
    let mut what = missing(PACKAGES);
    if linker_version(&tools("debian").join("bin/bpf-linker")).as_deref() != Some(BPF_LINKER) {
        what.push(format!("bpf-linker {BPF_LINKER} (cargo install, into target/tools/debian)"));
    }
    Ok(Missing { what })
}

/// Which of these packages aren't installed.
fn missing(packages: &[&str]) -> Vec<String> {
    let installed = |package: &&&str| {
        output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}"]).arg(package))
            .is_some_and(|status| status == "installed")
    };
    packages
        .iter()
        .filter(|package| !installed(package))
        .map(|package| format!("the package {package}"))
        .collect()
}

/// Installs packages that aren't there yet; says which. Does nothing, and needs no rights, when all are there.
///
/// # Errors
/// When apt fails, or this is neither root's nor a machine with sudo.
pub(crate) fn ensure_packages(packages: &[&str]) -> Result<()> {
    if missing(packages).is_empty() {
        return Ok(());
    }
    eprintln!("apt: installing {}", packages.join(" "));
    // Lists that are old name files that the mirror no longer has.
    run(apt().args(["-qq", "update"]))?;
    run(apt().args(["-qq", "-y", "--no-install-recommends", "install"]).args(packages).stdout(Stdio::null()))
        .context("apt-get failed; is this Debian 12 with its security updates among its sources?")
}

fn apt() -> Command {
    let mut command = if is_root() { outside("apt-get") } else { outside("sudo") };
    if !is_root() {
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"]);
    }
    // Another apt may be at work: wait for it.
    // RUNLEVEL=1: no package starts a service because it was installed.
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("RUNLEVEL", "1")
        .args(["-o", "DPkg::Lock::Timeout=600"]);
    command
}

pub(super) fn install() -> Result<()> {
    ensure_packages(PACKAGES)?;
    check_llvm()?;
    if linker_version(&tools("debian").join("bin/bpf-linker")).as_deref() == Some(BPF_LINKER) {
        return Ok(());
    }
    let mut cargo = outside(CARGO);
    cargo.env("RUSTC", RUSTC).env("PATH", path_with(&["/usr/bin".into()])?);
    build_linker(cargo, "debian")
}

/// Builds bpf-linker with the packages' LLVM and a way's cargo, into target/tools/WAY.
///
/// # Errors
/// When apt or the build fails.
pub(super) fn build_linker(mut cargo: Command, way: &str) -> Result<()> {
    ensure_packages(LINKER_PACKAGES)?;
    let root = tools(way);
    let build = root.join("build");
    // All three name the same LLVM: where Debian's `llvm` 14 is installed too, the build finds that one first.
    let path = std::env::join_paths(
        std::iter::once(Path::new(LLVM).join("bin")).chain(std::env::split_paths(&path_of(&cargo))),
    )?;
    cargo
        .args(["install", "bpf-linker", "--version", BPF_LINKER, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features", "llvm-22", "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", LLVM)
        .env("LLVM_SYS_221_PREFIX", LLVM)
        .env("RUSTFLAGS", format!("-L {LLVM}/lib"))
        .env("CARGO_TARGET_DIR", &build)
        .env("PATH", path);
    run(&mut cargo)?;
    std::fs::remove_dir_all(&build).with_context(|| format!("can't remove {}", build.display()))
}

/// The `PATH` that a command will see.
fn path_of(command: &Command) -> OsString {
    let own = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
    own.map_or_else(|| std::env::var_os("PATH").unwrap_or_default(), ToOwned::to_owned)
}

/// The compiler's LLVM and the linker's must be the same.
fn check_llvm() -> Result<()> {
    let version = output(outside(RUSTC).arg("-vV")).context("/usr/bin/rustc doesn't start")?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or("unknown");
    if llvm.split('.').next() != Some(LLVM_MAJOR) {
        bail!(
            "/usr/bin/rustc has LLVM {llvm}, bpf-linker is built for LLVM {LLVM_MAJOR}: raise both in xtask"
        );
    }
    Ok(())
}

pub(super) fn ready() -> Result<Toolchain> {
    check_llvm()?;
    let version = output(outside(RUSTC).arg("--version")).context("/usr/bin/rustc doesn't start")?;
    let mut cargo = outside(CARGO);
    cargo
        .env("RUSTC", RUSTC)
        // A stable compiler, used as a nightly: `-Z build-std` and the intrinsics.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", path_with(&["/usr/bin".into(), tools("debian").join("bin")])?);
    Ok(Toolchain {
        way: Way::Debian,
        name: format!("Debian's {}, bpf-linker {BPF_LINKER}", version.trim()),
        cargo,
    })
}
