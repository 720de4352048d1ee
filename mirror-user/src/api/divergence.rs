//! Differences of the two sides' answers over the control socket.

use mirror_control::divergence::{Rate, Standing};
use serde::{Deserialize, Serialize};

/// What is asked of `/divergence`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DivergenceRequest {
    /// Application.
    pub app: String,
    /// Prefixes at most.
    pub limit: usize,
}

/// Answer of `/divergence`. Counts are of the kernel, since the maps were made, but for what is learned of digests: that is
/// the daemon's, since it started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DivergenceAnswer {
    /// Application.
    pub name: String,
    /// Turns that both sides answered.
    pub compared: u64,
    /// Of them with equal statuses, lengths and digests.
    pub equal: u64,
    /// With two statuses.
    pub status: u64,
    /// With two lengths of the body.
    pub length: u64,
    /// With two digests alone.
    pub digest: u64,
    /// With equal statuses and bodies that couldn't be compared, or whose bodies aren't over.
    pub unknown: u64,
    /// Digests' differences that count.
    pub digest_counted: u64,
    /// That are noise.
    pub digest_noise: u64,
    /// That wait until it is known what the primary itself does.
    pub digest_learning: u64,
    /// Records of differences that weren't sent, being too many at once.
    pub records_lost: u64,
    /// Share of the compared turns that differ, noise left out, since the daemon started.
    pub rate: Rate,
    /// Share that a migration must be shown to stay below.
    pub bound: f64,
    /// Whether the text of prefixes is kept.
    pub captures: bool,
    /// The prefixes, those that differ most surely first.
    pub prefixes: Vec<PrefixAnswer>,
}

/// Turns of a path prefix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrefixAnswer {
    /// Method and path; `#` and a number where the policy keeps no text.
    pub prefix: String,
    /// Compared turns.
    pub turns: u64,
    /// Of them with two statuses.
    pub status: u64,
    /// With two lengths.
    pub length: u64,
    /// With two digests alone.
    pub digest: u64,
    /// Whose bodies couldn't be compared.
    pub unknown: u64,
    /// What is made of its differences of digests.
    pub standing: Standing,
    /// How often it differs, noise left out.
    pub rate: Rate,
    /// Comparable answers of the primary to a target that it had answered before.
    pub primary_repeats: u64,
    /// Of them that differ from the one before.
    pub primary_changed: u64,
    /// The last differences.
    pub examples: Vec<Example>,
}

/// A turn that differs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Example {
    /// Seconds ago.
    pub age: f64,
    /// The client, as in `mirror flows`.
    pub client: String,
    /// Its flow's slot and ...
    pub slot: u32,
    /// ... generation.
    pub generation: u32,
    /// Whether it writes.
    pub writes: bool,
    /// Statuses: the primary's, the shadow's.
    pub statuses: [u16; 2],
    /// Bytes of the bodies, where they are known.
    pub lengths: [Option<u32>; 2],
    /// Their digests, where these were compared.
    pub digests: Option<[u16; 2]>,
    /// Microseconds to the heads.
    pub us: [u32; 2],
}
