//! Large bodies on one connection, while links lose frames and the shadow is far away: through the kernel's forwarding, and
//! through the gateway over one leg and over two, beside each other.

mod links;
mod table;

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::Gateway,
    http_client::get,
    load::busy_time,
    net::{Host, SERVICE_PORT, VIP},
    transfer::{Transfer, download, upload},
    wait::wait_for,
};
use serde::Serialize;

use crate::forwarders::policy;
use links::{Links, Site};

/// Long enough for the kernels' own repair of what was lost several times: what is measured is the flow, not its end.
const STALL: &str = "60s";

/// For what is still on its way on slow links.
const LONG: Duration = Duration::from_secs(60);

/// What the bench of transfers takes.
#[derive(clap::Args)]
pub(crate) struct TransferArgs {
    /// Write everything as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Rounds; in each all ways stand beside each other
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Megabytes of a body
    #[arg(long, default_value_t = 500)]
    megabytes: u64,
    /// Seconds after which a transfer is broken off: what has come by then counts
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Megabits a second that each link carries but plain cables
    #[arg(long, default_value_t = 100)]
    mbits: u64,
    /// Milliseconds from the client to the gateway and back on such links
    #[arg(long, default_value_t = 14)]
    client_ms: u64,
    /// Where the programs run: tc or xdp
    #[arg(long, default_value = "tc")]
    hook: String,
    /// What all hosts control congestion by; without it this host's own, which is seldom what an application's clients have
    #[arg(long, value_name = "NAME")]
    congestion: Option<String>,
    /// Only links whose name has this in it
    #[arg(long, value_name = "NAME", default_value = "")]
    only: String,
}

/// Through what a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    /// The kernel's forwarding, to the primary's own address: with SACK and timestamps.
    Routed,
    /// The gateway, before the join.
    OneLeg,
    /// The gateway, mirrored.
    TwoLegs,
}

impl Way {
    const ALL: [Self; 3] = [Self::Routed, Self::OneLeg, Self::TwoLegs];
}

/// Where a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Course {
    /// To the servers: the client is held to the slowest leg.
    Upload,
    /// To the client: the other server's bytes are acknowledged, and seen by nobody.
    Download,
}

impl Course {
    /// An upload that is broken off leaves a mirror that has half of it: so it comes last.
    const ALL: [Self; 2] = [Self::Download, Self::Upload];

    /// Who sends what can be lost.
    const fn sender(self) -> Host {
        match self {
            Self::Upload => Host::Client,
            Self::Download => Host::Primary,
        }
    }
}

/// What one transfer came to.
#[derive(Clone, Copy, Debug, Serialize)]
struct Measured {
    /// Of the body, in megabits a second.
    mbits: f64,
    /// The body came to its end, and its digest is the same at all ends.
    whole: bool,
    /// Segments that the sender's kernel has sent again.
    sent_again: u64,
    /// Of its timers, those that ran out before the acknowledgement came.
    timeouts: u64,
    /// Of the whole machine's cores, those that were busy: hosts, links and gateway.
    busy_cores: f64,
}

/// Every round of one way and course between the same links.
#[derive(Debug, Serialize)]
struct Rounds {
    links: String,
    way: Way,
    course: Course,
    rounds: Vec<Measured>,
}

/// Runs all, prints the table, and writes the file.
///
/// # Errors
/// If a lab can't be built, a body doesn't come as it was sent, or a mirrored connection loses a leg.
pub(crate) fn run(args: &TransferArgs) -> Result<()> {
    let all: Vec<Links> = links::all(args.mbits, args.client_ms)
        .into_iter()
        .filter(|links| links.name.contains(&args.only))
        .collect();
    ensure!(!all.is_empty(), "no links' name has {:?} in it", args.only);
    let site = |impaired| Site::build(impaired, &args.hook, args.congestion.as_deref());
    let sites = [site(false)?, site(true)?];
    let mut rounds: Vec<Rounds> = Vec::new();
    for links in &all {
        let site = &sites[usize::from(links.impaired())];
        for round in 0..args.rounds {
            site.set(links)?;
            for (way, course, measured) in one_round(site, args, round)? {
                eprintln!("round {}: {:34} {way:?} {course:?} {measured:?}", round + 1, links.name);
                let same = |of: &&mut Rounds| of.links == links.name && of.way == way && of.course == course;
                match rounds.iter_mut().find(same) {
                    Some(of) => of.rounds.push(measured),
                    None => {
                        let links = links.name.clone();
                        rounds.push(Rounds { links, way, course, rounds: vec![measured] });
                    }
                }
            }
            site.set(&Links::default())?;
        }
    }
    println!("congestion control: {}\n\n{}", sites[0].congestion()?, table::markdown(&rounds));
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&table::json(&rounds))?)
            .with_context(|| format!("can't write {}", file.display()))?;
    }
    Ok(())
}

/// Both courses by each way.
fn one_round(site: &Site, args: &TransferArgs, round: u32) -> Result<Vec<(Way, Course, Measured)>> {
    let mut all = Vec::new();
    for way in Way::ALL {
        // A daemon each: a server keeps what was broken off in the middle of a body for a while, and the gateway the write.
        let gateway = (way != Way::Routed).then(|| {
            let more = format!("stall = \"{STALL}\"");
            let pool = (2 * round as usize + usize::from(way == Way::TwoLegs)) % 4;
            Gateway::start(&site.lab, &policy(&args.hook, pool, &more))
        });
        let gateway = gateway.transpose()?;
        if let (Way::TwoLegs, Some(gateway)) = (way, &gateway) {
            gateway.ctl(&["join", "bench"])?;
        }
        let target = match way {
            Way::Routed => SocketAddr::from(Host::Primary.service()),
            Way::OneLeg | Way::TwoLegs => SocketAddr::from((VIP, SERVICE_PORT)),
        };
        for course in Course::ALL {
            let mirrored = gateway.as_ref().filter(|_| way == Way::TwoLegs);
            let measured = measure(site, args, (target, course), mirrored)
                .with_context(|| format!("{way:?}, {course:?}"))?;
            all.push((way, course, measured));
        }
    }
    Ok(all)
}

/// One transfer; `mirrored` by this gateway, which must have kept both legs.
fn measure(
    site: &Site,
    args: &TransferArgs,
    (target, course): (SocketAddr, Course),
    mirrored: Option<&Gateway>,
) -> Result<Measured> {
    let sender = site.lab.host(course.sender());
    let counted = || anyhow::Ok((sender.tcp_counter("RetransSegs")?, sender.tcp_counter("TCPTimeouts")?));
    let (bytes, limit) = (args.megabytes * 1_000_000, Duration::from_secs(args.seconds));
    let (again, timeouts) = counted()?;
    let (busy, began) = (busy_time()?, Instant::now());
    let transfer = site.lab.host(Host::Client).run(|| match course {
        Course::Upload => upload(target, bytes, limit),
        Course::Download => download(target, bytes, limit),
    })??;
    let busy_cores = busy_time()?.saturating_sub(busy).as_secs_f64() / began.elapsed().as_secs_f64();
    let (again_now, timeouts_now) = counted()?;
    if let Some(gateway) = mirrored {
        both_have_it(site, gateway, &transfer)?;
    }
    Ok(Measured {
        mbits: transfer.mbits(),
        whole: transfer.whole,
        sent_again: again_now - again,
        timeouts: timeouts_now - timeouts,
        busy_cores,
    })
}

/// The connection has both its legs, and a body that was sent whole is the shadow's, too.
fn both_have_it(site: &Site, gateway: &Gateway, transfer: &Transfer) -> Result<()> {
    let status = gateway.status()?;
    ensure!(status["two_legs"] == 1 && status["shadow"]["in_sync"] == true, "{status}");
    if transfer.said.is_empty() {
        return Ok(());
    }
    let shadow = SocketAddr::from(Host::Shadow.service());
    let same = || get(shadow, "/sink").is_ok_and(|said| said == transfer.said.as_bytes());
    let wait = || wait_for("the shadow's digest", LONG, same);
    site.lab.host(Host::Gateway).run(wait)??;
    Ok(())
}
