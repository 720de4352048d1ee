//! `mirror top` in a terminal of its own, beside a daemon that answers what it is told to.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex,
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};

use axum::{Json, Router, routing::get};
use nix::pty::{OpenptyResult, Winsize, openpty};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::{net::UnixListener, runtime::Runtime};

const STATUS: &str = include_str!("../src/top/draw/status.json");
/// A condition that doesn't hold by then never will.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon, and what it was told.
struct Daemon {
    socket: PathBuf,
    told: Arc<Mutex<Vec<(String, Value)>>>,
    runtime: Option<Runtime>,
    _folder: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut daemon = Self {
            socket: folder.path().join("control.sock"),
            told: Arc::default(),
            runtime: None,
            _folder: folder,
        };
        daemon.serve();
        daemon
    }

    fn serve(&mut self) {
        let app: Value = serde_json::from_str(STATUS).unwrap();
        let status = json!({ "pid": 1, "devices": [], "apps": [app] });
        let told = Arc::clone(&self.told);
        let moved = json!({ "phase": "Idle", "authority": "primary", "weight": 40.0, "epoch": 13 });
        let keep = move |path: axum::http::Uri, Json(body): Json<Value>| {
            told.lock().unwrap().push((path.path().to_owned(), body));
            let moved = moved.clone();
            async move { Json(moved) }
        };
        let router = Router::new()
            .route("/status", get(move || async move { Json(status) }))
            .fallback(axum::routing::post(keep));
        let runtime = Runtime::new().unwrap();
        let _ = std::fs::remove_file(&self.socket);
        let listener = runtime.block_on(async { UnixListener::bind(&self.socket) }).unwrap();
        runtime.spawn(async move { axum::serve(listener, router).await });
        self.runtime = Some(runtime);
    }

    fn stop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// `mirror top` on a terminal.
struct Top {
    child: Child,
    keys: File,
    screen: Arc<Mutex<vt100::Parser>>,
    ended: Option<Receiver<()>>,
}

impl Top {
    fn start(daemon: &Daemon, (columns, lines): (u16, u16)) -> Self {
        let size = Winsize { ws_row: lines, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let OpenptyResult { master, slave } = openpty(&size, None).unwrap();
        // A copy in another test's child would keep this terminal open.
        for end in [&master, &slave] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC).unwrap();
        }
        let (stdin, stdout) = (slave.try_clone().unwrap(), slave.try_clone().unwrap());
        // A session of its own, with this as its terminal: Ctrl-C and the size are the terminal's.
        let child = Command::new("setsid")
            .args(["--ctty", env!("CARGO_BIN_EXE_mirror"), "top", "shop", "--socket"])
            .arg(&daemon.socket)
            .stdin(stdin)
            .stdout(stdout)
            .stderr(slave)
            .spawn()
            .expect("setsid, of util-linux");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(lines, columns, 0)));
        let (mut from, to) = (File::from(master.try_clone().unwrap()), Arc::clone(&screen));
        let (end, ended) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            // It fails once nobody has the other end any more.
            while let Ok(n @ 1..) = from.read(&mut bytes) {
                to.lock().unwrap().process(&bytes[..n]);
            }
            let _ = end.send(());
        });
        Self { child, keys: File::from(master), screen, ended: Some(ended) }
    }

    fn text(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn see(&self, part: &str) {
        let holds = || self.text().contains(part);
        assert!(wait_for(holds), "no `{part}` in\n{}", self.text());
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for its end; returns how, and whether the terminal is as it was found.
    fn end(mut self) -> (ExitStatus, bool) {
        let mut status = None;
        assert!(
            wait_for(|| {
                status = self.child.try_wait().unwrap();
                status.is_some()
            }),
            "it doesn't end:\n{}",
            self.text()
        );
        // Nobody has the terminal any more: what was written to it is read to its end.
        let ended = self.ended.take().unwrap();
        assert!(ended.recv_timeout(PATIENCE).is_ok(), "the terminal is still open");
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        (status.unwrap(), !screen.alternate_screen() && !screen.hide_cursor())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        // Where a test failed it still runs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_for(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

#[test]
fn it_shows_asks_back_commands_and_leaves_the_terminal_as_it_was() {
    let daemon = Daemon::start();
    let mut top = Top::start(&daemon, (100, 24));
    top.see("dwelling: 312 s more");
    assert!(top.screen.lock().unwrap().screen().alternate_screen());
    top.press("w40\r");
    top.see("give the shadow 40 % of the reads?   y/n");
    assert!(daemon.told.lock().unwrap().is_empty(), "nothing is done before the yes");
    top.press("y");
    top.see("weight: done: authority primary, weight 40 %");
    let told = daemon.told.lock().unwrap().clone();
    assert_eq!(told, [("/weight".to_owned(), json!({ "app": "shop", "weight": 40.0 }))]);
    top.press("q");
    let (status, restored) = top.end();
    assert!(status.success() && restored);
}

#[test]
fn signals_and_control_c_restore_the_terminal() {
    for signal in [Some(Signal::INT), Some(Signal::TERM), Some(Signal::HUP), None] {
        let daemon = Daemon::start();
        let mut top = Top::start(&daemon, (100, 24));
        top.see("Shifting");
        match signal {
            Some(signal) => kill_process(Pid::from_child(&top.child), signal).unwrap(),
            None => top.press("\x03"),
        }
        let (status, restored) = top.end();
        assert!(status.success() && restored, "{signal:?}: {status}");
    }
}

#[test]
fn a_daemon_that_goes_and_comes_back_is_said() {
    let mut daemon = Daemon::start();
    let mut top = Top::start(&daemon, (100, 24));
    top.see("Shifting");
    daemon.stop();
    top.see("no daemon answers");
    top.see("dwelling: 312 s more");
    daemon.serve();
    assert!(wait_for(|| !top.text().contains("no daemon answers")), "{}", top.text());
    top.press("q");
    assert!(top.end().0.success());
}

#[test]
fn a_terminal_that_is_too_small_is_told() {
    let daemon = Daemon::start();
    let mut top = Top::start(&daemon, (40, 10));
    top.see("needs 80 x 24");
    top.press("q");
    assert!(top.end().0.success());
}

#[test]
fn without_a_terminal_it_says_what_does_it_there() {
    let daemon = Daemon::start();
    for json in [&[][..], &["--json"]] {
        let command = Command::new(env!("CARGO_BIN_EXE_mirror"))
            .args(["top", "--socket"])
            .arg(&daemon.socket)
            .args(json)
            .output()
            .unwrap();
        let said = String::from_utf8(command.stderr).unwrap();
        assert!(!command.status.success() && said.contains("mirror status --watch"), "{said}");
    }
}
