//! The whole lab without a gateway program: the kernel forwards, the checker drives, the proof agrees.
//! Run with `--include-ignored`, as root.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lab::capture::{Capture, CaptureSpec};
use lab::checker::{Config, Event, Summary, read_journals, run, send_command};
use lab::http_client::{get, post, put};
use lab::net::{Host, Lab, LinkSpec, Neighbours, SERVICE_PORT};
use lab::programs::ListsServer;
use lab::proof::{parse_trace, settled_reads};
use lab::wait::wait_for;
use rustix::process::Signal;

fn config(host: Host, requests: u64) -> Config {
    let target = (host.address(), SERVICE_PORT).into();
    Config {
        connections: 20,
        requests: Some(requests),
        timeout: Duration::from_secs(5),
        ..Config::new(target)
    }
}

fn check(lab: &Lab, config: Config) -> Summary {
    lab.host(Host::Client).run(|| run(config, |_| ())).unwrap().unwrap()
}

fn prove(journals: &Path, primary: &Path, shadow: Option<&Path>) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_proof"));
    command.arg("--journals").arg(journals).arg("--primary").arg(primary);
    if let Some(shadow) = shadow {
        command.arg("--shadow").arg(shadow);
    }
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

#[test]
#[ignore = "needs root"]
fn a_run_through_the_kernel_is_proven_and_planted_faults_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let [journals, primary_file, shadow_file] =
        ["journals", "primary", "shadow"].map(|name| dir.path().join(name));
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let primary = ListsServer::on(&lab, Host::Primary, &["--file", primary_file.to_str().unwrap()]).unwrap();
    let shadow = ListsServer::on(&lab, Host::Shadow, &["--file", shadow_file.to_str().unwrap()]).unwrap();
    let capture =
        Capture::start(&lab.host(Host::Primary), &dir.path().join("pcap"), &CaptureSpec::default()).unwrap();

    let summary = check(&lab, Config { log: Some(journals.clone()), ..config(Host::Primary, 4000) });
    assert!(summary.is_ok(), "{:?}", summary.failures);
    assert_eq!((summary.requests, summary.reads + summary.writes, summary.connections), (4000, 4000, 20));
    assert_eq!(summary.windows[0].servers["primary"].read_share, 1.0);
    let captured = capture.stop().unwrap();
    assert!(captured.packets >= 8000 && captured.dropped == 0, "{captured:?}");

    let (status, text) = prove(&journals, &primary_file, None);
    assert_eq!(status, 0, "{text}");
    assert!(
        text.contains("4000 requests, 0 failed") && text.contains("0 lost, 0 doubled, 0 out of order"),
        "{text}"
    );
    // The shadow has nothing yet: every write is lost there.
    let (status, text) = prove(&journals, &primary_file, Some(&shadow_file));
    assert_eq!(status, 1);
    assert!(text.contains("lost: shadow") && text.contains(&format!("{} lost", summary.writes)), "{text}");

    // The hook of a join copies the lists.
    lab.host(Host::Client)
        .check(Command::new(env!("CARGO_BIN_EXE_lists")).args([
            "copy",
            "--from",
            &format!("http://{}", primary.address),
            "--to",
            &format!("http://{}", shadow.address),
        ]))
        .unwrap();
    let (status, text) = prove(&journals, &primary_file, Some(&shadow_file));
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("both states equal"), "{text}");

    let dump = std::fs::read_to_string(&shadow_file).unwrap();
    let lines: Vec<&str> = dump.split_inclusive('\n').collect();
    let plant = |lines: &[&str]| {
        std::fs::write(&shadow_file, lines.concat()).unwrap();
        prove(&journals, &primary_file, Some(&shadow_file))
    };
    let mut swapped = lines.clone();
    swapped.swap(0, 1);
    let mut doubled = lines.clone();
    doubled.insert(1, lines[0]);
    for (what, lines) in [("lost", &lines[1..]), ("misordered", &swapped), ("doubled", &doubled)] {
        let (status, text) = plant(lines);
        assert_eq!(status, 1, "{what}: {text}");
        assert!(text.starts_with(&format!("{what}: shadow")), "{what}: {text}");
    }
    lab.down().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_server_that_dies_or_hangs_or_closes_fails_the_check() {
    let lab = Lab::builder().forwarding(true).neighbours(Neighbours::Static).xdp_ready(true).up().unwrap();
    let closing =
        ListsServer::on(&lab, Host::Shadow, &["--volatile", "--max-requests", "5", "--close-silently"])
            .unwrap();
    let summary = check(&lab, config(Host::Shadow, 1000));
    assert_eq!((summary.failed_connections, summary.failed_requests), (20, 20), "{:?}", summary.failures);
    assert_eq!(summary.reads + summary.writes, 100, "five answers a connection");
    assert!(summary.failures[0].contains("closed"), "{:?}", summary.failures);
    closing.kill();
    let summary = check(&lab, config(Host::Shadow, 1000));
    assert_eq!((summary.connections, summary.failed_connections), (0, 20), "refused");

    let mut hanging = ListsServer::on(&lab, Host::Primary, &["--volatile"]).unwrap();
    let mut stopped = false;
    let hang = Config { duration: Some(Duration::from_secs(3)), requests: None, ..config(Host::Primary, 0) };
    let hang = Config { timeout: Duration::from_millis(300), ..hang };
    let (client, process) = (lab.host(Host::Client), hanging.process());
    let summary = client
        .run(|| {
            run(hang, |event| {
                if matches!(event, Event::Tick(_)) && !stopped {
                    stopped = true;
                    process.signal(Signal::STOP).unwrap();
                }
            })
        })
        .unwrap()
        .unwrap();
    assert_eq!(summary.failed_connections, 20, "{:?}", summary.failures);
    assert!(summary.failures.iter().all(|failure| failure.contains("timeout")), "{:?}", summary.failures);
    assert!(summary.reads > 0);
}

#[test]
#[ignore = "needs root"]
fn a_server_that_loses_a_write_fails_the_check() {
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let server = ListsServer::on(&lab, Host::Primary, &["--volatile"]).unwrap();
    let client = lab.host(Host::Client);
    client.run(|| post(server.address, "/lists/r.c3", b"r.c9-1").unwrap()).unwrap();
    let summary = check(&lab, config(Host::Primary, 1000));
    assert!(
        summary.failures.iter().all(|failure| failure.starts_with("r.c3-") && failure.contains("wrong-list"))
    );
    assert!(summary.failed_requests > 10 && summary.failed_connections == 0, "{summary:?}");
    client.run(|| put(server.address, "/load", b"").unwrap()).unwrap();
    assert_eq!(client.run(|| get(server.address, "/dump").unwrap()).unwrap(), b"");
}

#[test]
#[ignore = "needs root"]
fn marks_divide_a_run_into_windows() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control");
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let _server = ListsServer::on(&lab, Host::Primary, &["--volatile"]).unwrap();
    let config = Config {
        requests: None,
        duration: Some(Duration::from_secs(30)),
        control: Some(socket.clone()),
        think: Duration::from_millis(2),
        ..config(Host::Primary, 0)
    };
    let summary = std::thread::scope(|scope| {
        let run = scope.spawn(|| check(&lab, config));
        wait_for("the control socket", Duration::from_secs(10), || socket.exists()).unwrap();
        for mark in ["w25", "w50", "w25"] {
            send_command(&socket, &format!("mark {mark}")).unwrap();
            std::thread::sleep(Duration::from_millis(50)); // not synchronisation: requests begin in each visit
        }
        assert!(send_command(&socket, "dance").unwrap_err().to_string().contains("mark NAME"));
        send_command(&socket, "stop").unwrap();
        run.join().unwrap()
    });
    assert!(summary.is_ok(), "{:?}", summary.failures);
    assert!(summary.seconds < 20.0, "stopped by command");
    let names: Vec<&str> = summary.windows.iter().map(|window| window.name.as_str()).collect();
    assert_eq!(names, ["start", "w25", "w50"]);
    let counts: Vec<u64> =
        summary.windows[1..].iter().map(|window| window.servers["primary"].reads.count).collect();
    assert!(counts[0] > counts[1] && counts[1] > 0, "two visits against one: {counts:?}");
}

#[test]
#[ignore = "needs root"]
fn a_trace_tells_settled_reads_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let [journals, trace] = ["journals", "trace"].map(|name| dir.path().join(name));
    let lab = Lab::builder().forwarding(true).up().unwrap();
    let options = ["--volatile", "--trace", trace.to_str().unwrap()];
    let mut server = ListsServer::on(&lab, Host::Primary, &options).unwrap();
    let config = Config {
        log: Some(journals.clone()),
        think: Duration::from_millis(2),
        ..config(Host::Primary, 1000)
    };
    let summary = check(&lab, config);
    assert!(summary.is_ok(), "{:?}", summary.failures);
    server.process().signal(Signal::TERM).unwrap();
    server.process().wait(Duration::from_secs(5)).unwrap();
    let trace = parse_trace(&std::fs::read_to_string(&trace).unwrap()).unwrap();
    assert_eq!(trace.len(), 1000);
    let settled = settled_reads(&read_journals(&journals).unwrap(), &[trace]);
    let window = &settled.windows["start"];
    assert_eq!(window.reads["primary"], summary.reads);
    // With one server a request never begins before it has answered the last one.
    assert_eq!(window.unsettled, 0);
    assert!(window.settled["primary"] > summary.reads / 2, "{window:?}");
}

#[test]
#[ignore = "needs root"]
fn two_labs_stand_side_by_side_and_leave_nothing_behind() {
    let labs =
        [Lab::builder().up().unwrap(), Lab::builder().link(Host::Shadow, LinkSpec::mtu(1400)).up().unwrap()];
    let names = labs.each_ref().map(|lab| lab.name().to_owned());
    for lab in &labs {
        assert!(lab::net::all_labs().unwrap().contains(&lab.name().to_owned()));
        // A process that its owner forgot.
        lab.host(Host::Shadow).spawn(Command::new("sleep").arg("1000")).unwrap().leave();
    }
    let mtu = labs[1].host(Host::Gateway).sh("ip link show shadow0").unwrap();
    assert!(mtu.contains("mtu 1400"), "{mtu}");
    let sleeper = labs[0].host(Host::Shadow).processes().unwrap();
    assert_eq!(sleeper.len(), 1);
    drop(labs);
    let left = lab::net::all_labs().unwrap();
    assert!(names.iter().all(|name| !left.contains(name)), "{left:?}");
    let gone = || !Path::new("/proc").join(sleeper[0].to_string()).join("exe").exists();
    wait_for("the sleeper to be gone", Duration::from_secs(5), gone).unwrap();
}
