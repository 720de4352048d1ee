//! Locks the flow, calls the transition, unlocks; and the application's words as the transitions reach them.

use aya_ebpf::helpers::{bpf_spin_lock, bpf_spin_unlock};
use mirror_common::{
    abi::{App, AppWords, Service, Tuple, nat},
    flow::{
        Due, Flow, Group, Quote, Step, Switch, Terms, Writes, leg_state, on_client, on_client_error,
        on_client_syn, on_dialled, on_leg, on_leg_error, on_sweep, open, tcp, unanswered,
    },
    switch_word::{Freeze, Side, SwitchWord},
    verdict::Verdict,
};

use crate::{atomic, maps, maps::Scratch, packet::Packet};

/// An application's words.
pub struct Words {
    word: *mut u64,
    /// The beginning of its [`AppWords`].
    app: *mut App,
    now_ns: u64,
}

impl Words {
    /// Those of an application; `None` where the index fits no map.
    #[inline(always)]
    pub fn of(app: u32, now_ns: u64) -> Option<Words> {
        Some(Words { word: maps::SWITCH.get_ptr_mut(app)?, app: maps::APPS.get_ptr_mut(app)?.cast(), now_ns })
    }

    /// Where a group's connections that lag are counted.
    #[inline(always)]
    fn lagging_of(&self, of: Group) -> *mut u64 {
        // SAFETY: within the map's value: a group's element is less than there are.
        unsafe { &raw mut (*self.app.cast::<AppWords>()).lags[of.element()].lagging }
    }

    /// Where it is noted when a group's request waited.
    #[inline(always)]
    fn waited_of(&self, of: Group) -> *mut u64 {
        // SAFETY: as above.
        unsafe { &raw mut (*self.app.cast::<AppWords>()).lags[of.element()].waited_ms }
    }
}

impl Switch for Words {
    #[inline(always)]
    fn begin_write(&mut self) {
        // SAFETY: a map's value that every program changes by atomics only. A full barrier.
        unsafe {
            atomic::fetch_add(&raw mut (*self.app).open_writes, 1);
            atomic::add(&raw mut (*self.app).writes, 1);
        }
    }

    #[inline(always)]
    fn writes(&mut self) -> Writes {
        // SAFETY: as above. In the other order than they are raised: one that isn't seen open will be seen to have begun.
        unsafe {
            let begun = atomic::load(&raw const (*self.app).writes) as u32;
            Writes { begun, open: atomic::load(&raw const (*self.app).open_writes) as u32 }
        }
    }

    #[inline(always)]
    fn end_write(&mut self) {
        // SAFETY: as above.
        unsafe { atomic::fetch_add(&raw mut (*self.app).open_writes, u64::MAX) };
    }

    #[inline(always)]
    fn begin_lag(&mut self, client: Group) {
        // SAFETY: as above.
        unsafe {
            atomic::add(self.lagging_of(client), 1);
            atomic::fetch_add(self.lagging_of(Group::ALL), 1);
        }
    }

    #[inline(always)]
    fn end_lag(&mut self, client: Group, of: Group) -> bool {
        // SAFETY: as above.
        let [client_was, all_were] =
            unsafe { [client, Group::ALL].map(|group| atomic::fetch_add(self.lagging_of(group), u64::MAX)) };
        of.pick(client_was, all_were) == 1
    }

    #[inline(always)]
    fn lagging(&mut self, of: Group) -> u32 {
        // SAFETY: as above.
        unsafe { atomic::load(self.lagging_of(of)) as u32 }
    }

    #[inline(always)]
    fn wait(&mut self, of: Group, now_ms: u32) {
        // SAFETY: one aligned word, of which any writer's value is as good as another's.
        unsafe { self.waited_of(of).write_volatile(u64::from(now_ms)) };
    }

    #[inline(always)]
    fn waited_ms(&mut self, of: Group) -> u32 {
        // SAFETY: as above.
        unsafe { atomic::load(self.waited_of(of)) as u32 }
    }

    #[inline(always)]
    fn word(&mut self) -> SwitchWord {
        // SAFETY: as above; the deadline's fields are written before the freezing swap alone.
        unsafe {
            let word = SwitchWord(atomic::load(self.word));
            if !word.frozen() {
                return word;
            }
            let freeze = Freeze {
                deadline_ns: (*self.app).freeze_deadline,
                epoch: (*self.app).freeze_epoch,
                thaw: (*self.app).thaw_state,
            };
            let Some(thawed) = freeze.passed(word, self.now_ns) else { return word };
            if atomic::compare_and_swap(self.word, word.0, thawed.0) {
                thawed
            } else {
                SwitchWord(atomic::load(self.word))
            }
        }
    }

    #[inline(always)]
    fn doubt(&mut self) {
        // SAFETY: as above.
        unsafe { atomic::fetch_add(&raw mut (*self.app).in_doubt, 1) };
    }

    #[inline(always)]
    fn in_doubt(&mut self) -> bool {
        // SAFETY: as above.
        unsafe { atomic::load(&raw mut (*self.app).in_doubt) != 0 }
    }

    #[inline(always)]
    fn out_of_sync(&mut self, side: Side) -> bool {
        for _ in 0..3 {
            // SAFETY: as above.
            unsafe {
                let word = SwitchWord(atomic::load(self.word));
                let Some(next) = word.out_of_sync(side) else { return false };
                if atomic::compare_and_swap(self.word, word.0, next.0) {
                    (*self.app).out_of_sync_at = self.now_ns;
                    return true;
                }
            }
        }
        false
    }
}

/// Which flow a packet is for.
#[derive(Clone, Copy)]
pub struct Target {
    pub flow: *mut Flow,
    pub slot: u32,
    pub generation: u32,
    /// 0, 1: a side's server; 2: the client.
    pub from: u32,
}

/// Empties the step of the last packet.
#[inline(always)]
pub fn clear(step: &mut Step) {
    step.to_leg[0].kind = 0;
    step.to_leg[1].kind = 0;
    step.to_client.kind = 0;
    step.verdict = Verdict::StaleSlot as u8;
    step.hold_copy = 0;
    step.events = 0;
    step.dial = 0;
    step.reason = 0;
    step.side = 0;
    step.server = 0;
    step.sack.room = 0;
    step.sack.count = 0;
    step.measured.ended = 0;
    step.measured.statuses.0 = 0;
    step.measured.compared = 0;
    step.measured.pair = 0;
    step.measured.turn.outcome = 0;
}

/// A segment of a flow; a SYN only where `P` makes handshakes. `scratch.step` says what leaves.
#[inline(always)]
pub fn decide<P: Packet>(scratch: &mut Scratch, target: Target, service: &Service, words: Words) {
    clear(&mut scratch.step);
    let mut terms = Terms { switch: words, service, now_ms: scratch.seg.now_ms };
    // SAFETY: a value of an array lives as long as the map; its fields are touched under its lock.
    unsafe {
        let flow = target.flow;
        bpf_spin_lock((&raw mut (*flow).lock).cast());
        let flow_ref = &mut *flow;
        if is_its(flow_ref, target, &scratch.tuple) {
            scratch.client = flow_ref.tuple;
            let syn = scratch.seg.flags & (tcp::SYN | tcp::ACK | tcp::RST) == tcp::SYN;
            if target.from != 2 {
                scratch.step.verdict = on_leg(
                    flow_ref,
                    Side::from_bit(target.from),
                    &scratch.seg,
                    &mut terms,
                    &mut scratch.step,
                );
            } else if P::HANDSHAKES && syn {
                scratch.step.verdict = on_client_syn(flow_ref, &scratch.seg, &mut terms, &mut scratch.step);
            } else {
                scratch.step.verdict = on_client(flow_ref, &scratch.seg, &mut terms, &mut scratch.step);
            }
        }
        bpf_spin_unlock((&raw mut (*flow).lock).cast());
    }
}

/// An ICMP error about a packet that was sent for a flow; `scratch.tuple`: the addresses of an answer to it.
#[inline(always)]
pub fn error(scratch: &mut Scratch, target: Target, quote: &Quote) {
    clear(&mut scratch.step);
    // SAFETY: as above.
    unsafe {
        let flow = target.flow;
        bpf_spin_lock((&raw mut (*flow).lock).cast());
        let flow_ref = &mut *flow;
        if is_its(flow_ref, target, &scratch.tuple) {
            scratch.client = flow_ref.tuple;
            scratch.step.verdict = match target.from {
                2 => on_client_error(flow_ref, quote, &mut scratch.step),
                side => on_leg_error(flow_ref, Side::from_bit(side), quote, &mut scratch.step),
            };
        }
        bpf_spin_unlock((&raw mut (*flow).lock).cast());
    }
}

/// Whether a packet's addresses are still the flow's: a slot may be used again while a packet is on its way.
#[inline(always)]
fn is_its(flow: &Flow, target: Target, tuple: &Tuple) -> bool {
    let same = if target.from == 2 {
        flow.tuple == *tuple
    } else {
        nat::port(flow.legs[target.from as usize & 1].port).to_be() == tuple.dport
    };
    flow.generation == target.generation && same
}

/// Fills a free slot.
#[inline(always)]
pub fn begin(scratch: &mut Scratch, flow: *mut Flow, service: &Service, words: Words) {
    clear(&mut scratch.step);
    let mut terms = Terms { switch: words, service, now_ms: scratch.seg.now_ms };
    scratch.client = scratch.tuple;
    // SAFETY: as above.
    unsafe {
        bpf_spin_lock((&raw mut (*flow).lock).cast());
        open(&mut *flow, &scratch.seg, &scratch.opening, &mut terms, &mut scratch.step);
        bpf_spin_unlock((&raw mut (*flow).lock).cast());
    }
}

/// The second half of a dial. Returns the port that isn't needed any more: the leg's last one, or the one just claimed.
#[inline(always)]
pub fn dialled(scratch: &mut Scratch, target: Target, service: &Service, words: Words) -> u32 {
    let mut terms = Terms { switch: words, service, now_ms: scratch.seg.now_ms };
    let side = scratch.dialled.side & 1;
    let mut spare = scratch.dialled.port;
    // SAFETY: as above.
    unsafe {
        let flow = target.flow;
        bpf_spin_lock((&raw mut (*flow).lock).cast());
        let flow_ref = &mut *flow;
        if flow_ref.generation == target.generation {
            let last = flow_ref.legs[side as usize].port;
            on_dialled(flow_ref, &scratch.dialled, &scratch.seg, &mut terms, &mut scratch.step);
            if flow_ref.legs[side as usize].port == scratch.dialled.port {
                spare = last;
            }
        }
        bpf_spin_unlock((&raw mut (*flow).lock).cast());
    }
    spare
}

/// What the sweep found in a slot.
#[derive(Clone, Copy)]
pub struct Swept {
    pub due: Due,
    pub ports: [u32; 2],
    pub live: bool,
    /// Legs that are open.
    pub open: [bool; 2],
    pub counted: bool,
    pub unanswered: bool,
}

/// Looks at a slot without a packet. A slot that is due to be freed is so when this returns; its addresses are the caller's.
#[inline(always)]
pub fn sweep(
    scratch: &mut Scratch,
    target: Target,
    how: u32,
    service: &Service,
    words: Words,
    now_ns: u64,
    unanswered_us: u32,
) -> Swept {
    clear(&mut scratch.step);
    // 0 says that a clock stands still.
    let now_ms = match (now_ns / 1_000_000) as u32 {
        0 => 1,
        now_ms => now_ms,
    };
    let mut terms = Terms { switch: words, service, now_ms };
    // SAFETY: as above.
    unsafe {
        let flow = target.flow;
        bpf_spin_lock((&raw mut (*flow).lock).cast());
        let flow_ref = &mut *flow;
        let due = if flow_ref.generation == target.generation {
            on_sweep(flow_ref, how, &mut terms, &mut scratch.step)
        } else {
            Due::Nothing
        };
        scratch.client = flow_ref.tuple;
        let swept = Swept {
            due,
            ports: [flow_ref.legs[0].port, flow_ref.legs[1].port],
            live: flow_ref.state != 0,
            open: [flow_ref.legs[0].state == leg_state::OPEN, flow_ref.legs[1].state == leg_state::OPEN],
            counted: flow_ref.flags & Flow::COUNTED != 0,
            unanswered: unanswered(flow_ref, (now_ns / 1_000) as u32, unanswered_us),
        };
        if matches!(due, Due::Free) {
            forget(flow_ref);
        }
        bpf_spin_unlock((&raw mut (*flow).lock).cast());
        swept
    }
}

/// Makes a slot free: what still carries its generation finds another one.
#[inline(always)]
fn forget(flow: &mut Flow) {
    flow.state = 0;
    flow.generation = flow.generation.wrapping_add(1);
    flow.legs[0].port = 0;
    flow.legs[1].port = 0;
    flow.legs[0].state = 0;
    flow.legs[1].state = 0;
}

/// Frees a slot whose connection is over and whose client comes again. Returns its legs' ports.
#[inline(always)]
pub fn restart(target: Target, words: Words) -> Option<[u32; 2]> {
    let mut words = words;
    // SAFETY: as above.
    unsafe {
        let flow = target.flow;
        let mut ports = None;
        bpf_spin_lock((&raw mut (*flow).lock).cast());
        let flow_ref = &mut *flow;
        if flow_ref.generation == target.generation {
            ports = Some([flow_ref.legs[0].port, flow_ref.legs[1].port]);
            if flow_ref.flags & Flow::COUNTED != 0 {
                words.end_write();
            }
            if flow_ref.flags & Flow::LAGS != 0 {
                words.end_lag(Group::client(flow_ref.tuple.saddr), Group::ALL);
            }
            flow_ref.flags = 0;
            forget(flow_ref);
        }
        bpf_spin_unlock((&raw mut (*flow).lock).cast());
        ports
    }
}
