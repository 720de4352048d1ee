//! What both sides' servers use is seen while they are used: a process, a control group, and what the gateway counts.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, policy},
    net::Host,
    programs::ListsServer,
    wait::wait_for,
};
use netns_tests::{SOON, Scene, all_answered, hook, lab_builder};
use serde_json::Value;

/// A control group in every hierarchy that this host has; removed when it is dropped.
struct Group {
    name: String,
    folders: Vec<PathBuf>,
}

impl Group {
    fn new(name: &str) -> Result<Self> {
        let mut group = Self { name: name.to_owned(), folders: Vec::new() };
        for line in std::fs::read_to_string("/proc/self/mounts")?.lines() {
            let mut words = line.split(' ').skip(1);
            let (Some(mount), Some("cgroup" | "cgroup2")) = (words.next(), words.next()) else { continue };
            let wanted = ["cpuacct", "memory", "blkio", "unified"];
            // On a host of v2 alone there is one hierarchy, and its name is the folder's.
            if mount == "/sys/fs/cgroup"
                || wanted.iter().any(|name| mount.split(['/', ',']).any(|part| part == *name))
            {
                let folder = PathBuf::from(mount).join(name);
                std::fs::create_dir(&folder).with_context(|| format!("can't make {}", folder.display()))?;
                group.folders.push(folder);
            }
        }
        ensure!(!group.folders.is_empty(), "no control groups are mounted");
        Ok(group)
    }

    fn take(&self, pid: u32) -> Result<()> {
        for folder in &self.folders {
            std::fs::write(folder.join("cgroup.procs"), pid.to_string())
                .with_context(|| format!("can't put {pid} into {}", folder.display()))?;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for folder in &self.folders {
            // The kernel may take a moment for the last process' end.
            let removed = wait_for("the group to be empty", SOON, || std::fs::remove_dir(folder).is_ok());
            if removed.is_err() {
                eprintln!("NOT removed: {}", folder.display());
            }
        }
    }
}

/// A metric of a side in `resources --json`.
fn metric<'a>(answer: &'a Value, side: usize, name: &str) -> &'a Value {
    let metrics = answer["sides"][side]["metrics"].as_array();
    metrics.and_then(|all| all.iter().find(|metric| metric["metric"] == name)).unwrap_or(&Value::Null)
}

fn now(answer: &Value, side: usize, name: &str) -> f64 {
    metric(answer, side, name)["now"].as_f64().unwrap_or(-1.0)
}

/// The primary by its process, the shadow by its control group.
#[test]
fn under_load_both_servers_use_cpu_and_a_dead_one_is_missing() -> Result<()> {
    let lab = lab_builder()?.up()?;
    let group = Group::new(lab.name())?;
    let mut primary = ListsServer::on(&lab, Host::Primary, &["--volatile"])?;
    let mut shadow = ListsServer::on(&lab, Host::Shadow, &["--volatile"])?;
    group.take(shadow.process().id())?;
    let text = policy(
        &format!("hook = \"{}\"", hook()?),
        &format!("resources = {{ source = \"cgroup\", path = \"/{}\" }}", group.name),
    )?;
    let process =
        format!("resources = {{ source = \"process\", pid = {} }}\n[shadow]", primary.process().id());
    let gateway = Gateway::start(&lab, &text.replace("[shadow]", &process))?;
    let mut scene = Scene { gateway, servers: [Some(primary), Some(shadow)], lab }.joined()?;
    scene.ctl(&["weight", "shop", "50"])?;
    let mut config = scene.client(20);
    config.think = Duration::from_millis(1);
    config.duration = Some(Duration::from_secs(600));
    let client = scene.start_client(config)?;
    let mut seen = Value::Null;
    let both = wait_for("both servers' CPU", SOON, || {
        seen = scene.ctl(&["resources", "shop"]).unwrap_or_default();
        let busy = |side| {
            let network = now(&seen, side, "received") > 0.0 && now(&seen, side, "sent") > 0.0;
            now(&seen, side, "cpu") > 0.0
                && now(&seen, side, "memory") > 0.0
                && network
                && now(&seen, side, "reads") > 0.0
        };
        busy(0) && busy(1) && now(&seen, 0, "writes") > 0.0
    });
    both.with_context(|| format!("{seen:#}"))?;
    println!("{}", scene.lab.host(Host::Gateway).check(&mut scene.gateway.command(&["resources", "shop"]))?);
    ensure!(seen["kept"]["failure"].is_null(), "{}", seen["kept"]);
    let mean = metric(&seen, 0, "cpu")["mean"].as_f64().unwrap_or_default();
    ensure!(mean > 0.0, "nothing was kept: {seen:#}");
    all_answered(&client.stop()?)?;
    // The requests' rate falls to zero, for it is known; a dead server's CPU is missing, for it isn't.
    scene.servers[0] = None;
    let dead = wait_for("the dead server to be missing", SOON, || {
        seen = scene.ctl(&["resources", "shop"]).unwrap_or_default();
        metric(&seen, 0, "cpu")["missing"] == "gone" && now(&seen, 0, "reads") == 0.0
    });
    dead.with_context(|| format!("{seen:#}"))?;
    ensure!(metric(&seen, 0, "cpu")["now"].is_null(), "{seen:#}");
    // What was kept outlives the daemon.
    scene.gateway.stop()?;
    scene.gateway.run(&[])?;
    let again = wait_for("the series to be read again", SOON, || {
        seen = scene.ctl(&["resources", "shop"]).unwrap_or_default();
        metric(&seen, 0, "cpu")["mean"].as_f64().is_some_and(|mean| mean > 0.0)
    });
    again.with_context(|| format!("{seen:#}"))?;
    drop(scene);
    drop(group);
    Ok(())
}
