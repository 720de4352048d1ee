//! The stage's maps, by their names.

use anyhow::{Context, Result};
use aya::{
    Pod,
    maps::{Array, HashMap, Queue},
};

use super::Stage;

impl Stage {
    pub(crate) fn set<V: Pod>(&mut self, name: &str, at: u32, value: V) -> Result<()> {
        let mut array: Array<_, V> = Array::try_from(self.bpf.map_mut(name).context("no such map")?)?;
        Ok(array.set(at, value, 0)?)
    }

    pub(crate) fn insert<K: Pod, V: Pod>(&mut self, name: &str, key: K, value: V) -> Result<()> {
        let mut hash: HashMap<_, K, V> = HashMap::try_from(self.bpf.map_mut(name).context("no such map")?)?;
        Ok(hash.insert(key, value, 0)?)
    }

    pub(crate) fn get<V: Pod>(&self, name: &str, at: u32) -> Result<V> {
        let array: Array<_, V> = Array::try_from(self.bpf.map(name).context("no such map")?)?;
        Ok(array.get(&at, 0)?)
    }

    pub(crate) fn push<V: Pod>(&mut self, name: &str, value: V) -> Result<()> {
        let mut queue: Queue<_, V> = Queue::try_from(self.bpf.map_mut(name).context("no such map")?)?;
        Ok(queue.push(value, 0)?)
    }

    /// Takes all there is out of a queue, and returns it.
    ///
    /// # Errors
    /// If there is no such queue.
    pub fn drain(&mut self, name: &str) -> Result<Vec<u32>> {
        let mut queue: Queue<_, u32> = Queue::try_from(self.bpf.map_mut(name).context("no such map")?)?;
        let mut all = Vec::new();
        while let Ok(value) = queue.pop(0) {
            all.push(value);
        }
        Ok(all)
    }

    /// Puts values into a queue.
    ///
    /// # Errors
    /// If it is full.
    pub fn refill<V: Pod>(&mut self, name: &str, values: &[V]) -> Result<()> {
        values.iter().try_for_each(|value| self.push(name, *value))
    }
}
