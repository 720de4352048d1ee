//! Booting a guest and running one command in it, by virtme-ng.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    command::{output, outside, root, run, shown, target},
    toolchain::{ensure_packages, tools},
};

/// virtme-ng's version in the Python package index.
const VIRTME: &str = "1.42";

/// A guest may take that long to its first command, by software on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// A guest that isn't booted yet.
pub(super) struct Machine {
    command: Command,
}

impl Machine {
    /// A guest of this kernel, with virtme-ng installed.
    ///
    /// # Errors
    /// When that can't be installed.
    pub(super) fn new(image: &Path) -> Result<Self> {
        let bin = virtme()?;
        // virtme-ng starts others that start qemu: in a namespace of their own they all end with the first.
        let mut command = outside("unshare");
        command.args(["--pid", "--kill-child"]).arg(bin.join("vng"));
        let mut path: Vec<PathBuf> = vec![bin];
        path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        command.env("PATH", std::env::join_paths(path)?);
        command.arg("--run").arg(image).arg("--force-9p").arg("--cwd").arg(root());
        // Not only the workspace's own `target`: it may be elsewhere.
        let mut written = vec![root().to_owned()];
        written.extend(Some(std::path::absolute(target())?).filter(|target| !target.starts_with(root())));
        for folder in written {
            let mut option = OsString::from("--rwdir=");
            option.push(folder);
            command.arg(option);
        }
        Ok(Self { command })
    }

    /// More of virtme-ng's options.
    pub(super) fn options(&mut self, options: &[&str]) {
        self.command.args(options);
    }

    /// Boots, runs `words` as root in the workspace, with this terminal's output, and powers off. Returns the exit code.
    ///
    /// # Errors
    /// When the guest doesn't get so far.
    pub(super) fn run(mut self, words: &[String]) -> Result<i32> {
        let folder = tools("guest").join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let code = self.run_in(&folder, words);
        let cleaned =
            fs::remove_dir_all(&folder).with_context(|| format!("can't remove {}", folder.display()));
        code.and_then(|code| cleaned.map(|()| code))
    }

    fn run_in(&mut self, folder: &Path, words: &[String]) -> Result<i32> {
        let script = folder.join("script");
        let booted = folder.join("booted");
        let ended = folder.join("ended");
        // The kernel's command line, by which virtme-ng hands a command on, has no room for a long one.
        fs::write(&script, script_of(words, &booted, &ended)?)?;
        self.command.arg("--").arg(format!("sh {}", quoted(&script.to_string_lossy())));
        let name = shown(&self.command);
        let mut child =
            self.command.stdin(Stdio::null()).spawn().with_context(|| format!("can't start `{name}`"))?;
        wait_for_boot(&mut child, &booted)?;
        let status = child.wait()?;
        let Ok(code) = fs::read_to_string(&ended) else {
            bail!(
                "the guest ended before the command did ({status}); --qemu '-serial file:NAME' keeps its console"
            );
        };
        Ok(code.trim().parse()?)
    }
}

/// Waits until the guest runs its script.
fn wait_for_boot(child: &mut Child, booted: &Path) -> Result<()> {
    let begun = Instant::now();
    while !booted.exists() {
        if let Some(status) = child.try_wait()? {
            ensure!(booted.exists(), "the guest didn't start: {status}");
            return Ok(());
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            bail!(
                "the guest didn't start within {} s: a KVM that can't run it (--emulate), or a machine too busy",
                PATIENCE.as_secs()
            );
        }
        sleep(Duration::from_millis(100));
    }
    println!("booted in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// What the guest's shell does: says that it is there, makes what an installed system has, and hands the exit code over.
fn script_of(words: &[String], booted: &Path, ended: &Path) -> Result<String> {
    let path = std::env::var("PATH").context("PATH isn't UTF-8")?;
    let command: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    // The node of /dev/net/tun comes with its module; an installed system has it before.
    let [booted, ended] = [booted, ended].map(|path| quoted(&path.to_string_lossy()));
    Ok(format!(
        "export PATH={} HOME=/root CARGO_MANIFEST_DIR={}\n\
         touch {booted}\n\
         uname -srv\n\
         mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf\n\
         ip link set lo up\n\
         modprobe -q tun && chmod 666 /dev/net/tun\n\
         {}\n\
         code=$?\n\
         echo $code > {ended}\n\
         exit $code\n",
        quoted(&path),
        quoted(&root().join("xtask").to_string_lossy()),
        command.join(" "),
    ))
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Where virtme-ng's programs are: in a Python environment of their own below `target/tools`.
fn virtme() -> Result<PathBuf> {
    let environment = tools("guest").join("virtme");
    let bin = environment.join("bin");
    let said = output(Command::new(bin.join("vng")).arg("--version"));
    if said.is_some_and(|said| said.split_whitespace().last() == Some(VIRTME)) {
        return Ok(bin);
    }
    println!("virtme-ng: installing {VIRTME} into {}", environment.display());
    if output(Command::new("python3").args(["-c", "import ensurepip, venv"])).is_none() {
        ensure_packages(&["python3-venv"])?;
    }
    run(outside("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
    let wanted = format!("virtme-ng=={VIRTME}");
    run(outside(bin.join("pip")).args(["--quiet", "--disable-pip-version-check", "install", &wanted]))
        .context("virtme-ng can't be installed")?;
    Ok(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_words_as_they_were() {
        let word = "it's $HOME; \"x\"\n`y`";
        let said = output(Command::new("sh").args(["-c", &format!("printf %s {}", quoted(word))]));
        assert_eq!(said.as_deref(), Some(word));
    }
}
