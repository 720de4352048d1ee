//! Nanoseconds a packet of each path through the programs, by `BPF_PROG_TEST_RUN`.
//!
//! A run changes packet and flow, so each is a run of its own, from the same state; what a run of nothing takes (the clock,
//! the call) is measured beside it and taken off.

use anyhow::{Context, Result, bail};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use mirror_common::{
    abi::{maps, six::Client},
    flow::{Flow, flow_state, tcp},
    switch_word::{Phase, Side, SwitchWord},
};
use prog_tests::{
    packet::{Out6, Seg},
    six::{SYN_ACK, answer_to, client6},
    stage::{FLOWS, Hook, Stage, object, on_stage},
    talk::{ANSWER, CLIENT_ISS, READ, SERVER_ISS, Talk, WRITE, client_tuple, syn},
};
use serde::Serialize;

/// Payload of a full segment, in bytes.
const FULL: usize = 1_448;
/// The same over IPv6, whose header has 20 bytes more.
const FULL6: usize = FULL - 20;

/// Runs of one object before the other's turn: each finds caches and branch predictors as the other one left them.
const BLOCK: usize = 50;

/// What one path costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Path {
    /// `tc` or `xdp`.
    pub(crate) hook: &'static str,
    /// What the packet is.
    pub(crate) name: &'static str,
    /// Median, in nanoseconds.
    pub(crate) median_ns: u64,
    /// Lower quartile.
    pub(crate) low_ns: u64,
    /// Upper quartile.
    pub(crate) high_ns: u64,
    /// Median of the object from before, in turn with it.
    pub(crate) before_ns: Option<u64>,
    /// Ratio of the lower quartiles.
    pub(crate) to_before: Option<f64>,
}

fn joined() -> SwitchWord {
    SwitchWord::initial().with_phase(Phase::Mirroring).with_member(Side::Shadow, true)
}

/// A path: from whom, and the frame; the stage is left in the state that each run begins with.
struct Case {
    name: &'static str,
    from: usize,
    frame: Vec<u8>,
    /// Slot of the flow, whose state is put back before each run.
    slot: Option<u32>,
}

/// An answer of so many bytes, with its head.
fn answer(bytes: usize) -> Vec<u8> {
    let body = bytes - 60;
    let mut text = format!("HTTP/1.1 200 OK\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    text.resize(text.len() + body, b'x');
    text
}

fn not_ours(stage: &mut Stage) -> Result<Case> {
    let mut tuple = client_tuple(stage.client_port());
    tuple.dport = 9_999_u16.to_be();
    let frame = Seg::new(tcp::ACK, 1, 1).frame(tuple)?;
    Ok(Case { name: "not for a service: passed", from: 2, frame, slot: None })
}

fn one_leg(stage: &mut Stage) -> Result<Vec<Case>> {
    stage.set_word(SwitchWord::initial())?;
    let talk = Talk::open(stage)?;
    let ack = talk.next(stage, tcp::ACK)?.frame(talk.tuple)?;
    let request = talk.next(stage, tcp::ACK)?.with(READ).frame(talk.tuple)?;
    let slot = Some(talk.slot);
    let other = Talk::open(stage)?;
    other.says(stage, READ)?;
    let reply = other.reply(stage, Side::Primary, tcp::ACK)?.with(&answer(FULL));
    let reply = reply.frame(other.leg_tuple(stage, Side::Primary)?)?;
    Ok(vec![
        Case { name: "one leg: acknowledgement", from: 2, frame: ack, slot },
        Case { name: "one leg: request of 31 B, read", from: 2, frame: request, slot },
        Case { name: "one leg: answer of 1.4 KB, head read", from: 0, frame: reply, slot: Some(other.slot) },
    ])
}

fn two_legs(stage: &mut Stage) -> Result<Vec<Case>> {
    stage.set_word(joined())?;
    let talk = Talk::open(stage)?;
    let request = talk.next(stage, tcp::ACK)?.with(WRITE).frame(talk.tuple)?;
    let other = Talk::open(stage)?;
    other.says(stage, READ)?;
    let shown = other.reply(stage, Side::Primary, tcp::ACK)?.with(ANSWER);
    let shown = shown.frame(other.leg_tuple(stage, Side::Primary)?)?;
    let absorbed = other.reply(stage, Side::Shadow, tcp::ACK)?.with(ANSWER);
    let absorbed = absorbed.frame(other.leg_tuple(stage, Side::Shadow)?)?;
    let third = Talk::open(stage)?;
    let late = third.next(stage, tcp::ACK)?.with(READ);
    third.client(stage, &late)?;
    third.acks(stage, Side::Primary)?;
    third.acks(stage, Side::Shadow)?;
    let late = late.frame(third.tuple)?;
    let slot = Some(other.slot);
    Ok(vec![
        Case { name: "two legs: write of 54 B, to both", from: 2, frame: request, slot: Some(talk.slot) },
        Case { name: "two legs: answer, shown", from: 0, frame: shown, slot },
        Case { name: "two legs: answer, absorbed", from: 1, frame: absorbed, slot },
        Case { name: "two legs: stale, turned back", from: 2, frame: late, slot: Some(third.slot) },
    ])
}

/// One leg, client and server of IPv6: every packet is translated where it comes in, and where it leaves.
fn one_leg_of_ipv6(stage: &mut Stage) -> Result<Vec<Case>> {
    stage.set_word(SwitchWord::initial())?;
    stage.with_ipv6()?;
    let says = Seg::new(tcp::ACK, CLIENT_ISS + 1, SERVER_ISS[0] + 1);
    let (client, _) = open_of_ipv6(stage, &says)?;
    let (other, leg) = open_of_ipv6(stage, &says)?;
    let (ack, request) = (says.frame6(&client)?, says.clone().with(READ).frame6(&client)?);
    let asked = stage.put(2, &says.clone().with(READ).frame6(&other)?)?;
    let behind = Out6::parse(&asked.frame)?.seg.seq.wrapping_add(READ.len() as u32);
    let reply = Seg::new(tcp::ACK, SERVER_ISS[0] + 1, behind).with(&answer(FULL6)).frame6(&leg)?;
    let (slot, others) = (Some(slot_of(stage, client)?), Some(slot_of(stage, other)?));
    Ok(vec![
        Case { name: "IPv6, one leg: acknowledgement", from: 2, frame: ack, slot },
        Case { name: "IPv6, one leg: request of 31 B, read", from: 2, frame: request, slot },
        Case { name: "IPv6, one leg: answer of 1.4 KB, head read", from: 0, frame: reply, slot: others },
    ])
}

/// A connection whose handshake is done: the client's end, and what the server's segments have.
fn open_of_ipv6(stage: &mut Stage, confirms: &Seg) -> Result<(Client, Client)> {
    let client = client6(stage.client_port());
    let dialled = Out6::parse(&stage.put(2, &syn().frame6(&client)?)?.frame)?;
    let leg = answer_to(dialled.ends);
    let accepts = Seg::new(SYN_ACK, SERVER_ISS[0], dialled.seg.seq.wrapping_add(1)).options(&[2, 4, 5, 0xa0]);
    stage.put(0, &accepts.frame6(&leg)?)?;
    stage.put(2, &confirms.frame6(&client)?)?;
    Ok((client, leg))
}

/// Its slot, by the client's port: which alias the client has isn't known outside.
fn slot_of(stage: &Stage, client: Client) -> Result<u32> {
    for slot in 0..FLOWS {
        let flow = stage.flow(slot)?;
        if flow.state == flow_state::OPEN && flow.tuple.sport == client.sport {
            return Ok(slot);
        }
    }
    bail!("no open connection from port {}", u16::from_be(client.sport))
}

fn run(stage: &Stage, case: &Case) -> Result<u64> {
    let device = stage.device(case.from);
    match stage.hook {
        Hook::Tc => Ok(stage.run_tc("mirror_tc", device, &case.frame, 1)?.2),
        Hook::Xdp => Ok(stage.run_xdp(device, &case.frame, 1)?.1),
    }
}

fn summary(hook: &'static str, name: &'static str, nothing: u64, mut runs: Vec<u64>) -> Path {
    runs.sort_unstable();
    let at = |share: usize| runs[runs.len() * share / 4].saturating_sub(nothing);
    let (before_ns, to_before) = (None, None);
    Path { hook, name, median_ns: at(2), low_ns: at(1), high_ns: at(3), before_ns, to_before }
}

fn name_of(hook: Hook) -> &'static str {
    match hook {
        Hook::Tc => "tc",
        Hook::Xdp => "xdp",
    }
}

/// Nanoseconds of a run at a hook that looks at one word of a packet and ends.
fn nothing(hook: Hook, count: usize) -> Result<u64> {
    let mut bare = Ebpf::load(&object("bare.o")?)?;
    let frame = [0_u8; 64];
    let mut runs = Vec::with_capacity(count);
    let options = || TestRunOptions { data_in: Some(&frame), ..TestRunOptions::default() };
    match hook {
        Hook::Tc => {
            let program: &mut SchedClassifier = bare.program_mut("bare_tc").context("bare_tc")?.try_into()?;
            program.load()?;
            for _ in 0..count {
                runs.push(program.test_run(options())?.duration);
            }
        }
        Hook::Xdp => {
            let program: &mut Xdp = bare.program_mut("bare_xdp").context("bare_xdp")?.try_into()?;
            program.load()?;
            // As the gateway's own is, so that the kernel calls both in the same way.
            program.attach("lo", XdpMode::Skb)?;
            for _ in 0..count {
                runs.push(program.test_run(options())?.duration);
            }
        }
    }
    runs.sort_unstable();
    Ok(runs[count / 2].as_nanos() as u64)
}

/// A stage, and its paths.
struct Set {
    cases: Vec<Case>,
    /// Of the cases: so many from the first on are under a word for one leg, the others under one for two.
    ones: usize,
    states: Vec<Option<Flow>>,
}

impl Set {
    fn of(stage: &mut Stage, hook: Hook) -> Result<Self> {
        let mut cases = vec![not_ours(stage)?];
        cases.extend(one_leg(stage)?);
        if hook == Hook::Tc {
            cases.extend(one_leg_of_ipv6(stage)?);
        }
        let ones = cases.len();
        cases.extend(two_legs(stage)?);
        let states = cases.iter().map(|case| case.slot.map(|slot| stage.flow(slot)).transpose());
        let states = states.collect::<Result<_>>()?;
        Ok(Self { cases, ones, states })
    }

    fn set_word(&self, stage: &mut Stage, number: usize) -> Result<()> {
        stage.set_word(if number < self.ones { SwitchWord::initial() } else { joined() })
    }

    /// One run, from the state that the case begins with.
    fn run(&self, stage: &mut Stage, number: usize) -> Result<u64> {
        let case = &self.cases[number];
        if let (Some(slot), Some(state)) = (case.slot, self.states[number]) {
            stage.set_flow(slot, |flow| *flow = state)?;
        }
        run(stage, case)
    }
}

/// The programs of an object from before, with connections of their own.
struct Beside {
    stage: Stage,
    set: Set,
}

impl Beside {
    /// No device has these programs: their connections are opened by runs at TC, whose maps are XDP's, too.
    fn of(stage: &Stage, object: &[u8]) -> Result<Self> {
        let mut stage = stage.beside(object)?;
        let hook = std::mem::replace(&mut stage.hook, Hook::Tc);
        let set = Set::of(&mut stage, hook)?;
        stage.hook = hook;
        Ok(Self { stage, set })
    }
}

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) struct Extent<'a> {
    /// Runs of each path, at least.
    pub(crate) count: usize,
    /// What has a name that begins so.
    pub(crate) only: &'a str,
    /// An object from before.
    pub(crate) before: Option<&'a [u8]>,
}

/// Measures the paths at one hook; beside it, in turn, those of an object from before.
///
/// # Errors
/// If the lab can't be built or the programs can't be run.
pub(crate) fn measure(hook: Hook, extent: Extent<'_>) -> Result<Vec<Path>> {
    let Extent { count, only, before } = extent;
    on_stage(hook, |stage| {
        let nothing = nothing(hook, count)?;
        let set = Set::of(stage, hook)?;
        let mut old = before.map(|object| Beside::of(stage, object)).transpose()?;
        let mut paths = Vec::new();
        for (number, case) in set.cases.iter().enumerate().filter(|(_, case)| case.name.starts_with(only)) {
            set.set_word(stage, number)?;
            let (mut runs, mut olds) = (Vec::with_capacity(count), Vec::new());
            if let Some(Beside { stage, set }) = &mut old {
                set.set_word(stage, number)?;
            }
            for _ in 0..count.div_ceil(BLOCK) {
                for _ in 0..BLOCK {
                    runs.push(set.run(stage, number)?);
                }
                if let Some(Beside { stage, set }) = &mut old {
                    for _ in 0..BLOCK {
                        olds.push(set.run(stage, number)?);
                    }
                }
            }
            let mut path = summary(name_of(hook), case.name, nothing, runs);
            if !olds.is_empty() {
                let was = summary(name_of(hook), case.name, nothing, olds);
                path.before_ns = Some(was.median_ns);
                path.to_before = Some(path.low_ns as f64 / was.low_ns.max(1) as f64);
            }
            paths.push(path);
        }
        stage.drain(maps::SLOTS)?;
        Ok(paths)
    })
}
