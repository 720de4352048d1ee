//! The applications' shared words, mapped into the daemon: the switch word and what goes with a freeze.
#![allow(unsafe_code, reason = "maps the pinned arrays and swaps in them by atomics")]

use std::{
    os::fd::BorrowedFd,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, Result};
use mirror_common::{
    abi::{App, AppWords, MAX_APPS},
    switch_word::{Freeze, SwitchWord},
};
use rustix::mm::{MapFlags, ProtFlags, mmap};

/// A mapped array of `u64`s.
struct Mapped {
    base: *const AtomicU64,
    words: usize,
}

// SAFETY: the memory is shared with the kernel anyway, and touched by atomics alone.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new(fd: BorrowedFd<'_>, words: usize) -> Result<Self> {
        let bytes = (words * 8).next_multiple_of(4_096);
        // SAFETY: a fresh mapping, chosen by the kernel; it is never unmapped.
        let base = unsafe {
            mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, fd, 0)
        }
        .context("can't map a pinned array")?;
        Ok(Self { base: base.cast(), words })
    }

    fn at(&self, index: usize) -> &AtomicU64 {
        assert!(index < self.words);
        // SAFETY: within the mapping, aligned, and never unmapped.
        unsafe { &*self.base.add(index) }
    }
}

/// The words of every application.
pub struct Words {
    switch: Mapped,
    apps: Mapped,
}

const APP_WORDS: usize = size_of::<AppWords>() / 8;

impl Words {
    /// Maps the two arrays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn map(switch: BorrowedFd<'_>, apps: BorrowedFd<'_>) -> Result<Self> {
        let n = MAX_APPS as usize;
        Ok(Self { switch: Mapped::new(switch, n)?, apps: Mapped::new(apps, n * APP_WORDS)? })
    }

    /// The switch word of an application.
    pub fn load(&self, app: u32) -> SwitchWord {
        SwitchWord(self.switch.at(app as usize).load(Ordering::SeqCst))
    }

    /// Swaps `old`'s low half for `state`, with the next epoch. Returns the new word, or what stands there instead.
    ///
    /// # Errors
    /// The word that was found, when it isn't `old`.
    pub fn swap(&self, app: u32, old: SwitchWord, state: SwitchWord) -> Result<SwitchWord, SwitchWord> {
        let new = old.next(state.state());
        self.switch
            .at(app as usize)
            .compare_exchange(old.0, new.0, Ordering::SeqCst, Ordering::SeqCst)
            .map(|_| new)
            .map_err(SwitchWord)
    }

    /// Writes begun and not finished.
    pub fn open_writes(&self, app: u32) -> i64 {
        self.apps.at(app as usize * APP_WORDS).load(Ordering::SeqCst) as i64
    }

    /// Connections whose client has seen an answer that the mirror owes, with a write open.
    pub fn lagging(&self, app: u32) -> u64 {
        self.apps.at(app as usize * APP_WORDS + size_of::<App>() / 8).load(Ordering::SeqCst)
    }

    /// Says what the next freeze is.
    pub fn arm(&self, app: u32, freeze: Freeze) {
        let base = app as usize * APP_WORDS;
        self.apps.at(base + 1).store(freeze.deadline_ns, Ordering::SeqCst);
        self.apps
            .at(base + 2)
            .store(u64::from(freeze.epoch) | u64::from(freeze.thaw) << 32, Ordering::SeqCst);
    }

    /// The freeze that was armed last.
    pub fn armed(&self, app: u32) -> Freeze {
        let word = |offset: usize| self.apps.at(app as usize * APP_WORDS + offset).load(Ordering::SeqCst);
        let armed = word(2);
        Freeze { deadline_ns: word(1), epoch: armed as u32, thaw: (armed >> 32) as u32 }
    }

    /// Writes of which nobody knows whether the authority, whose leg was lost, has done them ([`App::in_doubt`]).
    pub fn in_doubt(&self, app: u32) -> u64 {
        self.apps.at(app as usize * APP_WORDS + 5).load(Ordering::SeqCst)
    }

    /// Behind a move there is no doubt any more about so many writes: who has the authority now has what it has. What came
    /// since the move stays.
    pub fn end_doubt(&self, app: u32, doubts: u64) {
        self.apps.at(app as usize * APP_WORDS + 5).fetch_sub(doubts, Ordering::SeqCst);
    }

    /// Keeps why the daemon put a side out just now: [`App::RESTARTED`] and its like.
    pub fn keep_reason(&self, app: u32, reason: u64) {
        let base = app as usize * APP_WORDS;
        self.apps.at(base + 4).store(reason, Ordering::SeqCst);
        self.apps.at(base + 3).store(monotonic_ns(), Ordering::SeqCst);
    }

    /// When a side fell out of sync the last time, in nanoseconds of the monotonic clock (0: never), and why
    /// ([`App::out_of_sync_reason`]).
    pub fn out_of_sync(&self, app: u32) -> (u64, u64) {
        let word = |offset: usize| self.apps.at(app as usize * APP_WORDS + offset).load(Ordering::SeqCst);
        (word(3), word(4))
    }
}

/// `CLOCK_MONOTONIC`, in nanoseconds: the datapath's clock.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
