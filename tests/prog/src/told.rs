//! What the programs count and tell of compared turns.

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, PerCpuArray, RingBuf};
use mirror_common::{
    abi::{Carried, Prefix, Turn, maps},
    flow::pair,
    protocol::http1::status,
};

use crate::stage::Stage;

impl Stage {
    /// What was counted of compared turns of a class, by [`pair`].
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn pairs(&self, class: u32) -> Result<[u64; pair::COUNTERS as usize]> {
        let map = self.bpf.map(maps::PAIRS).context(maps::PAIRS)?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let mut all = [0; pair::COUNTERS as usize];
        for (kind, count) in all.iter_mut().enumerate() {
            *count = counters.get(&(class * pair::COUNTERS + kind as u32), 0)?.iter().sum();
        }
        Ok(all)
    }

    /// Answers of a row of [`mirror_common::flow::Measured`], by the class of their status.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn responses(&self, row: u32) -> Result<[u64; status::CLASSES]> {
        let map = self.bpf.map(maps::RESPONSES).context(maps::RESPONSES)?;
        let counters: PerCpuArray<_, u64> = PerCpuArray::try_from(map)?;
        let mut all = [0; status::CLASSES];
        for (class, count) in (0..).zip(&mut all) {
            *count = counters.get(&(row * status::CLASSES as u32 + class), 0)?.iter().sum();
        }
        Ok(all)
    }

    /// Bytes that were carried towards each side, and from each.
    ///
    /// # Errors
    /// If the map can't be read.
    pub fn carried(&self) -> Result<[[u64; 2]; 2]> {
        let map = self.bpf.map(maps::CARRIED).context(maps::CARRIED)?;
        let each = PerCpuArray::<_, Carried>::try_from(map)?.get(&0, 0)?;
        let sum =
            |of: fn(&Carried) -> [u64; 2]| [0, 1].map(|side| each.iter().map(|cpu| of(cpu)[side]).sum());
        Ok([sum(|cpu| cpu.requests), sum(|cpu| cpu.answers)])
    }

    /// The turns that were told of since the last call.
    ///
    /// # Errors
    /// If the ring can't be read.
    #[allow(unsafe_code, reason = "a record of the kernel's becomes one of ours")]
    pub fn turns(&mut self) -> Result<Vec<Turn>> {
        let mut ring = RingBuf::try_from(self.bpf.map_mut(maps::TURNS).context(maps::TURNS)?)?;
        let mut turns = Vec::new();
        while let Some(item) = ring.next() {
            ensure!(item.len() == size_of::<Turn>(), "{} bytes", item.len());
            // SAFETY: as long as a turn, which is valid for every bit pattern.
            turns.push(unsafe { item.as_ptr().cast::<Turn>().read_unaligned() });
        }
        Ok(turns)
    }

    /// How a prefix reads; nothing where that wasn't kept.
    ///
    /// # Errors
    /// If there is no such map.
    pub fn prefix(&self, key: u32) -> Result<Option<String>> {
        let map = self.bpf.map(maps::PREFIXES).context(maps::PREFIXES)?;
        let prefixes: HashMap<_, u32, Prefix> = HashMap::try_from(map)?;
        let text =
            |kept: Prefix| -> Vec<u8> { kept.text.iter().flat_map(|word| word.to_ne_bytes()).collect() };
        Ok(prefixes
            .get(&key, 0)
            .ok()
            .map(|kept| String::from_utf8_lossy(&text(kept)).trim_end_matches('\0').to_owned()))
    }
}
