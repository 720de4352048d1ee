//! What the kernel's own calls cost on this machine, each alone: no path through the gateway's programs is cheaper than the sum
//! of those that it can't do without.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use mirror_common::flow::tcp;
use prog_tests::{
    packet::Seg,
    stage::{Hook, object, on_stage},
    talk::client_tuple,
};
use serde::Serialize;

/// The programs of floor.o, and what each of them does.
const CALLS: [(&str, &str); 13] = [
    ("nothing", "nothing"),
    ("clock", "clock"),
    ("coarse_clock", "clock that stands still between ticks"),
    ("hash_once", "one look-up in a hash"),
    ("hash_twice", "two look-ups in a hash"),
    ("arrays", "an element of an array, and one of a CPU's own"),
    ("lock", "a lock taken and given back"),
    ("load_headers", "54 bytes of headers read by a helper"),
    ("store_headers", "50 bytes of headers written by a helper"),
    ("checksum", "a correction of the checksum by a helper"),
    ("redirect", "redirect noted"),
    ("copy", "copy, sent"),
    ("family", "IPv4 to IPv6"),
];

/// What one call costs above an empty run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Call {
    /// What is called.
    pub(crate) name: &'static str,
    /// Median, in nanoseconds.
    pub(crate) median_ns: u64,
    /// Lower quartile.
    pub(crate) low_ns: u64,
    /// Upper quartile.
    pub(crate) high_ns: u64,
}

/// Measures each, `count` times, in turn.
///
/// # Errors
/// If the lab can't be built or the programs can't be run.
pub(crate) fn measure(count: usize) -> Result<Vec<Call>> {
    on_stage(Hook::Tc, |stage| {
        let mut bpf = Ebpf::load(&object("floor.o")?)?;
        for (program, _) in CALLS {
            let program: &mut SchedClassifier = bpf.program_mut(program).context(program)?.try_into()?;
            program.load()?;
        }
        let frame = Seg::new(tcp::ACK, 1, 1).frame(client_tuple(stage.client_port()))?;
        // `struct __sk_buff` up to `ifindex`.
        let mut context = [0_u8; 44];
        context[40..].copy_from_slice(&stage.device(2).to_ne_bytes());
        let mut runs = vec![Vec::with_capacity(count); CALLS.len()];
        for _ in 0..count {
            for ((program, _), runs) in CALLS.iter().zip(&mut runs) {
                let program: &SchedClassifier =
                    bpf.program(program).context("no such program")?.try_into()?;
                let (data_in, ctx_in) = (Some(frame.as_slice()), Some(context.as_slice()));
                let options = TestRunOptions { data_in, ctx_in, ..TestRunOptions::default() };
                runs.push(program.test_run(options)?.duration.as_nanos() as u64);
            }
        }
        runs.iter_mut().for_each(|runs| runs.sort_unstable());
        let nothing = runs[0][count / 2];
        let calls = CALLS.iter().zip(&runs).map(|((_, name), runs)| {
            let at = |share: usize| runs[count * share / 4].saturating_sub(nothing);
            Call { name, median_ns: at(2), low_ns: at(1), high_ns: at(3) }
        });
        Ok(calls.skip(1).collect())
    })
}
