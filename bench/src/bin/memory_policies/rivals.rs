//! What our policies are measured against: Belady's optimum, which knows the future, and the classics, which see every
//! access.
//!
//! Owns their plain forms. Each holds at most its capacity and gives up one page for one that comes.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use crate::{
    recording::{Event, Trace},
    replay::Contender,
};

/// Belady's MIN: the page goes whose next touch is farthest away.
#[derive(Debug)]
pub(crate) struct Optimum {
    /// By event: the event that touches the same page next.
    next: Vec<u32>,
    /// By page: the next touch, if it is here.
    here: Vec<Option<u32>>,
    held: usize,
    capacity: usize,
    /// By next touch, with entries that are out of date.
    farthest: BinaryHeap<(u32, u32)>,
}

const NEVER: u32 = u32::MAX;

impl Optimum {
    pub(crate) fn new(trace: &Trace, capacity: usize) -> Self {
        let (mut next, mut later) = (vec![NEVER; trace.events().len()], vec![NEVER; trace.pages()]);
        for (at, event) in trace.events().enumerate().rev() {
            if let Event::Touch(page) = event {
                next[at] = std::mem::replace(&mut later[page as usize], at as u32);
            }
        }
        Self { next, here: vec![None; trace.pages()], held: 0, capacity, farthest: BinaryHeap::new() }
    }

    fn evict(&mut self) {
        while let Some((next, page)) = self.farthest.pop() {
            if self.here[page as usize] == Some(next) {
                self.here[page as usize] = None;
                self.held -= 1;
                return;
            }
        }
    }
}

impl Contender for Optimum {
    fn touch(&mut self, at: usize, page: u32) -> bool {
        let missed = self.here[page as usize].is_none();
        if missed && self.held == self.capacity {
            self.evict();
        }
        self.held += usize::from(missed);
        self.here[page as usize] = Some(self.next[at]);
        self.farthest.push((self.next[at], page));
        if self.farthest.len() > 8 * self.here.len() {
            let here = &self.here;
            self.farthest.retain(|(next, page)| here[*page as usize] == Some(*next));
        }
        missed
    }
}

/// Least recently used.
#[derive(Debug)]
pub(crate) struct Lru {
    /// By page: the event of the last touch, if it is here.
    last: Vec<Option<u32>>,
    held: usize,
    capacity: usize,
    /// By touch, the oldest first, with entries that are out of date.
    touches: VecDeque<(u32, u32)>,
}

impl Lru {
    pub(crate) fn new(trace: &Trace, capacity: usize) -> Self {
        Self { last: vec![None; trace.pages()], held: 0, capacity, touches: VecDeque::new() }
    }

    fn evict(&mut self) {
        while let Some((at, page)) = self.touches.pop_front() {
            if self.last[page as usize] == Some(at) {
                self.last[page as usize] = None;
                self.held -= 1;
                return;
            }
        }
    }
}

impl Contender for Lru {
    fn touch(&mut self, at: usize, page: u32) -> bool {
        let missed = self.last[page as usize].is_none();
        if missed && self.held == self.capacity {
            self.evict();
        }
        self.held += usize::from(missed);
        self.last[page as usize] = Some(at as u32);
        self.touches.push_back((at as u32, page));
        if self.touches.len() > 8 * self.last.len() {
            let last = &self.last;
            self.touches.retain(|(at, page)| last[*page as usize] == Some(*at));
        }
        missed
    }
}

/// First in, first out.
#[derive(Debug)]
pub(crate) struct Fifo {
    here: Vec<bool>,
    capacity: usize,
    queue: VecDeque<u32>,
}

impl Fifo {
    pub(crate) fn new(trace: &Trace, capacity: usize) -> Self {
        Self { here: vec![false; trace.pages()], capacity, queue: VecDeque::new() }
    }
}

impl Contender for Fifo {
    fn touch(&mut self, _: usize, page: u32) -> bool {
        if self.here[page as usize] {
            return false;
        }
        if self.queue.len() == self.capacity
            && let Some(oldest) = self.queue.pop_front()
        {
            self.here[oldest as usize] = false;
        }
        self.queue.push_back(page);
        self.here[page as usize] = true;
        true
    }
}

/// Least frequently used as it is usually written: counts are never forgotten.
#[derive(Debug)]
pub(crate) struct Lfu {
    here: Vec<bool>,
    counts: Vec<u32>,
    held: usize,
    capacity: usize,
    /// By count, with entries whose page has been touched since.
    coldest: BinaryHeap<Reverse<(u32, u32)>>,
}

impl Lfu {
    pub(crate) fn new(trace: &Trace, capacity: usize) -> Self {
        let pages = trace.pages();
        Self { here: vec![false; pages], counts: vec![0; pages], held: 0, capacity, coldest: BinaryHeap::new() }
    }

    fn evict(&mut self) {
        while let Some(Reverse((count, page))) = self.coldest.pop() {
            let now = self.counts[page as usize];
            if now == count {
                self.here[page as usize] = false;
                self.held -= 1;
                return;
            }
            self.coldest.push(Reverse((now, page)));
        }
    }
}

impl Contender for Lfu {
    fn touch(&mut self, _: usize, page: u32) -> bool {
        self.counts[page as usize] += 1;
        if self.here[page as usize] {
            return false;
        }
        if self.held == self.capacity {
            self.evict();
        }
        self.held += 1;
        self.here[page as usize] = true;
        self.coldest.push(Reverse((self.counts[page as usize], page)));
        true
    }
}
