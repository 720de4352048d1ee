//! Live frames: what an XDP program passes or redirects in a test run really goes on.

use anyhow::{Context, Result};
use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};

use crate::stage::object;

/// An XDP program that passes what isn't routed to another device, loaded: `bare_xdp`.
///
/// # Errors
/// If the kernel side isn't built, or the kernel refuses.
pub(crate) fn passing() -> Result<Ebpf> {
    let mut bpf = Ebpf::load(&object("bare.o")?)?;
    let program: &mut Xdp = bpf.program_mut("bare_xdp").context("no bare_xdp")?.try_into()?;
    program.load().context("load bare_xdp")?;
    Ok(bpf)
}

/// Runs a program `repeat` times with a frame that goes where the program says.
///
/// # Errors
/// If the kernel refuses to run the program.
pub(crate) fn run(program: &Xdp, context: [u8; 24], frame: &[u8], repeat: u32) -> Result<()> {
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        repeat,
        attrs: TestRunAttrs::new().xdp_live_frames(1),
        ..TestRunOptions::default()
    };
    program.test_run(options).context("run an XDP program with a live frame")?;
    Ok(())
}

/// `struct xdp_md` of a frame that came in at `device`, whose first `meta` bytes are metadata.
pub(crate) fn context(device: u32, frame: &[u8], meta: u32) -> [u8; 24] {
    let mut context = [0; 24];
    context[..4].copy_from_slice(&meta.to_ne_bytes());
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&device.to_ne_bytes());
    context
}
