//! Runs of the programs: of one by itself, or with a frame that really goes where it is sent.

use anyhow::{Context, Result};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use mirror_common::verdict::Verdict;

use super::Stage;
use crate::live;

impl Stage {
    /// Runs a TC program `repeat` times. Returns what it did last, the packet, and the nanoseconds of one run.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn run_tc(&self, name: &str, device: u32, frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>, u64)> {
        // `struct __sk_buff` up to `ifindex`.
        let mut context = [0_u8; 44];
        context[40..].copy_from_slice(&device.to_ne_bytes());
        self.run_skb(name, &context, frame, repeat)
    }

    /// Runs a TC program with a packet that is to be cut into segments of `bytes` each. Returns what it did, and the packet.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn run_super(&self, name: &str, device: u32, frame: &[u8], bytes: u32) -> Result<(u32, Vec<u8>)> {
        // `struct __sk_buff` up to `gso_size`.
        let mut context = [0_u8; 180];
        context[40..44].copy_from_slice(&device.to_ne_bytes());
        context[176..].copy_from_slice(&bytes.to_ne_bytes());
        self.run_skb(name, &context, frame, 1).map(|(action, out, _)| (action, out))
    }

    fn run_skb(&self, name: &str, context: &[u8], frame: &[u8], repeat: u32) -> Result<(u32, Vec<u8>, u64)> {
        let program: &SchedClassifier = self.bpf.program(name).context("no such program")?.try_into()?;
        let mut out = vec![0; frame.len() + 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).with_context(|| format!("run {name}"))?;
        out.truncate(result.data_size_out as usize);
        Ok((result.return_value, out, result.duration.as_nanos() as u64))
    }

    /// Lets a frame that has metadata (its first `meta` bytes) come in at a device whose XDP program touches neither.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn pass_live(&mut self, device: u32, frame: &[u8], meta: u32) -> Result<Vec<Verdict>> {
        self.counts()?;
        let program = self.passing.program("bare_xdp").context("no bare_xdp")?.try_into()?;
        live::run(program, live::context(device, frame, meta), frame, 1)?;
        self.counts()
    }

    /// Runs the XDP program `repeat` times with a frame that really goes where the program says; the first `meta` bytes
    /// are its metadata.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn run_live(&self, device: u32, frame: &[u8], meta: u32, repeat: u32) -> Result<()> {
        let program = self.bpf.program("mirror_xdp").context("no mirror_xdp")?.try_into()?;
        live::run(program, live::context(device, frame, meta), frame, repeat)
    }

    /// Runs the XDP program `repeat` times without letting anything go. Returns action and nanoseconds of one run.
    ///
    /// # Errors
    /// If the kernel refuses to run the program.
    pub fn run_xdp(&self, device: u32, frame: &[u8], repeat: u32) -> Result<(u32, u64)> {
        let program: &Xdp = self.bpf.program("mirror_xdp").context("no mirror_xdp")?.try_into()?;
        let context = live::context(device, frame, 0);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = program.test_run(options).context("run mirror_xdp")?;
        Ok((result.return_value, result.duration.as_nanos() as u64))
    }
}
