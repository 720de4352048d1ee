//! What a sweep finds, and what the programs tell the daemon.

use anyhow::{Context, Result};
use aya::{
    maps::RingBuf,
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use mirror_common::abi::{Event, SweepState, maps};

use super::{FLOWS, Stage};

impl Stage {
    /// Visits every slot, and has nothing made of what is due.
    ///
    /// # Errors
    /// If the kernel refuses the program, or to run it.
    pub fn sweep(&mut self) -> Result<SweepState> {
        self.set(
            maps::SWEEP,
            0,
            SweepState { count: FLOWS, unanswered_us: u32::MAX, ..SweepState::default() },
        )?;
        let program: &mut Xdp = self.bpf.program_mut("mirror_sweep").context("mirror_sweep")?.try_into()?;
        if program.fd().is_err() {
            program.load().context("load mirror_sweep")?;
        }
        let frame = [0; 64];
        program.test_run(TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() })?;
        self.get(maps::SWEEP, 0)
    }

    /// What was told since the last call.
    ///
    /// # Errors
    /// If there is no such ring.
    pub fn events(&mut self) -> Result<Vec<Event>> {
        let mut ring = RingBuf::try_from(self.bpf.map_mut(maps::EVENTS).context(maps::EVENTS)?)?;
        let mut all = Vec::new();
        while let Some(bytes) = ring.next() {
            let word = |at: usize| {
                bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes)
            };
            let [kind, app, slot, generation, side, reason] =
                [8, 12, 16, 20, 24, 28].map(|at| word(at).unwrap_or(u32::MAX));
            all.push(Event { at: 0, kind, app, slot, generation, side, reason });
        }
        Ok(all)
    }
}
