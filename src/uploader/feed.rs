//! Which segment is next: oldest first, those that failed before last. Bounded memory, whatever waits.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::spool::queue::{Queue, Sealed};

/// Names remembered from one pass to the next. When more than these fail, the surplus keeps its place by age.
const REMEMBERED: usize = 4096;

/// What is known of single files from earlier passes of this run.
#[derive(Debug, Default)]
pub(super) struct Memory {
    state: Mutex<Remembered>,
}

#[derive(Debug, Default)]
struct Remembered {
    /// Failed when they were tried last.
    failed: HashSet<String>,
    /// On the server, but the local file could not be removed.
    delivered: HashSet<String>,
}

impl Memory {
    fn lock(&self) -> MutexGuard<'_, Remembered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It failed: in the next pass it comes last.
    pub(super) fn failed(&self, name: &str) {
        insert_bounded(&mut self.lock().failed, name);
    }

    /// The server has it, the disk does not let it go.
    pub(super) fn delivered(&self, name: &str) {
        insert_bounded(&mut self.lock().delivered, name);
    }

    /// True when only the removal is left to do.
    pub(super) fn is_delivered(&self, name: &str) -> bool {
        self.lock().delivered.contains(name)
    }

    /// It is gone from the queue.
    pub(super) fn forget(&self, name: &str) {
        let mut state = self.lock();
        state.failed.remove(name);
        state.delivered.remove(name);
    }

    fn failed_names(&self) -> HashSet<String> {
        self.lock().failed.clone()
    }
}

fn insert_bounded(names: &mut HashSet<String>, name: &str) {
    if names.len() < REMEMBERED {
        names.insert(name.to_owned());
    }
}

/// The order of one pass. Lent to the lanes under a lock.
#[derive(Debug)]
pub(super) struct Feed {
    page: VecDeque<Sealed>,
    last: Option<String>,
    /// Everything was listed.
    ended: bool,
    /// Names that come last.
    failed_before: HashSet<String>,
    late: VecDeque<Sealed>,
}

impl Feed {
    pub(super) fn new(memory: &Memory) -> Self {
        Self {
            page: VecDeque::new(),
            last: None,
            ended: false,
            failed_before: memory.failed_names(),
            late: VecDeque::new(),
        }
    }

    /// The next segment; `None` when everything was given out.
    pub(super) fn next(&mut self, queue: &Queue, memory: &Memory) -> io::Result<Option<Sealed>> {
        loop {
            while let Some(sealed) = self.page.pop_front() {
                if !self.failed_before.contains(&sealed.name) {
                    return Ok(Some(sealed));
                }
                self.late.push_back(sealed);
            }
            if self.ended {
                return Ok(self.late.pop_front());
            }
            self.page = queue.page(self.last.as_deref())?.into();
            if let Some(sealed) = self.page.back() {
                self.last = Some(sealed.name.clone());
            } else {
                self.ended = true;
                self.forget_the_gone(memory);
            }
        }
    }

    /// What failed before and was not listed any more went another way.
    fn forget_the_gone(&mut self, memory: &Memory) {
        let here: HashSet<&str> = self.late.iter().map(|sealed| sealed.name.as_str()).collect();
        for name in self.failed_before.iter().filter(|name| !here.contains(name.as_str())) {
            memory.forget(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::spool::dir::Dir;
    use crate::spool::queue::PAGE;
    use crate::spool::stock::Stock;

    fn queue(temp: &tempfile::TempDir) -> Queue {
        Queue::new(Arc::new(Stock::new(Dir::open(temp.path()).unwrap(), Arc::default())))
    }

    fn all(feed: &mut Feed, queue: &Queue, memory: &Memory) -> Vec<String> {
        std::iter::from_fn(|| feed.next(queue, memory).unwrap()).map(|sealed| sealed.name).collect()
    }

    #[test]
    fn failed_ones_come_last_until_they_are_gone() {
        let temp = tempfile::tempdir().unwrap();
        let queue = queue(&temp);
        let name = |n: u32| format!("f_20251127_102030_{n:03}.csv.gz");
        for n in 0..4 {
            std::fs::write(temp.path().join(name(n)), "x").unwrap();
        }
        let memory = Memory::default();
        memory.failed(&name(0));
        memory.failed(&name(2));
        memory.failed("gone.csv.gz");
        let order = [name(1), name(3), name(0), name(2)];
        assert_eq!(all(&mut Feed::new(&memory), &queue, &memory), order);
        assert_eq!(memory.failed_names().len(), 2, "what is gone is forgotten");
        memory.forget(&name(0));
        assert_eq!(all(&mut Feed::new(&memory), &queue, &memory), [name(0), name(1), name(3), name(2)]);
    }

    #[test]
    fn more_than_a_page_comes_in_order() {
        let temp = tempfile::tempdir().unwrap();
        let queue = queue(&temp);
        let names: Vec<_> = (0..PAGE + 10).map(|n| format!("f_20251127_102030_{n:06}.csv.gz")).collect();
        for name in names.iter().rev() {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        let memory = Memory::default();
        assert_eq!(all(&mut Feed::new(&memory), &queue, &memory), names);
    }
}
