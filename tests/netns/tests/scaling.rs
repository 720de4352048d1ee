//! A provisioned shadow is scaled ahead of what is forecast, on the kernel's own limits, with the clock made faster. What it
//! uses is told by an endpoint of the test's own: so much for each request, whatever else this machine has to do.

use std::{
    cell::Cell,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    checker::send_command,
    gateway::{Gateway, policy},
    net::{Host, Lab},
    programs::{ListsServer, binary},
    wait::wait_for,
};
use netns_tests::{Running, SOON, Scene, hook, lab_builder, rounds};
use serde_json::Value;

/// The gateway's address on the link to the provisioned shadow.
const NAT: &str = "10.0.3.201";
/// A minute of the forecast is a second.
const RATE: (&str, &str) = ("MIRROR_CLOCK_RATE", "60");
/// Processor seconds that a request costs, and idle cores.
const REQUEST_MS: f64 = 4.0;
const IDLE: f64 = 0.1;
/// Cores at first.
const FIRST: u64 = 400;
/// Nothing takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// Requests that were answered, as of a second, and the rate then.
#[derive(Clone, Copy)]
struct Answered {
    at: Instant,
    count: f64,
    rate: f64,
}

/// A server that tells what the shadow uses: so much for each request that was answered.
struct Meter {
    address: SocketAddr,
    answered: Arc<Mutex<Answered>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    fn start(listener: TcpListener) -> Result<Self> {
        let address = listener.local_addr()?;
        let begun = Instant::now();
        let answered = Arc::new(Mutex::new(Answered { at: begun, count: 0.0, rate: 0.0 }));
        let ends = Arc::new(AtomicBool::new(false));
        let (seen, end) = (Arc::clone(&answered), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut told = 0.0_f64;
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(mut stream), Ok(seen)) = (stream, seen.lock().map(|seen| *seen)) else { continue };
                // Between two seconds as at the last one's rate; a counter doesn't go back.
                let count = seen.count + seen.rate * seen.at.elapsed().as_secs_f64().min(1.5);
                told = told.max(begun.elapsed().as_secs_f64() * IDLE + count * REQUEST_MS / 1e3);
                let body = format!(
                    "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {told}\n\
                     # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 20000000\n"
                );
                let _ = stream.read(&mut [0; 4_096]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close", body.len());
                // Who hung up isn't told.
                let _ = write!(stream, "{head}\r\n\r\n{body}");
            }
        });
        Ok(Self { address, answered, ends, thread: Some(thread) })
    }

    fn see(&self, count: u64, rate: f64) {
        if let Ok(mut answered) = self.answered.lock() {
            *answered = Answered { at: Instant::now(), count: count as f64, rate };
        }
    }
}

/// A gateway whose shadow is provisioned; dropped, that is removed.
struct Provisioned(Scene);

impl Provisioned {
    fn new(lab: Lab, text: &str) -> Result<Self> {
        let primary = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
        let gateway = Gateway::start_with(&lab, text, &[RATE])?;
        let provisioned = Self(Scene { gateway, servers: [Some(primary), None], lab });
        let scene = &provisioned.0;
        let file = scene.gateway.folder().join("policy.toml").display().to_string();
        let planned = scene.ctl(&["provision", "shop", "--policy", &file, "--dry-run"])?;
        let mut steps = planned["steps"].as_array().context("no steps")?.iter();
        let device = steps.find_map(|step| step["link"]["device"].as_str()).context("no link")?;
        scene.ctl(&["provision", "shop", "--policy", &file])?;
        let attached = format!("{device}: {}", hook()?.to_uppercase());
        let found = || scene.gateway.log().contains(&attached);
        wait_for("the daemon to find the link", SOON, found).with_context(|| scene.gateway.log())?;
        scene.ctl(&["join", "shop"])?;
        Ok(provisioned)
    }
}

impl Drop for Provisioned {
    fn drop(&mut self) {
        if let Err(error) = self.0.ctl(&["deprovision", "shop", "--force"]) {
            eprintln!("NOT deprovisioned: {error:#}");
        }
    }
}

/// It, under load.
struct Stage {
    client: Running,
    meter: Meter,
    /// The last second that was looked at, and the requests answered until then.
    last: Cell<(Instant, u64)>,
    provisioned: Provisioned,
}

impl Stage {
    fn new(armed: bool) -> Result<Self> {
        let lab = lab_builder()?.forwarding(true).up()?;
        let listener = lab.host(Host::Gateway).run(|| TcpListener::bind("127.0.0.1:0"))??;
        let meter = Meter::start(listener)?;
        let shadow = format!(
            "[shadow.resources]\nsource = \"prometheus\"\nurl = \"http://{}/metrics\"\n\
             [shadow.process]\ncommand = [\"{}\", \"--listen\", \"{}\", \"--volatile\"]\nuser = \"root\"\n\
             empty = [\"/run\"]\ncpu = 0.4\nmemory = \"64MiB\"\nhealth = \"/ping\"\n\
             [scale]\narmed = {armed}\ncpu_least = 0.2\ncpu_most = 6\nmemory_most = \"128MiB\"\n\
             ahead = \"5m\"\nhold = \"8m\"\n",
            meter.address,
            binary("lists")?.display(),
            Host::Shadow.service(),
        );
        let (its, ours) = (Host::Shadow.nat_pool()[0].to_string(), format!("nat = \"{NAT}\""));
        let text = policy(&format!("hook = \"{}\"\n", hook()?), &shadow)?
            .replace(&format!("nat = \"{its}\""), &ours);
        let provisioned = Provisioned::new(lab, &text)?;
        let mut config = provisioned.0.client(8);
        (config.think, config.duration) = (Duration::from_millis(200), Some(Duration::from_secs(600)));
        let client = provisioned.0.start_client(config)?;
        Ok(Self { client, meter, last: Cell::new((Instant::now(), 0)), provisioned })
    }

    fn scene(&self) -> &Scene {
        &self.provisioned.0
    }

    fn gateway(&mut self) -> &mut Gateway {
        &mut self.provisioned.0.gateway
    }

    /// The limit of processor time, in millicores, as the kernel has it; and what the requests of the last second cost.
    fn second(&self) -> Result<(u64, f64)> {
        let tick = self.client.tick()?;
        let (at, before) = self.last.replace((Instant::now(), tick.requests));
        let rate = (tick.requests - before) as f64 / at.elapsed().as_secs_f64();
        self.meter.see(tick.requests, rate);
        let instance = self.scene().ctl(&["instance", "shop"])?;
        let limit = instance["limits"]["cpu_millicores"].as_u64().context("no limit")?;
        Ok((limit, IDLE * 1e3 + rate * REQUEST_MS))
    }

    fn think(&self, ms: u64) -> Result<()> {
        let control = self.scene().gateway.folder().join("checker.sock");
        Ok(send_command(&control, &format!("think {ms}"))?)
    }

    fn forecast(&self) -> Result<Value> {
        self.scene().ctl(&["forecast", "shop"])
    }

    /// Until there is a forecast, and what the shadow needs is known.
    fn learn(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            self.second()?;
            let told = self.forecast()?;
            let known = told["demand"][1]["needs"][0]["hour"][0].is_f64();
            if known {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "nothing is known: {told}\n{}", self.scene().gateway.log());
        }
    }

    /// The load rises for 25 s; returns the limits and the needs, a second each.
    fn rise(&self) -> Result<Vec<(u64, f64)>> {
        let mut seen = Vec::new();
        for second in 0..25_u64 {
            self.think(200 - 7 * second)?;
            seen.push(self.second()?);
        }
        Ok(seen)
    }

    /// What the journal says of scaling.
    fn scaled(&self) -> Result<Vec<Value>> {
        let history = self.scene().ctl(&["history", "shop", "--limit", "1000"])?;
        let entries = history["entries"].as_array().context("entries")?;
        Ok(entries.iter().filter(|entry| entry["what"].get("scaled").is_some()).cloned().collect())
    }

    /// The same in words.
    fn told(&self) -> Result<Vec<String>> {
        let scaled = self.scaled()?;
        Ok(scaled.iter().filter_map(|entry| entry["words"].as_str().map(str::to_owned)).collect())
    }

    /// The limits of processor time that the journal says were wanted, in millicores, the last one last.
    fn wanted(&self) -> Result<Vec<u64>> {
        let scaled = self.scaled()?;
        let of_cpu = scaled.iter().map(|entry| &entry["what"]["scaled"]).filter(|what| what[0] == "cpu");
        Ok(of_cpu.filter_map(|what| what[1]["wanted"].as_u64()).map(|steps| steps * STEP).collect())
    }

    fn kill_meter(&mut self) -> Result<()> {
        self.meter.ends.store(true, Ordering::Relaxed);
        let address = self.meter.address;
        // It waits for the next one.
        self.provisioned.0.lab.host(Host::Gateway).run(|| std::net::TcpStream::connect(address))??;
        let thread = self.meter.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the meter panicked"))
    }
}

#[test]
fn limits_rise_before_the_need_fall_slowly_and_stay_where_nothing_is_measured() -> Result<()> {
    let mut stage = Stage::new(true)?;
    stage.learn()?;
    let rise = stage.rise()?;
    let short: Vec<_> = rise.iter().filter(|(limit, need)| (*limit as f64) < *need).collect();
    ensure!(short.is_empty(), "too late: {short:?} of {rise:?}\n{:#?}", stage.told()?);
    let (highest, need) = *rise.last().context("nothing was seen")?;
    ensure!(highest > 2 * FIRST && need > FIRST as f64, "no rise: {rise:?}\n{:#?}", stage.told()?);
    let forecast = stage.forecast()?;
    ensure!(forecast["classes"][0]["horizons"][0]["scored"].as_u64() > Some(10), "not scored: {forecast}");

    // Eight minutes are eight seconds.
    stage.think(200)?;
    let begun = Instant::now();
    let mut fell = None;
    while fell.is_none() {
        let (limit, _) = stage.second()?;
        if limit < highest * 8 / 10 {
            fell = Some(begun.elapsed());
        }
        ensure!(begun.elapsed() < PATIENCE, "it stays at {limit}: {:#?}", stage.told()?);
    }
    ensure!(fell >= Some(Duration::from_secs(4)), "down at once: {fell:?}");

    // Idle, and nobody tells: that isn't nothing.
    stage.kill_meter()?;
    stage.think(1_000)?;
    let (mut held, _) = stage.second()?;
    for _ in 0..25 {
        let (limit, _) = stage.second()?;
        ensure!(limit >= held, "{held} became {limit} though nothing is measured: {:#?}", stage.told()?);
        held = limit;
    }
    let told = stage.told()?;
    ensure!(told.iter().any(|line| line.contains("isn't measured")), "{told:#?}");
    let why = stage.scene().ctl(&["why", "shop"])?;
    ensure!(why["scaling"]["armed"] == true, "{why}");
    Ok(())
}

/// Points at which the daemon dies while it scales, and whether the kernel has the new limit by then.
const FAULTS: [(&str, bool); 5] = [
    ("scale-half", false),
    ("scale-kept", false),
    ("record-new", true),
    ("scale-set", true),
    ("scale-noted", true),
];
/// What somebody set by hand, too little for the load, in millicores.
const TOO_LITTLE: u64 = 200;
/// Millicores of the scaler's steps.
const STEP: u64 = 50;

/// Each decision is kept before it is done: whenever the daemon dies, the limit is the old one or the one that the journal has,
/// and its successor arrives there.
#[test]
fn killed_while_it_scales_the_limit_is_one_of_two_and_the_next_daemon_completes_it() -> Result<()> {
    let mut stage = Stage::new(true)?;
    let first = stage.scene().ctl(&["instance", "shop"])?["pid"].clone();
    for (fault, is_set) in FAULTS.into_iter().take(rounds(1, FAULTS.len() as u32) as usize) {
        stage.gateway().stop()?;
        stage.scene().ctl(&["scale", "shop", "--cpu", "0.2", "--memory", "64MiB"])?;
        let (limit, _) = stage.second()?;
        ensure!(limit == TOO_LITTLE, "by hand: {limit}");
        stage.gateway().run(&[RATE, ("MIRROR_FAULT", fault)])?;
        let begun = Instant::now();
        while stage.gateway().process()?.is_running() {
            stage.second()?;
            ensure!(begun.elapsed() < PATIENCE, "{fault} isn't reached: {}", stage.scene().gateway.log());
        }
        let (limit, _) = stage.second()?;
        ensure!((limit != TOO_LITTLE) == is_set, "killed at {fault}, the limit is {limit}");

        stage.gateway().run(&[RATE])?;
        let wanted = stage.wanted()?;
        ensure!(!is_set || wanted.contains(&limit), "{fault}: {limit} isn't in the journal: {wanted:?}");
        let begun = Instant::now();
        loop {
            let (limit, _) = stage.second()?;
            if limit != TOO_LITTLE && stage.wanted()?.last() == Some(&limit) {
                break;
            }
            let told = stage.told()?;
            ensure!(begun.elapsed() < PATIENCE, "{fault}: the limit stays at {limit}: {told:#?}");
        }
        let found = stage.scene().ctl(&["instance", "shop"])?;
        let same = found["pid"] == first && found["standing"] == "running" && found["healthy"] == true;
        ensure!(same, "{fault}: it was {first}: {found}");
    }
    let summary = stage.client.stop()?;
    ensure!(summary.failed_requests == 0, "{summary:?}");
    Ok(())
}

#[test]
fn a_dry_run_says_what_it_would_do_and_changes_nothing() -> Result<()> {
    let stage = Stage::new(false)?;
    stage.learn()?;
    let rise = stage.rise()?;
    ensure!(rise.iter().all(|(limit, _)| *limit == FIRST), "it was scaled: {rise:?}");
    let told = stage.told()?;
    ensure!(told.iter().any(|line| line.starts_with("cpu: dry run, 0.40 cores to ")), "{told:#?}");
    Ok(())
}
