//! A shadow that `mirror provision` brings up beside the gateway, from what the primary's own process says.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::{
        fs::PermissionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use lab::{
    gateway::{Gateway, PROVISIONED_NAT, policy_from_process},
    lists::Lists,
    net::{Host, Lab, Namespace, SERVICE_PORT, VIP},
    programs::{ListsServer, binary},
    wait::wait_for,
};
use netns_tests::{SOON, all_answered, hook, lab_builder, nothing_sent_again};
use serde_json::Value;
use tempfile::TempDir;

/// A lab with a primary, and what is provisioned from it; dropped, that is removed.
struct Stage {
    primary: ListsServer,
    folder: TempDir,
    text: String,
    lab: Lab,
}

impl Stage {
    /// A primary with a file, and a policy from its process.
    fn new() -> Result<Self> {
        let lab = lab_builder()?.forwarding(true).up()?;
        let folder = tempfile::Builder::new().prefix("provision-").tempdir()?;
        let file = folder.path().join("data/lists");
        fs::create_dir(folder.path().join("data"))?;
        let mut primary = ListsServer::on(&lab, Host::Primary, &["--file", &file.display().to_string()])?;
        let hook = format!("hook = \"{}\"", hook()?);
        let text = policy_from_process(&lab, primary.process().id(), &hook)?;
        Ok(Self { primary, folder, text, lab })
    }

    fn policy(&self) -> PathBuf {
        self.folder.path().join("policy.toml")
    }

    /// Runs the binary on the gateway's host, with a fault where one is wanted.
    fn mirror(&self, arguments: &[&str], fault: Option<&str>) -> Result<Output> {
        fs::write(self.policy(), &self.text)?;
        let mut command = Command::new(binary("mirror")?);
        command.arg("--json").arg("--state").arg(self.folder.path().join("state"));
        command.arg("--pins").arg(self.pins()).args(arguments);
        if arguments[0] == "provision" {
            command.arg("--policy").arg(self.policy());
        }
        command.envs(fault.map(|fault| ("MIRROR_FAULT", fault)));
        self.lab.host(Host::Gateway).output(&mut command)
    }

    /// The same for a command that must do what it is told.
    fn done(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.mirror(arguments, None)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "mirror {arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("not JSON from mirror {arguments:?}"))
    }

    /// The same for one that must be refused; what it said.
    fn refused(&self, arguments: &[&str]) -> Result<String> {
        let output = self.mirror(arguments, None)?;
        ensure!(output.status.code() == Some(1), "mirror {arguments:?}: {:?}", output.status);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The same for one that must be killed by a fault.
    fn killed(&self, arguments: &[&str], fault: &str) -> Result<()> {
        let output = self.mirror(arguments, Some(fault))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.signal() == Some(9), "{fault} wasn't reached: {:?} {said}", output.status);
        Ok(())
    }

    /// The namespace and the device of the plan; the control group has the namespace's name.
    fn names(&self) -> Result<(String, String)> {
        let plan = self.done(&["provision", "shop", "--dry-run"])?;
        let steps = plan["steps"].as_array().context("no steps")?;
        let link = steps.iter().find_map(|step| step.get("link")).context("no link")?;
        let name = |field: &str| link[field].as_str().map(str::to_owned).context("no name");
        Ok((name("namespace")?, name("device")?))
    }

    fn namespace(&self) -> Result<Namespace> {
        Ok(Namespace::named(self.names()?.0))
    }

    /// Processes whose output goes to the instance's log: the instance, its children, and whoever would become it.
    fn processes(&self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // It may end meanwhile.
            let Ok(output) = fs::read_link(path.join("fd/1")) else { continue };
            if output.starts_with(self.folder.path().join("state")) {
                found.push(path.display().to_string());
            }
        }
        Ok(found)
    }

    /// Fails unless nothing at all is left.
    fn nothing_left(&self) -> Result<()> {
        let (name, device) = self.names()?;
        ensure!(!Path::new("/run/netns").join(&name).exists(), "the namespace {name} is left");
        for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
            let group = hierarchy?.path().join(&name);
            ensure!(!group.exists(), "{} is left", group.display());
        }
        let links = self.lab.host(Host::Gateway).sh("ip -o link")?;
        ensure!(!links.contains(&device), "the device is left: {links}");
        let state = self.folder.path().join("state/shop");
        ensure!(!state.exists(), "{} is left", state.display());
        self.ended()
    }

    /// Waits until no process is left.
    fn ended(&self) -> Result<()> {
        let none = || self.processes().is_ok_and(|found| found.is_empty());
        Ok(wait_for("the end of all processes", SOON, none)?)
    }

    /// What removing it is refused with, while a gateway runs.
    fn refused_by(&self, gateway: &Gateway) -> Result<String> {
        ensure!(gateway.pins() == self.pins(), "the gateway pins elsewhere");
        self.refused(&["deprovision", "shop"])
    }

    fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.lab.name())
    }

    /// What a server has.
    fn lists(&self, host: Host) -> Result<Lists> {
        let target = SocketAddr::from(host.service());
        let dump = self.lab.host(Host::Gateway).run(|| lab::http_client::get(target, "/dump"))??;
        Ok(lab::lists::parse_dump(&String::from_utf8(dump)?)?)
    }

    /// Appends to a list of the shadow alone.
    fn write_to_shadow(&self, key: &str, id: &str) -> Result<()> {
        let target = SocketAddr::from(Host::Shadow.service());
        let answer = self.lab.host(Host::Gateway).run(|| -> Result<String> {
            let mut stream = TcpStream::connect(target)?;
            let head = format!("POST /lists/{key} HTTP/1.1\r\nhost: shadow\r\nconnection: close");
            write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{id}", id.len())?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })??;
        ensure!(answer.starts_with("HTTP/1.1 2"), "{answer}");
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let removed = self.mirror(&["deprovision", "shop", "--force"], None);
        if !removed.is_ok_and(|output| output.status.success()) {
            eprintln!("NOT deprovisioned: {}", self.folder.path().display());
        }
    }
}

#[test]
fn a_shadow_made_from_the_primary_s_own_process_is_joined_and_has_every_write() -> Result<()> {
    let stage = Stage::new()?;
    let planned = stage.done(&["provision", "shop", "--dry-run"])?;
    let steps = planned["steps"].as_array().context("no steps")?.len();
    let made = stage.done(&["provision", "shop"])?;
    ensure!(made["steps"].as_array().is_some_and(|done| done.len() == steps), "{made}");
    ensure!(made["instance"]["limits"]["memory_bytes"] == 64 << 20, "{made}");
    let again = stage.done(&["provision", "shop"])?;
    ensure!(again["instance"]["pid"] == made["instance"]["pid"], "it was started again: {again}");

    let policy = stage.policy().display().to_string();
    let lines = stage.done(&["doctor", &policy])?;
    let nat =
        lines.as_array().into_iter().flatten().find(|line| line["check"] == "nat address of the shadow");
    ensure!(nat.is_some_and(|line| line["level"] == "ok"), "{lines}");

    let gateway = Gateway::start(&stage.lab, &stage.text)?;
    gateway.ctl(&["join", "shop"])?;
    let target = SocketAddr::from((VIP, SERVICE_PORT));
    let mut config = lab::checker::Config::new(target);
    (config.connections, config.requests) = (4, Some(400));
    let client = stage.lab.host(Host::Client);
    let summary = client.run(|| lab::checker::run(config, |_| {}))??;
    all_answered(&summary)?;
    // A checksum that nobody filled in, or a frame that veth dropped, would be sent again.
    nothing_sent_again(&stage.lab, &summary)?;
    let primary = stage.lists(Host::Primary)?;
    ensure!(!primary.is_empty(), "nothing was written");
    ensure!(stage.lists(Host::Shadow)? == primary, "the states differ");

    // Clients would notice.
    gateway.ctl(&["weight", "shop", "50"])?;
    let said = stage.refused_by(&gateway)?;
    ensure!(said.contains("answers reads"), "{said}");
    gateway.ctl(&["cutover", "shop"])?;
    let said = stage.refused_by(&gateway)?;
    ensure!(said.contains("has the authority"), "{said}");
    gateway.ctl(&["rollback", "shop"])?;
    drop(gateway);
    stage.done(&["deprovision", "shop"])?;
    stage.nothing_left()
}

#[test]
fn a_daemon_that_runs_already_finds_the_shadow_and_finds_it_again() -> Result<()> {
    let stage = Stage::new()?;
    let gateway = Gateway::start(&stage.lab, &stage.text)?;
    let load = |run: String| -> Result<()> {
        let mut config = lab::checker::Config::new(SocketAddr::from((VIP, SERVICE_PORT)));
        (config.connections, config.requests, config.run) = (2, Some(40), run);
        let client = stage.lab.host(Host::Client);
        all_answered(&client.run(|| lab::checker::run(config, |_| {}))??)
    };
    let (_, device) = stage.names()?;
    let attached = format!("{device}: {}", hook()?.to_uppercase());
    for round in 1..=2 {
        stage.done(&["provision", "shop"])?;
        // To this link, not to the last one of its name.
        let found = || gateway.log().matches(&attached).count() == round;
        wait_for("the daemon to find the link", SOON, found).with_context(|| gateway.log())?;
        gateway.ctl(&["join", "shop"])?;
        load(format!("with{round}"))?;
        ensure!(stage.lists(Host::Shadow)? == stage.lists(Host::Primary)?, "the states differ");
        stage.done(&["deprovision", "shop"])?;
        load(format!("without{round}"))?;
        let out = || gateway.status().is_ok_and(|status| status["shadow"]["in_sync"] == false);
        wait_for("the shadow to be out of sync", SOON, out)?;
    }
    Ok(())
}

#[test]
fn killed_between_any_two_steps_it_is_completed_or_removed() -> Result<()> {
    let stage = Stage::new()?;
    for fault in FAULTS {
        stage.killed(&["provision", "shop"], fault)?;
        stage.done(&["deprovision", "shop"])?;
        stage.nothing_left().with_context(|| format!("removed after {fault}"))?;
        stage.killed(&["provision", "shop"], fault)?;
        let made = stage.done(&["provision", "shop"])?;
        ensure!(made["instance"]["standing"] == "running", "completed after {fault}: {made}");
        ensure!(stage.done(&["instance"])?["healthy"] == true, "completed after {fault}");
        let processes = stage.processes()?;
        ensure!(processes.len() == 1, "after {fault} there are {processes:?}");
        stage.done(&["deprovision", "shop"])?;
        stage.nothing_left().with_context(|| format!("completed after {fault}, and removed"))?;
    }
    Ok(())
}

/// Between every two steps, and within those that make two things.
const FAULTS: [&str; 21] = [
    "record-new",
    "provision-begun",
    "provision-group-bare",
    "provision-group-done",
    "provision-group-noted",
    "provision-namespace-file",
    "provision-namespace-done",
    "provision-namespace-noted",
    "provision-link-bare",
    "provision-link-done",
    "provision-link-noted",
    "provision-egress-done",
    "provision-egress-noted",
    "provision-copy-bare",
    "provision-copy-done",
    "provision-copy-noted",
    "provision-start-unknown",
    "provision-start-waiting",
    "provision-start-done",
    "provision-start-noted",
    "provision-check-done",
];

#[test]
fn killed_while_removing_it_is_removed_or_made_anew() -> Result<()> {
    let stage = Stage::new()?;
    let faults = ["begun", "ended", "link-removed", "namespace-removed", "group-removed", "files-removed"];
    for fault in faults.map(|point| format!("deprovision-{point}")) {
        stage.done(&["provision", "shop"])?;
        stage.killed(&["deprovision", "shop"], &fault)?;
        stage.done(&["deprovision", "shop"])?;
        stage.nothing_left().with_context(|| format!("removed after {fault}"))?;
        stage.done(&["provision", "shop"])?;
        stage.killed(&["deprovision", "shop"], &fault)?;
        stage.done(&["provision", "shop"])?;
        ensure!(stage.done(&["instance", "shop"])?["healthy"] == true, "made anew after {fault}");
        stage.done(&["deprovision", "shop"])?;
        stage.nothing_left().with_context(|| format!("made anew after {fault}, and removed"))?;
    }
    Ok(())
}

#[test]
fn a_step_that_fails_leaves_nothing_and_says_why_and_what_to_do() -> Result<()> {
    let mut stage = Stage::new()?;
    let right = stage.text.clone();
    stage.text = right.replace("\"--listen\"", "\"--lissen\"");
    let said = stage.refused(&["provision", "shop"])?;
    ensure!(
        said.contains("it has ended") && said.contains("--lissen") && said.contains("nothing is left"),
        "{said}"
    );
    stage.nothing_left()?;
    stage.text =
        right.replace("health = \"/ping\"", "health = \"/no-such-page\"\nhealth_deadline = \"300ms\"");
    let said = stage.refused(&["provision", "shop"])?;
    ensure!(said.contains("within 0.3 s") && said.contains("404"), "{said}");
    stage.nothing_left()?;
    stage.text = right.replace(PROVISIONED_NAT, &Host::Shadow.nat_pool()[0].to_string());
    let said = stage.refused(&["provision", "shop", "--dry-run"])?;
    ensure!(said.contains("is an address of shadow0"), "{said}");
    stage.text = right;
    Ok(())
}

#[test]
fn a_shadow_that_has_ended_is_started_again_with_its_own_files() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.done(&["provision", "shop"])?;
    stage.write_to_shadow("key", "an-id-of-the-shadow")?;
    let pid = first["instance"]["pid"].as_u64().context("no pid")?.to_string();
    stage.lab.host(Host::Gateway).sh(&format!("kill -9 {pid}"))?;
    let stopped = || {
        let found = stage.done(&["instance", "shop"]);
        found.is_ok_and(|found| found["standing"] == "stopped" && found["healthy"] == false)
    };
    wait_for("its end to be seen", SOON, stopped)?;
    stage.done(&["provision", "shop"])?;
    ensure!(stage.lists(Host::Shadow)?.contains_key("key"), "its own files were copied anew");
    let data = fs::read_to_string(stage.folder.path().join("data/lists"))?;
    ensure!(data.is_empty(), "the shadow writes to the primary's file: {data}");
    Ok(())
}

#[test]
fn it_runs_as_its_user_writes_to_its_own_files_alone_and_its_children_end_with_it() -> Result<()> {
    let mut stage = Stage::new()?;
    let folder = stage.folder.path().to_owned();
    // The user must get at the program and the files, wherever this was built.
    let program = folder.join("lists");
    fs::copy(binary("lists")?, &program)?;
    let (data, file) = (folder.join("data"), folder.join("data/lists"));
    for (path, mode) in [(&folder, 0o777), (&data, 0o777), (&file, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    let shown = folder.display();
    let script =
        format!("id -un > {shown}/data/user; touch {shown}/outside; sleep 600 & exec {shown}/lists $@");
    let first = format!("command = [\"{}\", ", binary("lists")?.display());
    ensure!(stage.text.contains(&first), "no command in {}", stage.text);
    stage.text = stage
        .text
        .replace(&first, &format!("command = [\"/bin/sh\", \"-c\", \"{script}\", \"sh\", "))
        .replace("user = \"root\"", "user = \"nobody\"");
    stage.done(&["provision", "shop"])?;
    let own = folder.join("state/shop/files/0");
    ensure!(fs::read_to_string(own.join("user"))? == "nobody\n", "another user");
    ensure!(!folder.join("outside").exists(), "it writes to files that aren't its own");
    ensure!(!data.join("user").exists(), "it writes to the primary's files");
    let processes = stage.processes()?;
    ensure!(processes.len() == 2, "no child: {processes:?}");
    stage.done(&["deprovision", "shop"])?;
    stage.nothing_left()
}

#[test]
fn limits_are_changed_while_it_runs_and_kept() -> Result<()> {
    let stage = Stage::new()?;
    let first = stage.done(&["provision", "shop"])?;
    let scaled = stage.done(&["scale", "shop", "--cpu", "0.25", "--memory", "96MiB"])?;
    ensure!(scaled["cpu_millicores"] == 250 && scaled["memory_bytes"] == 96 << 20, "{scaled}");
    // Killed between any two steps: what the kernel has counts, the next one sets both, and nothing is started again.
    for fault in ["scale-half", "scale-set", "record-new", "scale-noted"] {
        stage.killed(&["scale", "shop", "--cpu", "0.75", "--memory", "80MiB"], fault)?;
        let found = stage.done(&["instance", "shop"])?;
        let cpu = if fault == "scale-half" { 250 } else { 750 };
        ensure!(found["limits"]["cpu_millicores"] == cpu && found["healthy"] == true, "{fault}: {found}");
        ensure!(found["limits"]["memory_bytes"] == 80 << 20, "{fault}: {found}");
        let again = stage.done(&["provision", "shop"])?;
        ensure!(
            again["instance"]["pid"] == first["instance"]["pid"],
            "{fault}: it was started again: {again}"
        );
        ensure!(stage.processes()?.len() == 1, "{fault}: {:?}", stage.processes()?);
        let scaled = stage.done(&["scale", "shop", "--cpu", "0.25", "--memory", "96MiB"])?;
        ensure!(scaled["cpu_millicores"] == 250 && scaled["memory_bytes"] == 96 << 20, "{fault}: {scaled}");
    }
    let found = stage.done(&["instance", "shop"])?;
    ensure!(found["pid"] == first["instance"]["pid"], "it was started again: {found}");
    stage.done(&["scale", "shop", "--cpu", "0.5"])?;
    let pid = found["pid"].as_u64().context("no pid")?;
    stage.lab.host(Host::Gateway).sh(&format!("kill -9 {pid}"))?;
    stage.ended()?;
    let again = stage.done(&["provision", "shop"])?;
    ensure!(again["instance"]["limits"]["cpu_millicores"] == 500, "{again}");
    Ok(())
}

/// The owner of the state folder stands for the daemon's user.
#[test]
fn the_owner_of_the_state_folder_may_change_the_limits_and_nobody_else() -> Result<()> {
    const OWNER: u32 = 65_534;
    let stage = Stage::new()?;
    let folder = stage.folder.path();
    // That user must get at the program, wherever this was built.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    let program = folder.join("mirror");
    fs::copy(binary("mirror")?, &program)?;
    let state = folder.join("state");
    fs::create_dir(&state)?;
    std::os::unix::fs::chown(&state, Some(OWNER), Some(OWNER))?;
    stage.done(&["provision", "shop"])?;
    let scale_as = |user: u32, cores: &str| {
        let mut command = Command::new(&program);
        command.arg("--json").arg("--state").arg(&state).args(["scale", "shop", "--cpu", cores]);
        // Without the groups of whoever runs this.
        command.uid(user).gid(user);
        stage.lab.host(Host::Gateway).output(&mut command)
    };
    let output = scale_as(OWNER, "0.5")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{said}");
    let found = stage.done(&["instance", "shop"])?;
    ensure!(found["limits"]["cpu_millicores"] == 500, "{found}");
    let other = scale_as(OWNER - 1, "0.75")?;
    let said = String::from_utf8_lossy(&other.stderr);
    ensure!(other.status.code() == Some(1) && said.contains("mirror provision shop"), "{said}");
    ensure!(stage.done(&["instance", "shop"])?["limits"]["cpu_millicores"] == 500, "another user may");
    Ok(())
}

#[test]
fn it_talks_to_the_listed_addresses_and_to_nobody_else() -> Result<()> {
    let mut stage = Stage::new()?;
    stage.done(&["provision", "shop"])?;
    let primary = stage.primary.address;
    let reach = |namespace: &Namespace| {
        namespace.run(|| TcpStream::connect_timeout(&primary, Duration::from_secs(5)))
    };
    let refused = reach(&stage.namespace()?)?.err().context("it reaches the primary")?;
    ensure!(refused.kind() == ErrorKind::NetworkUnreachable, "{refused}");
    let said = {
        let text = stage.text.replace("egress = []", &format!("egress = [\"{}\"]", primary.ip()));
        std::mem::replace(&mut stage.text, text)
    };
    ensure!(said != stage.text, "no egress list");
    let other = stage.refused(&["provision", "shop"])?;
    ensure!(other.contains("by another plan"), "{other}");
    stage.done(&["deprovision", "shop"])?;
    stage.done(&["provision", "shop"])?;
    reach(&stage.namespace()?)?.context("a listed address can't be reached")?;
    Ok(())
}
