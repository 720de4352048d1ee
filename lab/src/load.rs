//! Public load tools, and what they say as numbers.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::net::Namespace;

/// What to ask for, and how hard.
#[derive(Debug, Clone)]
pub struct Load {
    /// The server.
    pub target: SocketAddr,
    /// The path.
    pub path: String,
    /// The body of a POST; `None`: GET.
    pub post: Option<String>,
    /// Connections at a time.
    pub connections: u32,
    /// How long.
    pub duration: Duration,
    /// A new connection for each request.
    pub new_connections: bool,
    /// Milliseconds between an answer and the connection's next request; only wrk does that.
    pub pause_ms: u32,
}

impl Load {
    /// GET over 50 keep-alive connections for three seconds.
    pub fn get(target: SocketAddr, path: impl Into<String>) -> Self {
        Self {
            target,
            path: path.into(),
            post: None,
            connections: 50,
            duration: Duration::from_secs(3),
            new_connections: false,
            pause_ms: 0,
        }
    }

    fn url(&self) -> String {
        format!("http://{}{}", self.target, self.path)
    }
}

/// What was reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LoadResult {
    /// Answered requests.
    pub requests: u64,
    /// Of those, a second.
    pub requests_per_second: f64,
    /// Requests that failed: connections refused, reset or timed out, and answers that aren't 2xx.
    pub errors: u64,
    /// Median latency in microseconds.
    pub p50_us: u64,
    /// 99th percentile in microseconds.
    pub p99_us: u64,
    /// The greatest in microseconds.
    pub max_us: u64,
}

/// Makes wrk say its results as JSON.
const WRK_DONE: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests":%d,"duration":%d,"errors":%d,"p50":%d,"p99":%d,"max":%d}\n',
    summary.requests, summary.duration, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"#;

#[derive(Deserialize)]
struct WrkSaid {
    requests: u64,
    /// Microseconds, as all that follows.
    duration: u64,
    errors: u64,
    p50: u64,
    p99: u64,
    max: u64,
}

/// Runs wrk (one thread) in `namespace`.
///
/// # Errors
/// If wrk isn't there or fails.
pub fn wrk(namespace: &Namespace, load: &Load) -> Result<LoadResult> {
    let mut script = String::new();
    if let Some(body) = &load.post {
        // Lua's long brackets take a body as it is.
        script += &format!("wrk.method = 'POST'\nwrk.body = [==[{body}]==]\n");
    }
    if load.new_connections {
        script += "wrk.headers['Connection'] = 'close'\n";
    }
    if load.pause_ms > 0 {
        script += &format!("delay = function() return {} end\n", load.pause_ms);
    }
    script += WRK_DONE;
    let file =
        tempfile::Builder::new().prefix("lab-wrk-").suffix(".lua").tempfile().context("make a script")?;
    std::fs::write(file.path(), script).context("write the script")?;
    let seconds = load.duration.as_secs().max(1);
    let mut command = Command::new("wrk");
    command.args(["-t1", "--timeout", "10s"]);
    command.args(["-c", &load.connections.to_string(), "-d", &format!("{seconds}s")]);
    command.arg("-s").arg(file.path()).arg(load.url());
    let said = namespace.check(&mut command).context("is the package wrk there?")?;
    parse_wrk(&said)
}

fn parse_wrk(said: &str) -> Result<LoadResult> {
    let line = said.lines().find_map(|line| line.strip_prefix("RESULT "));
    let line = line.with_context(|| format!("wrk without a result: {said}"))?;
    let WrkSaid { requests, duration, errors, p50, p99, max } =
        serde_json::from_str(line).context(line.to_owned())?;
    ensure!(duration > 0, "wrk ran for no time: {line}");
    let requests_per_second = requests as f64 * 1e6 / duration as f64;
    Ok(LoadResult { requests, requests_per_second, errors, p50_us: p50, p99_us: p99, max_us: max })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OhaSaid {
    summary: OhaSummary,
    latency_percentiles: OhaPercentiles,
    status_code_distribution: std::collections::BTreeMap<String, u64>,
    error_distribution: std::collections::BTreeMap<String, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OhaSummary {
    requests_per_sec: f64,
    /// Seconds; nothing if nothing was answered.
    slowest: Option<f64>,
}

#[derive(Deserialize)]
struct OhaPercentiles {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// What oha calls the requests that it broke off itself at the end of its time.
const OHA_DEADLINE: &str = "aborted due to deadline";

/// Runs oha in `namespace`. It opens a connection again when one is closed; its error distribution tells.
///
/// # Errors
/// If oha isn't there or fails.
pub fn oha(namespace: &Namespace, load: &Load) -> Result<LoadResult> {
    let mut command = Command::new("oha");
    command.args(["--no-tui", "--output-format", "json", "-c", &load.connections.to_string()]);
    command.args(["-z", &format!("{}ms", load.duration.as_millis())]);
    if let Some(body) = &load.post {
        command.args(["-m", "POST", "-d", body]);
    }
    if load.new_connections {
        command.arg("--disable-keepalive");
    }
    let said = namespace
        .check(command.arg(load.url()))
        .context("is oha there? `cargo install oha --version 1.16.0 --locked` makes it")?;
    parse_oha(&said)
}

fn parse_oha(said: &str) -> Result<LoadResult> {
    let OhaSaid { summary, latency_percentiles, status_code_distribution, error_distribution } =
        serde_json::from_str(said).with_context(|| format!("oha said {said}"))?;
    let all: u64 = status_code_distribution.values().sum();
    let good: u64 = status_code_distribution
        .iter()
        .filter(|(status, _)| status.starts_with('2'))
        .map(|(_, count)| count)
        .sum();
    let broken: u64 =
        error_distribution.iter().filter(|(error, _)| *error != OHA_DEADLINE).map(|(_, count)| count).sum();
    let us = |seconds: Option<f64>| (seconds.unwrap_or(0.0) * 1e6).round() as u64;
    Ok(LoadResult {
        requests: all,
        requests_per_second: summary.requests_per_sec,
        errors: all - good + broken,
        p50_us: us(latency_percentiles.p50),
        p99_us: us(latency_percentiles.p99),
        max_us: us(summary.slowest),
    })
}

/// How long all processors of the machine have been busy since it started, by `/proc/stat`: in steps of ten
/// milliseconds, of everything that runs.
///
/// # Errors
/// If it can't be read.
pub fn busy_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse_busy(&stat).context("/proc/stat isn't as proc(5) says")
}

/// User, nice, system, irq and softirq of the first line, in ticks of 1/100 s; idle, iowait and steal aren't work.
fn parse_busy(stat: &str) -> Option<Duration> {
    let words: Vec<&str> = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().collect();
    let ticks = [0, 1, 2, 5, 6].map(|index| words.get(index)?.parse::<u64>().ok());
    let sum = ticks.into_iter().sum::<Option<u64>>()?;
    Some(Duration::from_millis(sum * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood() {
        let said = "Running ...\n\n\
            RESULT {\"requests\":300,\"duration\":1500000,\"errors\":2,\"p50\":195,\"p99\":400,\"max\":4000}\n";
        let expected = LoadResult {
            requests: 300,
            requests_per_second: 200.0,
            errors: 2,
            p50_us: 195,
            p99_us: 400,
            max_us: 4000,
        };
        assert_eq!(parse_wrk(said).unwrap(), expected);
        assert!(parse_wrk("unable to connect").is_err());
    }

    #[test]
    fn oha_is_understood() {
        let said = r#"{"summary":{"successRate":1.0,"total":1.0,"slowest":0.004,"requestsPerSec":305.5},
            "latencyPercentiles":{"p50":0.000195,"p99":0.0004},
            "statusCodeDistribution":{"200":300,"502":3},
            "errorDistribution":{"aborted due to deadline":50,"connection error":2}}"#;
        let result = parse_oha(said).unwrap();
        assert_eq!((result.requests, result.errors, result.requests_per_second), (303, 5, 305.5));
        assert_eq!((result.p50_us, result.p99_us, result.max_us), (195, 400, 4000));
    }

    #[test]
    fn busy_time_leaves_idle_out() {
        let stat = "cpu  100 10 50 9999 77 3 7 88 0 0\ncpu0 1 1 1 1\n";
        assert_eq!(parse_busy(stat), Some(Duration::from_millis(1700)));
        assert!(busy_time().unwrap() > Duration::ZERO);
    }
}
