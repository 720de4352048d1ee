//! Another kernel than this machine's: Debian's, booted under qemu with this machine's files below it.
//!
//! virtme-ng does the booting: the guest's root is this machine's, each folder under an overlay that ends with the guest; the
//! workspace alone is written through. What runs there are programs that were built here.

mod archive;
mod boot;

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::{
    command::is_root,
    ebpf, programs,
    test::{self, scenarios},
};

const EXAMPLES: &str = "\
Examples:
  cargo xtask guest test                                       verifier, fixtures and scenarios on the suite trixie's kernel
  cargo xtask guest test --suite trixie-backports -- --only verifier,prog
  cargo xtask guest test -- --only netns --name vlan           some scenarios, at both hooks
  cargo xtask guest test --name moves_under_load -- --only netns
  cargo xtask guest run --suite sid -- uname -r                any command, in this folder; its exit code comes back
  cargo xtask guest run --kernel linux-image-6.18.15+deb13-amd64 --suite trixie-backports -- bash -c 'ip link; dmesg'
  cargo xtask guest list --suite trixie-backports              the kernels that a suite has

Without KVM (--emulate) the guest is ten to thirty times slower than this machine.";

/// What to do in a guest.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct GuestArgs {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build here, and run `cargo xtask test`'s stages that need a kernel there: verifier, prog, netns
    Test(TestArgs),
    /// Run a command in this folder, as root
    Run(RunArgs),
    /// List the kernels that a suite of Debian's archive has
    List(ListArgs),
}

/// Which tests.
#[derive(clap::Args)]
struct TestArgs {
    #[command(flatten)]
    build: ebpf::BuildArgs,
    #[command(flatten)]
    guest: Guest,
    /// For `cargo xtask test`: --only STAGES, --name NAME, --keep-going
    #[arg(last = true, value_name = "OPTIONS", default_values = ["--only", "verifier,prog,netns", "--keep-going"])]
    options: Vec<String>,
}

/// Which command.
#[derive(clap::Args)]
struct RunArgs {
    #[command(flatten)]
    guest: Guest,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Which list.
#[derive(clap::Args)]
struct ListArgs {
    /// A suite of Debian's archive
    #[arg(long, value_name = "SUITE", default_value = archive::STABLE)]
    suite: String,
}

/// The machine that is booted.
#[derive(clap::Args)]
struct Guest {
    /// The suite of Debian's archive that the kernel is taken from
    #[arg(long, value_name = "SUITE", default_value = archive::STABLE)]
    suite: String,
    /// The kernel's package; without it the one that the suite installs
    #[arg(long, value_name = "PACKAGE")]
    kernel: Option<String>,
    /// Processors
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Memory
    #[arg(long, value_name = "SIZE", default_value = "4G")]
    memory: String,
    /// By software, where KVM is missing or doesn't start the guest
    #[arg(long)]
    emulate: bool,
    /// More options of qemu's, in one word: a network card, for example
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    qemu: Option<String>,
}

/// What a guest needs of the system: qemu, what virtme-ng packs and starts, and what a guest's kernel asks for.
const PROGRAMS: &[programs::Program] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("depmod", "kmod"),
    ("busybox", "busybox-static"),
    ("udevadm", "udev"),
    ("file", "file"),
    ("python3", "python3"),
    ("unshare", "util-linux"),
];

/// Does it; the guest's exit status is this one's.
///
/// # Errors
/// When something can't be installed or built, the guest doesn't start, or what ran in it failed.
pub(crate) fn start(args: &GuestArgs) -> Result<()> {
    match &args.task {
        Task::List(list) => {
            archive::Suite::open(&list.suite)?.kernels()?.iter().for_each(|kernel| println!("{kernel}"));
            Ok(())
        }
        Task::Run(run) => ended(run.guest.boot()?.run(&run.command)?),
        Task::Test(tests) => {
            programs::ensure(scenarios::PROGRAMS)?;
            ebpf::build(&tests.build)?;
            let built = test::build_for_another()?;
            let xtask = std::env::current_exe().context("where does this program lie?")?;
            let built = built.to_str().context("the workspace's path isn't UTF-8")?;
            let xtask = xtask.to_str().context("this program's path isn't UTF-8")?;
            let mut command = [xtask, "test", "--built", built].map(str::to_owned).to_vec();
            command.extend(tests.options.iter().cloned());
            ended(tests.guest.boot()?.run(&command)?)
        }
    }
}

/// What this process makes of an exit code.
fn ended(code: i32) -> Result<()> {
    if code != 0 {
        std::process::exit(code)
    }
    Ok(())
}

impl Guest {
    /// Everything that it takes to boot.
    fn boot(&self) -> Result<boot::Machine> {
        if !is_root() {
            bail!("a guest reads this machine's files as its own, as root: run this as root");
        }
        programs::ensure(PROGRAMS)?;
        let image = archive::Suite::open(&self.suite)?.image(self.kernel.as_deref())?;
        let mut machine = boot::Machine::new(&image)?;
        machine.options(&["--cpus", &self.cpus.to_string(), "--memory", &self.memory]);
        if self.emulate {
            machine.options(&["--disable-kvm"]);
        }
        if let Some(options) = &self.qemu {
            machine.options(&["--qemu-opts", options]);
        }
        Ok(machine)
    }
}

/// The machine's name for packages: `amd64`.
fn architecture() -> Result<String> {
    let said = crate::command::output(Command::new("dpkg").arg("--print-architecture"));
    Ok(said.context("this isn't a Debian machine: dpkg doesn't start")?.trim().to_owned())
}
