//! A provisioned shadow is scaled ahead of what is forecast, on the kernel's own limits, with the clock made faster. What it
//! uses is told by an endpoint of the test's own: so much for each request, whatever else this machine has to do.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lab::{
    checker::send_command,
    gateway::{Gateway, policy},
    net::Host,
    programs::{ListsServer, binary},
    wait::wait_for,
};
use netns_tests::{Running, SOON, Scene, hook, lab_builder};
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

/// A server that tells what the shadow uses: so much a request of those that were answered.
struct Meter {
    answered: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    fn start(listener: TcpListener) -> Self {
        let (answered, ends) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, end, begun) = (Arc::clone(&answered), Arc::clone(&ends), Instant::now());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let requests = count.load(Ordering::Relaxed) as f64;
                let cpu = begun.elapsed().as_secs_f64() * IDLE + requests * REQUEST_MS / 1e3;
                let body = format!(
                    "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {cpu}\n\
                     # TYPE process_resident_memory_bytes gauge\nprocess_resident_memory_bytes 20000000\n"
                );
                let _ = stream.read(&mut [0; 4_096]);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close", body.len());
                // Who hung up isn't told.
                let _ = write!(stream, "{head}\r\n\r\n{body}");
            }
        });
        Self { answered, ends, thread: Some(thread) }
    }
}

/// A lab whose shadow is provisioned, joined and under load.
struct Stage {
    scene: Scene,
    client: Running,
    meter: Meter,
    meter_address: std::net::SocketAddr,
}

impl Stage {
    fn new(armed: bool) -> Result<Self> {
        let lab = lab_builder()?.forwarding(true).up()?;
        let gateway = lab.host(Host::Gateway);
        let listener = gateway.run(|| TcpListener::bind("127.0.0.1:0"))??;
        let meter_address = listener.local_addr()?;
        let meter = Meter::start(listener);
        let lists = binary("lists")?;
        let shadow = format!(
            "[shadow.resources]\nsource = \"prometheus\"\nurl = \"http://{meter_address}/metrics\"\n\
             [shadow.process]\ncommand = [\"{}\", \"--listen\", \"{}\", \"--volatile\"]\nuser = \"root\"\n\
             empty = [\"/run\"]\ncpu = 0.4\nmemory = \"64MiB\"\nhealth = \"/ping\"\n\
             [scale]\narmed = {armed}\ncpu_least = 0.2\ncpu_most = 6\nmemory_most = \"128MiB\"\nahead = \"5m\"\nhold = \"8m\"\n",
            lists.display(),
            Host::Shadow.service(),
        );
        let text = policy(&format!("hook = \"{}\"\n", hook()?), &shadow)?
            .replace(&format!("nat = \"{}\"", Host::Shadow.nat_pool()[0]), &format!("nat = \"{NAT}\""));
        let primary = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
        let gateway = Gateway::start_with(&lab, &text, &[RATE])?;
        let scene = Scene { gateway, servers: [Some(primary), None], lab };
        let file = scene.gateway.folder().join("policy.toml").display().to_string();
        scene.ctl(&["provision", "shop", "--policy", &file])?;
        let found = || scene.ctl(&["join", "shop"]).is_ok();
        wait_for("the join", SOON, found).with_context(|| scene.gateway.log())?;
        let mut config = scene.client(8);
        (config.think, config.duration) = (Duration::from_millis(200), Some(Duration::from_secs(600)));
        let client = scene.start_client(config)?;
        Ok(Self { scene, client, meter, meter_address })
    }

    /// The limit of processor time, in millicores, as the kernel has it; and what the requests of the last second cost.
    fn second(&self) -> Result<(u64, f64)> {
        let before = self.client.answered()?;
        let tick = self.client.tick()?;
        self.meter.answered.store(tick.requests, Ordering::Relaxed);
        let instance = self.scene.ctl(&["instance", "shop"])?;
        let limit = instance["limits"]["cpu_millicores"].as_u64().context("no limit")?;
        Ok((limit, IDLE * 1e3 + tick.requests.saturating_sub(before) as f64 * REQUEST_MS))
    }

    fn think(&self, ms: u64) -> Result<()> {
        let control = self.scene.gateway.folder().join("checker.sock");
        Ok(send_command(&control, &format!("think {ms}"))?)
    }

    fn forecast(&self) -> Result<Value> {
        self.scene.ctl(&["forecast", "shop"])
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
            ensure!(begun.elapsed() < PATIENCE, "nothing is known: {told}\n{}", self.scene.gateway.log());
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
    fn told(&self) -> Result<Vec<String>> {
        let history = self.scene.ctl(&["history", "shop", "--limit", "1000"])?;
        let entries = history["entries"].as_array().context("entries")?;
        let scaled = entries.iter().filter(|entry| entry["what"].get("scaled").is_some());
        Ok(scaled.filter_map(|entry| entry["words"].as_str().map(str::to_owned)).collect())
    }

    fn kill_meter(&mut self) -> Result<()> {
        self.meter.ends.store(true, Ordering::Relaxed);
        let address = self.meter_address;
        // It waits for the next one.
        self.scene.lab.host(Host::Gateway).run(|| std::net::TcpStream::connect(address))??;
        let thread = self.meter.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow::anyhow!("the meter panicked"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let removed = self.scene.ctl(&["deprovision", "shop", "--force"]);
        if let Err(error) = removed {
            eprintln!("NOT deprovisioned: {error:#}");
        }
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
    let blind =
        || stage.forecast().is_ok_and(|told| told["scaling"]["decisions"][0][1]["cause"] == "no_load");
    wait_for("that nothing is measured", SOON, blind)?;
    let (held, _) = stage.second()?;
    stage.think(1_000)?;
    for _ in 0..20 {
        let (limit, _) = stage.second()?;
        ensure!(limit == held, "{held} became {limit} though nothing is measured: {:#?}", stage.told()?);
    }
    let told = stage.told()?;
    ensure!(told.iter().any(|line| line.contains("isn't measured")), "{told:#?}");
    let why = stage.scene.ctl(&["why", "shop"])?;
    ensure!(why["scaling"]["armed"] == true, "{why}");
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
