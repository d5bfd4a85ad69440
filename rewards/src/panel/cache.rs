//! Verdicts of one judge by content.

use std::collections::HashMap;

use super::Key;
use super::store::VerdictStore;
use crate::judge::{JudgeError, Verdict};

/// The most recent verdicts of a judge in memory, and all of them on disk if there is a store.
///
/// Two generations bound the memory: a verdict that was not used while half of the limit was added is evicted.
pub(super) struct VerdictCache {
    recent: HashMap<Key, Verdict>,
    older: HashMap<Key, Verdict>,
    limit: usize,
    store: Option<VerdictStore>,
}

impl VerdictCache {
    pub fn new(limit: usize, store: Option<VerdictStore>) -> Self {
        Self { recent: HashMap::new(), older: HashMap::new(), limit, store }
    }

    pub fn get(&mut self, key: &Key) -> Result<Option<Verdict>, JudgeError> {
        if let Some(verdict) = self.recent.get(key) {
            return Ok(Some(verdict.clone()));
        }
        let found = match self.older.remove(key) {
            Some(verdict) => Some(verdict),
            None => self.store.as_mut().map_or(Ok(None), |store| store.get(key))?,
        };
        if let Some(verdict) = &found {
            self.keep(*key, verdict.clone());
        }
        Ok(found)
    }

    pub fn insert(&mut self, key: Key, verdict: &Verdict) -> Result<(), JudgeError> {
        if let Some(store) = &mut self.store {
            store.put(&key, verdict)?;
        }
        self.keep(key, verdict.clone());
        Ok(())
    }

    fn keep(&mut self, key: Key, verdict: Verdict) {
        if self.recent.len() >= self.limit.div_ceil(2) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_that_are_used_outlive_those_that_are_not() {
        let mut cache = VerdictCache::new(4, None);
        let key = |n: u8| [n; 32];
        let known = |cache: &mut VerdictCache, n: u8| cache.get(&key(n)).unwrap().map(|v| v.p_chosen);
        for n in 0..4 {
            cache.insert(key(n), &Verdict::new(f64::from(n))).unwrap();
            // The first verdict is used again and again.
            assert_eq!(known(&mut cache, 0), Some(0.0));
        }
        cache.insert(key(4), &Verdict::new(4.0)).unwrap();
        cache.insert(key(5), &Verdict::new(5.0)).unwrap();
        assert_eq!((known(&mut cache, 5), known(&mut cache, 1)), (Some(5.0), None));
        assert!(cache.recent.len() + cache.older.len() <= 4);
    }
}
