//! The constants of a function, which stand after its code.

use crate::base::FastMap;

/// Constants of 4, 8, 32 or 64 bytes, each once.
#[derive(Debug, Default)]
pub struct Pool {
    entries: Vec<Vec<u8>>,
    known: FastMap<Vec<u8>, u32>,
}

impl Pool {
    /// The entry that holds these bytes.
    pub fn entry(&mut self, bytes: Vec<u8>) -> u32 {
        if let Some(entry) = self.known.get(&bytes) {
            return *entry;
        }
        self.entries.push(bytes.clone());
        let entry = self.entries.len() as u32 - 1;
        self.known.insert(bytes, entry);
        entry
    }

    /// All constants in one piece, each aligned to its size if the start is, and where each begins.
    pub fn layout(&self) -> (Vec<u8>, Vec<u32>) {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|i| std::cmp::Reverse(self.entries[*i].len()));
        let mut bytes = vec![];
        let mut offsets = vec![0; self.entries.len()];
        for i in order {
            offsets[i] = bytes.len() as u32;
            bytes.extend_from_slice(&self.entries[i]);
        }
        (bytes, offsets)
    }

    /// The alignment that the piece needs.
    pub fn align(&self) -> usize {
        self.entries.iter().map(|e| e.len()).max().unwrap_or(1)
    }
}
