//! Commands that only read need no name where one application runs, and name them where several do.

use std::{path::Path, process::Command};

use axum::{Json, Router, http::Uri, routing::get};
use serde_json::{Value, json};
use tokio::{net::UnixListener, runtime::Runtime};

const STATUS: &str = include_str!("../src/top/draw/status.json");

/// Serves the status of these applications, and to whatever else is asked an answer that says what that was.
fn serve(runtime: &Runtime, socket: &Path, names: &[&str]) {
    let app = |name: &&str| {
        let mut app: Value = serde_json::from_str(STATUS).unwrap();
        app["name"] = json!(name);
        app
    };
    let status = json!({ "pid": 1, "devices": [], "apps": names.iter().map(app).collect::<Vec<_>>() });
    let asked = |uri: Uri| async move {
        (axum::http::StatusCode::CONFLICT, Json(json!({ "error": format!("asked {uri}") })))
    };
    let router = Router::new().route("/status", get(move || async move { Json(status) })).fallback(asked);
    let listener = runtime.block_on(async { UnixListener::bind(socket) }).unwrap();
    runtime.spawn(async move { axum::serve(listener, router).await });
}

fn said(socket: &Path, line: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mirror"));
    let output = command.arg("--socket").arg(socket).args(line.split(' ')).output().unwrap();
    String::from_utf8(output.stderr).unwrap().trim().to_owned()
}

/// What each of them asks the daemon, of the only application.
const READING: [(&str, &str); 7] = [
    ("divergence", "/divergence?app=shop&limit=10"),
    ("flows", "/flows?limit=50"),
    ("forecast", "/forecast?app=shop"),
    ("history", "/history?app=shop&limit=50"),
    ("report", "/history?app=shop&limit=100000"),
    ("resources", "/resources?app=shop&since=600"),
    ("why", "/migration"),
];

#[test]
fn what_only_reads_needs_no_name_where_there_is_one_and_names_them_where_there_are_several() {
    let (folder, runtime) = (tempfile::tempdir().unwrap(), Runtime::new().unwrap());
    let [one, two] = ["one.sock", "two.sock"].map(|name| folder.path().join(name));
    serve(&runtime, &one, &["shop"]);
    serve(&runtime, &two, &["blog", "shop"]);
    for (command, path) in READING {
        let asked = format!("mirror: asked {path}");
        assert_eq!(said(&one, command), asked, "{command}");
        assert_eq!(said(&one, &format!("{command} shop")), asked, "{command} shop");
        assert_eq!(said(&two, &format!("{command} shop")), asked, "{command} shop");
        let several = "mirror: there are several applications here, name one: blog, shop";
        assert_eq!(said(&two, command), several, "{command}");
        let unknown = "mirror: no application shoe here; there is blog, shop";
        assert_eq!(said(&two, &format!("{command} shoe")), unknown, "{command} shoe");
    }
    // All of them are shown.
    assert_eq!(said(&two, "status"), "");
    // What moves something names it.
    for command in ["weight", "join", "cutover", "rollback", "migrate", "abort"] {
        assert!(said(&two, command).contains("required arguments"), "{command}");
    }
}
