//! nginx on a host, with a configuration made for it.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::net::{Host, Lab, Namespace, Process};
use crate::wait::wait_for;

/// How long nginx may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);
/// The unit of its files, in bytes.
const KIB: usize = 1024;

/// What nginx shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Serve `GET /1k` and `GET /100k` (so many times 1,024 bytes of text), `GET /name` and `POST /post` by itself.
    Server {
        /// What `/name` answers, and `X-Server` in every answer.
        name: String,
    },
    /// Pass every request on to the primary and, by nginx's own `mirror`, to the shadow too: what the gateway is
    /// measured against.
    Mirror {
        /// The server whose answers count.
        primary: SocketAddr,
        /// The server whose answers are thrown away.
        shadow: SocketAddr,
    },
}

/// Limits of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Requests before nginx closes it.
    pub requests: u32,
    /// Seconds that it may be idle.
    pub idle_seconds: u32,
}

impl Default for KeepAlive {
    /// Practically without limits; nginx's own are 1,000 and 75.
    fn default() -> Self {
        Self { requests: 100_000_000, idle_seconds: 3600 }
    }
}

/// A running nginx of one process; dropped, it is killed and its files are removed.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    directory: TempDir,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Nginx {
    /// Starts nginx in `namespace` and returns once it answers.
    ///
    /// # Errors
    /// If nginx isn't installed, or refuses; its error log is in the error.
    pub fn start(
        namespace: &Namespace,
        listen: SocketAddr,
        role: &Role,
        keep_alive: KeepAlive,
    ) -> Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("lab-nginx-").tempdir().context("make a directory")?;
        let root = directory.path();
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(root.join(name), bytes).with_context(|| format!("write {name} for nginx"))
        };
        std::fs::create_dir(root.join("html")).context("make a directory")?;
        write("html/1k", text(KIB).as_bytes())?;
        write("html/100k", text(100 * KIB).as_bytes())?;
        write(
            "nginx.conf",
            configuration(&root.display().to_string(), listen, role, keep_alive)?.as_bytes(),
        )?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(root).arg("-c").arg(root.join("nginx.conf"));
        command.arg("-e").arg(root.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = namespace.spawn(&mut command).context("is the package nginx-light there?")?;
        let answers = || !process.is_running() || TcpStream::connect_timeout(&listen, PATIENCE).is_ok();
        let waited = namespace.run(|| wait_for("nginx to listen", PATIENCE, answers))?;
        if waited.is_err() || !process.is_running() {
            let log = std::fs::read_to_string(root.join("error.log")).unwrap_or_default();
            bail!("nginx doesn't listen on {listen}: {}", log.trim());
        }
        Ok(Self { process, directory, address: listen })
    }

    /// Starts a server of that name on `host` of `lab`, where the service is.
    ///
    /// # Errors
    /// As [`Nginx::start`].
    pub fn on(lab: &Lab, host: Host, name: &str, keep_alive: KeepAlive) -> Result<Self> {
        let role = Role::Server { name: name.to_owned() };
        Self::start(&lab.host(host), host.service().into(), &role, keep_alive)
    }

    /// The process: stopped, the whole server stands still.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it complained about.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn error_log(&self) -> Result<String> {
        std::fs::read_to_string(self.directory.path().join("error.log")).context("read nginx's error log")
    }
}

/// The configuration. One process does all: it can be stopped and killed as one, and takes one core, as each server of
/// the lab does.
fn configuration(root: &str, listen: SocketAddr, role: &Role, keep_alive: KeepAlive) -> Result<String> {
    let KeepAlive { requests, idle_seconds } = keep_alive;
    let mut conf = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {root}/pid;\nworker_rlimit_nofile 65536;\n\
         events {{ worker_connections 16384; }}\nhttp {{\n\
         access_log off;\nclient_max_body_size 0;\nsendfile on;\ntcp_nopush on;\nopen_file_cache max=100;\n\
         default_type text/plain;\nkeepalive_requests {requests};\nkeepalive_timeout {idle_seconds}s;\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        writeln!(conf, "{kind}_temp_path {root}/{kind};")?;
    }
    match role {
        Role::Server { name } => write!(
            conf,
            "server {{\nlisten {listen} backlog=4096;\nadd_header X-Server {name};\nroot {root}/html;\n\
             location = /name {{ return 200 \"{name}\\n\"; }}\nlocation = /post {{ return 200 \"posted\\n\"; }}\n}}\n"
        )?,
        Role::Mirror { primary, shadow } => {
            for (name, server) in [("primary", primary), ("shadow", shadow)] {
                writeln!(
                    conf,
                    "upstream {name} {{ server {server}; keepalive 512; keepalive_requests {requests}; \
                     keepalive_timeout {idle_seconds}s; }}"
                )?;
            }
            write!(
                conf,
                "proxy_http_version 1.1;\nproxy_set_header Connection \"\";\n\
                 server {{\nlisten {listen} backlog=4096;\n\
                 location / {{ mirror /mirror; proxy_pass http://primary; }}\n\
                 location = /mirror {{ internal; proxy_pass http://shadow$request_uri; }}\n}}\n"
            )?;
        }
    }
    conf.push_str("}\n");
    Ok(conf)
}

/// So many bytes of lines: what its files are made of.
pub fn text(length: usize) -> String {
    (0..length).map(|at| if at % 64 == 63 { '\n' } else { char::from(b'a' + (at % 26) as u8) }).collect()
}
