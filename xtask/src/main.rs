//! Everything about the project that is more than `cargo build`.
//!
//! Kept light on purpose: on a bare machine this is compiled before anything else can happen.
#![forbid(unsafe_code)]

mod bench;
mod command;
mod demo;
mod docs;
mod ebpf;
mod faults;
mod fuzz;
mod guest;
mod hazards;
mod lab;
mod programs;
mod soak;
mod test;
mod tidy;
mod toolchain;
mod verifier;

use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo                 everything, once, in front of you (as root)
  cargo xtask build-ebpf --yes     install what is missing, build the kernel side
  cargo xtask verifier             what each program costs the verifier, or why it refuses
  cargo xtask test                 everything, as root
  cargo xtask test --only netns    one stage
  cargo xtask guest test           what needs a kernel, on Debian 13's";

/// Builds, checks and shows the gateway.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel side into target/bpf/mirror.o, installing the toolchain if it is missing
    BuildEbpf(ebpf::BuildArgs),
    /// Load every program and print what it costs the verifier, or why it is refused (needs root)
    Verifier(verifier::VerifierArgs),
    /// Check what a program can check about the style of the sources
    Tidy,
    /// Format, lints, unit tests, fixtures through the loaded programs, network scenarios (needs root)
    Test(test::TestArgs),
    /// Write docs/VERDICTS.md and docs/POLICY.md from the sources, or check that they agree
    Docs(docs::DocsArgs),
    /// The whole job once, under load, with a proof: builds, installs what it needs, and shows it (needs root)
    Demo(demo::DemoArgs),
    /// Nanoseconds a packet, verifier cost, and loads beside plain forwarding, as tables and JSON (needs root)
    Bench(bench::BenchArgs),
    /// The long runs at full length: 10^8 steps of the world, a million requests, 20 kills a point (needs root)
    Soak(soak::SoakArgs),
    /// Plant faults, one at a time: the deterministic world must find each
    Faults,
    /// Arbitrary packets at the gateway, led by what they reach: libFuzzer on rustup's nightly
    Fuzz(fuzz::FuzzArgs),
    /// Another kernel: boot Debian's under qemu, run tests or a command there (needs root)
    Guest(guest::GuestArgs),
    /// Hosts in network namespaces, to try things in: up, down, shell, run, list (needs root)
    Lab(lab::LabArgs),
}

fn main() -> std::process::ExitCode {
    let result = match Cli::parse().task {
        Task::BuildEbpf(args) => ebpf::build(&args).map(drop),
        Task::Verifier(args) => verifier::run(&args),
        Task::Tidy => tidy::run(),
        Task::Faults => faults::run(),
        Task::Fuzz(args) => fuzz::start(&args),
        Task::Soak(args) => soak::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::Demo(args) => demo::start(&args),
        Task::Bench(args) => bench::start(&args),
        Task::Guest(args) => guest::start(&args),
        Task::Lab(args) => lab::start(&args),
    };
    // Not by returning it: that prints a backtrace where RUST_BACKTRACE is set.
    result.map_or_else(
        |error| {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        },
        |()| std::process::ExitCode::SUCCESS,
    )
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
