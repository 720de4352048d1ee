//! The thread that takes in what the kernel tells of compared turns; and what the daemon says of them.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Result, anyhow};
use axum::{
    Json,
    extract::{Query, State as Extract},
};
use aya::maps::{HashMap, MapData, RingBuf};
use mirror_common::abi::{Prefix, Turn, maps};
use mirror_control::{
    divergence::{Divergence, OTHERS, Rate},
    precondition::Differing,
};

use super::{
    Shared,
    serve::{App, Refused, check_name, poisoned},
};
use crate::{
    alias::Names,
    api::divergence::{DivergenceAnswer, DivergenceRequest, Example, PrefixAnswer},
    datapath::{Datapath, Pairs, Turns},
    words::monotonic_ns,
};

/// The ring is emptied this often.
const LOOK: Duration = Duration::from_millis(50);

/// What the thread and others share.
pub(super) struct Compared {
    pub(super) divergence: Mutex<Divergence>,
    prefixes: Mutex<HashMap<MapData, u32, Prefix>>,
    /// What had been counted when the shadow joined, a migration began to judge, or this daemon started.
    before: Mutex<Before>,
}

/// Counts that aren't of this shadow, or of this daemon.
struct Before {
    turns: Turns,
    /// Digests' differences that count.
    digests: u64,
}

/// The thread's own end: what is told, and who the clients are.
pub(super) struct Ring(RingBuf<MapData>, Names);

impl Compared {
    /// Takes the maps out of the datapath, and opens those that are pinned for others too.
    ///
    /// # Errors
    /// When there are none.
    pub(super) fn new(datapath: &mut Datapath, pins: &Path, noisy: Vec<u32>) -> Result<(Self, Ring)> {
        let prefixes = HashMap::try_from(datapath.take_map(maps::PREFIXES)?)?;
        let mut ring = RingBuf::try_from(datapath.take_map(maps::TURNS)?)?;
        // What a daemon before this one left there isn't among the counts that this one sees.
        while ring.next().is_some() {}
        let divergence = Mutex::new(Divergence::new(noisy));
        let before = Mutex::new(Before { turns: datapath.turns()?, digests: 0 });
        Ok((Self { divergence, prefixes: Mutex::new(prefixes), before }, Ring(ring, Names::open(pins)?)))
    }

    /// The rate of differences is counted from here on.
    pub(super) fn begin(&self, turns: Option<&Turns>) {
        let (Some(turns), Ok(divergence), Ok(mut before)) =
            (turns, self.divergence.lock(), self.before.lock())
        else {
            return;
        };
        *before = Before { turns: turns.clone(), digests: divergence.digests()[0] };
    }

    /// Answers that differ, noise left out, and all that were compared; of this shadow.
    fn counted(&self, turns: &Turns, divergence: &Divergence) -> Result<(u64, u64)> {
        let before = self.before.lock().map_err(|_| anyhow!("poisoned"))?;
        let mine = turns.since(&before.turns);
        let of_mine = |count: fn(&Pairs) -> u64| mine.pairs.iter().map(count).sum::<u64>();
        let digests = divergence.digests()[0].saturating_sub(before.digests);
        let differ = of_mine(|pairs| pairs.status_differs + pairs.length_differs) + digests;
        Ok((differ, of_mine(|pairs| pairs.compared)))
    }

    /// The same, beside the bound.
    pub(super) fn differing(&self, turns: &Turns, bound: f64) -> Result<Differing> {
        let divergence = self.divergence.lock().map_err(|_| anyhow!("poisoned"))?;
        let (differ, compared) = self.counted(turns, &divergence)?;
        Ok(Differing { differ, compared, bound })
    }

    /// How a prefix reads, where that is kept.
    fn text(&self, prefix: u32) -> Option<String> {
        let kept = self.prefixes.lock().ok()?.get(&prefix, 0).ok()?;
        let bytes: Vec<u8> = kept.text.iter().flat_map(|word| word.to_ne_bytes()).collect();
        // What clients write may be anything.
        Some(String::from_utf8_lossy(&bytes).trim_end_matches('\0').escape_default().to_string())
    }
}

/// Starts the thread.
///
/// # Errors
/// When there is none to be had.
pub(super) fn start(shared: &Arc<Shared>, mut ring: Ring) -> Result<()> {
    let shared = Arc::clone(shared);
    std::thread::Builder::new().name("compare".into()).spawn(move || {
        loop {
            std::thread::sleep(LOOK);
            if let Err(error) = look(&shared, &mut ring) {
                tracing::error!("compared turns aren't taken in: {error:#}");
            }
        }
    })?;
    Ok(())
}

fn look(shared: &Shared, Ring(ring, names): &mut Ring) -> Result<()> {
    let mut divergence = shared.compared.divergence.lock().map_err(|_| anyhow!("poisoned"))?;
    while let Some(item) = ring.next() {
        if item.len() == size_of::<Turn>() {
            divergence.observe(&read_turn(&item), |turn| names.client(turn));
        }
    }
    divergence.settle(monotonic_ns() as f64 / 1e9);
    Ok(())
}

#[allow(unsafe_code, reason = "reads a record of the kernel's")]
fn read_turn(bytes: &[u8]) -> Turn {
    // SAFETY: as long as a turn, which is valid for every bit pattern.
    unsafe { bytes.as_ptr().cast::<Turn>().read_unaligned() }
}

/// Answers `/divergence`.
pub(super) async fn divergence(
    Extract(shared): Extract<App>,
    Query(asked): Query<DivergenceRequest>,
) -> Result<Json<DivergenceAnswer>, Refused> {
    check_name(&shared, &asked.app)?;
    let turns = shared.datapath.lock().map_err(poisoned)?.turns()?;
    let divergence = shared.compared.divergence.lock().map_err(poisoned)?;
    Ok(Json(answer(&shared, &turns, &divergence, asked.limit)?))
}

fn answer(shared: &Shared, turns: &Turns, divergence: &Divergence, limit: usize) -> Result<DivergenceAnswer> {
    let sum = |count: fn(&Pairs) -> u64| turns.pairs.iter().map(count).sum::<u64>();
    let [counted, noise, waiting] = divergence.digests();
    let (compared, status, length) =
        (sum(|pairs| pairs.compared), sum(|pairs| pairs.status_differs), sum(|pairs| pairs.length_differs));
    let digest = sum(|pairs| pairs.digest_differs);
    let (differ, of) = shared.compared.counted(turns, divergence)?;
    let rate = Rate::of(differ, of);
    let now = monotonic_ns() as f64 / 1e9;
    let policy = shared.mover.policy();
    let prefixes = divergence.top(now).into_iter().take(limit).map(|(key, prefix, standing, rate)| {
        let named = if key == OTHERS { Some("others".to_owned()) } else { shared.compared.text(key) };
        PrefixAnswer {
            prefix: named.unwrap_or_else(|| format!("#{key:08x}")),
            turns: prefix.turns,
            status: prefix.status,
            length: prefix.length,
            digest: prefix.digest,
            unknown: prefix.unknown,
            standing,
            rate,
            primary_repeats: prefix.repeats,
            primary_changed: prefix.changed,
            examples: prefix.examples.iter().map(|example| show(example, now)).collect(),
        }
    });
    Ok(DivergenceAnswer {
        name: policy.name.as_str().into(),
        compared,
        equal: sum(|pairs| pairs.equal),
        status,
        length,
        digest,
        unknown: sum(Pairs::unknown),
        digest_counted: counted,
        digest_noise: noise,
        digest_learning: waiting,
        records_lost: sum(|pairs| pairs.records_lost),
        rate,
        bound: policy.migration.judge().divergence_margin,
        captures: policy.divergence.capture,
        prefixes: prefixes.collect(),
    })
}

fn show(example: &mirror_control::divergence::Example, now: f64) -> Example {
    Example {
        age: (now - example.at).max(0.0),
        client: example.client.to_string(),
        slot: example.flow.0,
        generation: example.flow.1,
        writes: example.writes,
        statuses: example.statuses,
        lengths: example.lengths,
        digests: example.digests,
        us: example.us,
    }
}
