//! The whole job once, in front of whoever watches: join, weights, cutover, rollback, a dead shadow, and a proof.
//!
//! Everything that happens comes to one thread through one channel: ticks of the client, keys, signals, the end of a load
//! tool. So nothing is shared, and an interrupt ends the play at the next look, which takes everything down.

use std::path::PathBuf;

use anyhow::Result;

mod happening;
mod keys;
pub mod migration;
mod result;
mod script;
mod stage;
mod view;

pub use result::Outcome;

/// What shall be shown.
#[derive(Debug, Clone)]
pub struct Options {
    /// Seconds at each weight.
    pub seconds: u64,
    /// Connections of the checking client.
    pub connections: usize,
    /// Where the gateway takes packets up.
    pub hook: Hook,
    /// Something that shall go wrong.
    pub fault: Option<Fault>,
    /// Keep journals, traces and the servers' files there.
    pub keep: Option<PathBuf>,
}

/// Where the gateway takes packets up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Hook {
    /// At TC, as the gateway chooses by itself on the lab's devices
    Tc,
    /// At native XDP
    Xdp,
}

/// What can be broken on purpose, for the proof to find.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// The shadow never does one write that it has acknowledged
    #[value(name = "drop")]
    DropClone,
    /// The shadow does one write twice
    #[value(name = "double")]
    DoubleClone,
    /// The shadow does two writes of one list in the wrong order
    #[value(name = "swap")]
    SwapClones,
    /// The word of the join is flipped before its hook has copied the state
    #[value(name = "flip-early", alias = "flip")]
    FlipEarly,
}

/// The play was ended by a signal.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; everything is taken down")]
pub struct Interrupted;

/// Shows everything, and returns what came of it.
///
/// # Errors
/// If something doesn't start or a move is refused, or [`Interrupted`]. All that was made is removed by then.
pub fn run(options: &Options) -> Result<Outcome> {
    let (sender, happenings) = std::sync::mpsc::channel();
    happening::catch_signals(sender.clone())?;
    let keys = keys::Keys::listen(sender.clone())?;
    let view = view::View::new(keys.is_some());
    let outcome = script::Play::new(options, view, sender, happenings)?.perform();
    drop(keys);
    outcome
}
