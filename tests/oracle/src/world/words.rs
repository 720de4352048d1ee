//! The application's shared words, as the transition functions reach them.

use mirror_common::{
    abi::{App, LAGS, Lag},
    flow::{Group, Switch, Writes},
    switch_word::{Freeze, Side, SwitchWord},
};

/// The switch word and what goes with a freeze; the past that the judge needs.
pub struct Application {
    /// The switch word.
    pub word: SwitchWord,
    /// Open writes and the freeze's deadline (nanoseconds).
    pub app: App,
    /// The order over its connections.
    pub lags: Vec<Lag>,
    /// A side fell out of sync: since the last look.
    pub fell_out: Option<Side>,
    /// Freezes that the datapath ended.
    pub thawed: u64,
    /// When the authority changed the last time, in microseconds.
    pub flipped: u64,
    /// When a side was last known to be a member, in microseconds; of use for one that isn't any more.
    pub member_until: [u64; 2],
}

impl Application {
    /// All is the primary's.
    pub fn new() -> Application {
        Application {
            word: SwitchWord::initial(),
            app: App::default(),
            lags: vec![Lag::default(); LAGS as usize],
            fell_out: None,
            thawed: 0,
            flipped: 0,
            member_until: [0; 2],
        }
    }

    /// Notes who is a member: before each change, and after it.
    pub fn note(&mut self, now_us: u64) {
        for side in Side::BOTH {
            if self.word.member(side) {
                self.member_until[side as usize] = now_us;
            }
        }
    }

    /// The daemon's compare-and-swap; `None` when the word is another one.
    pub fn swap(&mut self, from: SwitchWord, to: SwitchWord, now_us: u64) -> Option<SwitchWord> {
        if self.word != from {
            return None;
        }
        self.note(now_us);
        if from.authority() != to.authority() {
            self.flipped = now_us;
        }
        self.word = from.next(to.state());
        self.note(now_us);
        Some(self.word)
    }
}

impl Default for Application {
    fn default() -> Self {
        Self::new()
    }
}

/// The words at a time.
pub struct Words<'a> {
    /// The application's.
    pub application: &'a mut Application,
    /// Now, in microseconds.
    pub now_us: u64,
}

impl Words<'_> {
    fn lagging_of(&mut self, of: Group) -> &mut u64 {
        &mut self.application.lags[of.element()].lagging
    }
}

impl Switch for Words<'_> {
    fn begin_write(&mut self) {
        self.application.app.open_writes = self.application.app.open_writes.wrapping_add(1);
        self.application.app.writes += 1;
    }

    fn writes(&mut self) -> Writes {
        let app = &self.application.app;
        Writes { begun: app.writes as u32, open: app.open_writes as u32 }
    }

    fn end_write(&mut self) {
        self.application.app.open_writes = self.application.app.open_writes.wrapping_sub(1);
    }

    fn begin_lag(&mut self, client: Group) {
        *self.lagging_of(client) += 1;
        *self.lagging_of(Group::ALL) += 1;
    }

    fn end_lag(&mut self, client: Group, of: Group) -> bool {
        for group in [client, Group::ALL] {
            let lagging = self.lagging_of(group);
            *lagging = lagging.wrapping_sub(1);
        }
        self.lagging(of) == 0
    }

    fn lagging(&mut self, of: Group) -> u32 {
        *self.lagging_of(of) as u32
    }

    fn wait(&mut self, of: Group, now_ms: u32) {
        self.application.lags[of.element()].waited_ms = u64::from(now_ms);
    }

    fn waited_ms(&mut self, of: Group) -> u32 {
        self.application.lags[of.element()].waited_ms as u32
    }

    fn word(&mut self) -> SwitchWord {
        let app = self.application.app;
        let freeze =
            Freeze { deadline_ns: app.freeze_deadline, epoch: app.freeze_epoch, thaw: app.thaw_state };
        if let Some(thawed) = freeze.passed(self.application.word, self.now_us * 1_000) {
            self.application.word = thawed;
            self.application.thawed += 1;
        }
        self.application.word
    }

    fn doubt(&mut self) {
        self.application.app.in_doubt += 1;
    }

    fn in_doubt(&mut self) -> bool {
        self.application.app.in_doubt != 0
    }

    fn out_of_sync(&mut self, side: Side) -> bool {
        let Some(next) = self.application.word.out_of_sync(side) else { return false };
        self.application.note(self.now_us);
        self.application.word = next;
        self.application.note(self.now_us);
        self.application.app.out_of_sync_at = self.now_us * 1_000;
        self.application.fell_out = Some(side);
        true
    }
}
