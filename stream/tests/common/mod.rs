//! Memory for one thread: what both sides share, which anybody can also overwrite.

use std::cell::RefCell;
use std::rc::Rc;

use stream::{Shared, Word};

#[derive(Clone)]
pub struct Memory {
    pub words: Rc<RefCell<[u64; 4]>>,
    pub ring: Rc<RefCell<Vec<u8>>>,
}

impl Memory {
    pub fn new(bytes: usize) -> Memory {
        Memory {
            words: Rc::default(),
            ring: Rc::new(RefCell::new(vec![0xEE; bytes])),
        }
    }
}

impl Shared for Memory {
    fn load(&self, word: Word) -> u64 {
        self.words.borrow()[word as usize]
    }
    fn store(&self, word: Word, value: u64) {
        self.words.borrow_mut()[word as usize] = value;
    }
    fn take(&self, word: Word, from: u64) -> bool {
        let word = &mut self.words.borrow_mut()[word as usize];
        let is = *word == from;
        if is {
            *word = 0;
        }
        is
    }
    fn fence(&self) {}
    fn get(&self, at: usize, into: &mut [u8]) {
        // Out of the ring, this panics.
        into.copy_from_slice(&self.ring.borrow()[at..at + into.len()]);
    }
    fn put(&self, at: usize, from: &[u8]) {
        self.ring.borrow_mut()[at..at + from.len()].copy_from_slice(from);
    }
}
