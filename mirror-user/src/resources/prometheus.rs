//! A host's or a container's resources from an endpoint in Prometheus' text format: cAdvisor's, node_exporter's, or the
//! `process_*` metrics that an application's own client library gives.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus_scraper::{Format, TextFormat, borrowed, parse_payload};

use super::{Clock, Counter, Found, Metric, Missing, Reading, Value};
use crate::policy::Scrape;

/// Bytes of an answer.
const MOST: usize = 8 << 20;
/// Series of one metric that are looked at.
const MOST_SERIES: usize = 65_536;

/// An endpoint of the policy.
#[derive(Debug)]
pub struct Endpoint {
    http: reqwest::Client,
    scrape: Arc<Scrape>,
}

impl Endpoint {
    /// The endpoint that a policy names; an answer takes `deadline` at most.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(scrape: Scrape, deadline: Duration) -> reqwest::Result<Self> {
        // A proxy or a redirect would lead to what the policy doesn't name.
        let http = reqwest::Client::builder()
            .timeout(deadline)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { http, scrape: Arc::new(scrape) })
    }

    /// What it says now; `at` gives the seconds of the monotonic clock.
    pub async fn read(&self, at: impl Fn() -> f64) -> Reading {
        let text = match self.fetch().await {
            Ok(text) => text,
            Err(why) => return Reading::missing(why),
        };
        let (scrape, at) = (Arc::clone(&self.scrape), at());
        // Megabytes of text hold nobody up, and a text that the parser panics over is one that can't be read.
        let parsed = tokio::task::spawn_blocking(move || parse(&text, &scrape, at));
        parsed.await.unwrap_or(Err(Missing::Malformed)).unwrap_or_else(Reading::missing)
    }

    async fn fetch(&self) -> Found<Vec<u8>> {
        let mut answer =
            self.http.get(self.scrape.url.clone()).send().await.map_err(|error| of_http(&error))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(Missing::BadStatus);
        }
        let mut text = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| of_http(&error))? {
            if text.len() + chunk.len() > MOST {
                return Err(Missing::TooLarge);
            }
            text.extend_from_slice(&chunk);
        }
        Ok(text)
    }
}

fn of_http(error: &reqwest::Error) -> Missing {
    if error.is_timeout() {
        Missing::TooSlow
    } else if error.is_connect() {
        Missing::Unreachable
    } else {
        Missing::Malformed
    }
}

/// A family of metrics that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exporter {
    /// cAdvisor, also inside a kubelet: a container.
    Container,
    /// node_exporter: a whole host.
    Node,
    /// Client libraries: the process that answers.
    Process,
}

impl Exporter {
    /// In the order in which they are looked for: cAdvisor and node_exporter have the process' metrics as well, of themselves.
    const ALL: [Self; 3] = [Self::Container, Self::Node, Self::Process];

    /// The metric that tells that an endpoint is one.
    const fn mark(self) -> &'static str {
        match self {
            Self::Container => "container_cpu_usage_seconds_total",
            Self::Node => "node_cpu_seconds_total",
            Self::Process => "process_cpu_seconds_total",
        }
    }

    /// The metric that has a counter.
    const fn counter(self, metric: Metric) -> Option<&'static str> {
        Some(match (self, metric) {
            (_, Metric::Cpu) => self.mark(),
            (Self::Container, Metric::Read) => "container_fs_reads_bytes_total",
            (Self::Container, Metric::Written) => "container_fs_writes_bytes_total",
            (Self::Container, Metric::Received) => "container_network_receive_bytes_total",
            (Self::Container, Metric::Sent) => "container_network_transmit_bytes_total",
            (Self::Node, Metric::Read) => "node_disk_read_bytes_total",
            (Self::Node, Metric::Written) => "node_disk_written_bytes_total",
            (Self::Node, Metric::Received) => "node_network_receive_bytes_total",
            (Self::Node, Metric::Sent) => "node_network_transmit_bytes_total",
            (Self::Process, Metric::Received) => "process_network_receive_bytes_total",
            (Self::Process, Metric::Sent) => "process_network_transmit_bytes_total",
            _ => return None,
        })
    }
}

const NODE_TOTAL: &str = "node_memory_MemTotal_bytes";
const NODE_AVAILABLE: &str = "node_memory_MemAvailable_bytes";
const CONTAINER_MEMORY: &str = "container_memory_working_set_bytes";
const PROCESS_MEMORY: &str = "process_resident_memory_bytes";

/// Whether a line of the text can matter.
fn matters(line: &[u8]) -> bool {
    let end = line.iter().position(|byte| matches!(byte, b'{' | b' ' | b'\t')).unwrap_or(line.len());
    let Ok(name) = std::str::from_utf8(&line[..end]) else { return false };
    [NODE_TOTAL, NODE_AVAILABLE, CONTAINER_MEMORY, PROCESS_MEMORY].contains(&name)
        || Exporter::ALL
            .iter()
            .any(|exporter| Metric::OF_SOURCE.iter().any(|metric| exporter.counter(*metric) == Some(name)))
}

/// One series of the text.
#[derive(Debug)]
struct Series {
    labels: BTreeMap<String, String>,
    value: f64,
    /// The source's own time, in seconds.
    at: Option<f64>,
}

/// By metric: its series, or why it has none.
type Text = BTreeMap<String, Found<Vec<Series>>>;

/// Reads a text, in which `at` is the time of what has none of its own.
///
/// # Errors
/// When nothing in it is known, or nothing fits the policy.
fn parse(text: &[u8], scrape: &Scrape, at: f64) -> Found<Reading> {
    let text = series(text)?;
    let exporter = Exporter::ALL.into_iter().find(|exporter| text.contains_key(exporter.mark()));
    let exporter = exporter.ok_or(Missing::Gone)?;
    let mut reading = Reading::default();
    for metric in Metric::OF_SOURCE {
        let value = match exporter.counter(metric) {
            Some(name) => counter(&text, name, exporter, metric, scrape, at).map(Value::Counter),
            None if metric == Metric::Memory => memory(&text, exporter, scrape).map(Value::Gauge),
            None => Err(Missing::NotMeasured),
        };
        reading.set(metric, value);
    }
    Ok(reading)
}

/// The series of the text's lines that matter. Its `# TYPE` lines are left out, so that a negative counter is a number that
/// can't be and not a line that can't be read.
fn series(text: &[u8]) -> Found<Text> {
    let mut kept = Vec::new();
    for line in text.split(|byte| *byte == b'\n').filter(|line| matters(line)) {
        kept.extend_from_slice(line);
        kept.push(b'\n');
    }
    let mut found = Text::new();
    for family in parse_payload(&kept, Format::Text(TextFormat::Prometheus)) {
        // A line that can't be read may be any metric's.
        let family = family.map_err(|_| Missing::Malformed)?;
        let metrics = found.entry(family.name.to_string()).or_insert_with(|| Ok(Vec::new()));
        for metric in &family.metric {
            let Ok(list) = metrics else { break };
            if list.len() == MOST_SERIES {
                *metrics = Err(Missing::TooLarge);
                break;
            }
            match one(metric) {
                Some(series) => list.push(series),
                None => *metrics = Err(Missing::Malformed),
            }
        }
    }
    Ok(found)
}

fn one(metric: &borrowed::Metric<'_>) -> Option<Series> {
    let borrowed::MetricValue::Untyped(value) = metric.value else { return None };
    // An empty label is none, in Prometheus' model.
    let labels = metric.label.iter().filter(|label| !label.value.is_empty());
    let labels = labels.map(|label| (label.name.to_string(), label.value.to_string())).collect();
    let at = metric.timestamp.as_ref().map(|at| at.seconds as f64 + f64::from(at.nanos) / 1e9);
    Some(Series { labels, value: value.as_f64(), at })
}

/// A metric's series that fit the policy's labels.
fn fitting<'a>(text: &'a Text, name: &str, scrape: &Scrape, network: bool) -> Found<Vec<&'a Series>> {
    let all = text.get(name).ok_or(Missing::NotMeasured)?.as_ref().map_err(|why| *why)?;
    let fits = |series: &&Series| {
        scrape.labels.iter().all(|(label, wanted)| match series.labels.get(label) {
            Some(value) => value == wanted,
            // The network is a pod's, not one container's.
            None => network && label == "container",
        })
    };
    let fitting: Vec<&Series> = all.iter().filter(fits).collect();
    if fitting.is_empty() { Err(Missing::Gone) } else { Ok(fitting) }
}

/// Fails where series are of several containers: one holds the others, and bytes would count twice.
fn of_one(series: &[&Series]) -> Found<()> {
    let id = |series: &Series| ["id", "instance"].map(|label| series.labels.get(label).cloned());
    let same = series.windows(2).all(|two| id(two[0]) == id(two[1]));
    if same { Ok(()) } else { Err(Missing::Ambiguous) }
}

fn counter(
    text: &Text,
    name: &str,
    exporter: Exporter,
    metric: Metric,
    scrape: &Scrape,
    at: f64,
) -> Found<Counter> {
    let network = matches!(metric, Metric::Received | Metric::Sent);
    let fitting = fitting(text, name, scrape, network)?;
    of_one(&fitting)?;
    let stamps: Vec<f64> = fitting.iter().filter_map(|series| series.at).collect();
    let (clock, at) = match stamps.iter().copied().reduce(f64::max) {
        Some(latest) => (Clock::Source, latest),
        None => (Clock::Gateway, at),
    };
    let mut parts = BTreeMap::new();
    for series in fitting.into_iter().filter(|series| counts(exporter, metric, &series.labels, scrape)) {
        let part = format!("{:?}", series.labels);
        if parts.insert(part, series.value).is_some() {
            return Err(Missing::Ambiguous);
        }
    }
    if parts.is_empty() { Err(Missing::NotMeasured) } else { Ok(Counter { at, clock, parts }) }
}

/// Whether a series is part of the sum: idle time isn't, nor is a device that lies on others.
fn counts(exporter: Exporter, metric: Metric, labels: &BTreeMap<String, String>, scrape: &Scrape) -> bool {
    const IDLE: [&str; 3] = ["idle", "iowait", "steal"];
    const STACKED: [&str; 4] = ["dm-", "md", "loop", "zram"];
    // The same bytes pass a device below these, or never leave the host.
    const VIRTUAL: [&str; 15] = [
        "lo", "veth", "docker", "br-", "virbr", "cni", "cali", "flannel", "tun", "tap", "dummy", "ifb", "wg",
        "bond", "team",
    ];
    let begins = |label: &str, with: &[&str]| {
        let device = labels.get(label).map(|value| value.trim_start_matches("/dev/"));
        device.is_some_and(|device| with.iter().any(|start| device.starts_with(start)))
    };
    match (exporter, metric) {
        (Exporter::Node, Metric::Cpu) => {
            !labels.get("mode").is_some_and(|mode| IDLE.contains(&mode.as_str()))
        }
        (_, Metric::Read | Metric::Written) => !begins("device", &STACKED),
        (Exporter::Container | Exporter::Node, Metric::Received | Metric::Sent) => {
            let label = if exporter == Exporter::Node { "device" } else { "interface" };
            if scrape.interfaces.is_empty() {
                !begins(label, &VIRTUAL)
            } else {
                labels.get(label).is_some_and(|name| scrape.interfaces.contains(name))
            }
        }
        _ => true,
    }
}

fn memory(text: &Text, exporter: Exporter, scrape: &Scrape) -> Found<f64> {
    let gauge = |name: &str| match fitting(text, name, scrape, false)?.as_slice() {
        [series] => Ok(series.value),
        _ => Err(Missing::Ambiguous),
    };
    match exporter {
        Exporter::Container => gauge(CONTAINER_MEMORY),
        Exporter::Node => Ok(gauge(NODE_TOTAL)? - gauge(NODE_AVAILABLE)?),
        Exporter::Process => gauge(PROCESS_MEMORY),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    const NODE: &str = include_str!("../../testdata/resources/node_exporter.prom");
    const CADVISOR: &str = include_str!("../../testdata/resources/cadvisor.prom");
    const CLIENT_LIBRARY: &str = include_str!("../../testdata/resources/client_library.prom");

    fn scrape(labels: &[(&str, &str)]) -> Scrape {
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let url = "http://10.0.2.2:9100/metrics".parse().unwrap();
        Scrape { url, labels, interfaces: Vec::new() }
    }

    fn read(text: &str, labels: &[(&str, &str)]) -> Reading {
        parse(text.as_bytes(), &scrape(labels), 5.0).unwrap_or_else(Reading::missing)
    }

    fn sum(reading: &Reading, metric: Metric) -> Found<f64> {
        Ok(match reading.get(metric)? {
            Value::Gauge(value) => *value,
            Value::Counter(counter) => counter.parts.values().sum(),
        })
    }

    fn near(found: Found<f64>, wanted: f64) -> bool {
        found.is_ok_and(|value| (value - wanted).abs() < 1e-6 * wanted)
    }

    #[test]
    fn node_exporters_host_is_what_its_cpus_did_and_its_own_devices_moved() {
        let reading = read(NODE, &[]);
        // nice + softirq + system + user of both CPUs: neither idle nor iowait nor steal.
        let busy = 1214.14 + 19.59 + 450.56 + 1139.5 + 1172.38 + 26.71 + 465.83 + 1187.46;
        assert!(near(sum(&reading, Metric::Cpu), busy), "{reading:?}");
        assert!(near(sum(&reading, Metric::Memory), 2.5276502016e10 - 2.313644032e10));
        assert!(near(sum(&reading, Metric::Read), 5.266506752e9));
        assert!(near(sum(&reading, Metric::Received), 1.298319317e9), "eth0 alone");
        let Ok(Value::Counter(counter)) = reading.get(Metric::Sent) else { panic!("{reading:?}") };
        assert_eq!((counter.clock, counter.at, counter.parts.len()), (Clock::Gateway, 5.0, 1));
    }

    #[test]
    fn cadvisors_container_is_found_by_its_labels_and_timed_by_cadvisor() {
        let reading = read(CADVISOR, &[("name", "shop")]);
        assert_eq!(sum(&reading, Metric::Cpu), Ok(421.75));
        assert_eq!(sum(&reading, Metric::Memory), Ok(2.5e8));
        assert_eq!(sum(&reading, Metric::Read), Ok(4.096e6), "the device mapper's bytes are the disk's");
        assert_eq!(sum(&reading, Metric::Sent), Ok(9.5e7));
        let Ok(Value::Counter(counter)) = reading.get(Metric::Cpu) else { panic!("{reading:?}") };
        assert_eq!(counter.clock, Clock::Source);
        assert!((counter.at - 1_732_550_401.337).abs() < 1e-3, "{}", counter.at);
        // A label's value with commas, braces and quotes is one value.
        let annotated =
            read(CADVISOR, &[("container_label_annotations", r#"{"team":"a, b","tier":"web}"}"#)]);
        assert_eq!(sum(&annotated, Metric::Cpu), Ok(421.75));
    }

    #[test]
    fn containers_that_hold_one_another_are_ambiguous_and_none_is_gone() {
        let all = read(CADVISOR, &[]);
        assert_eq!(sum(&all, Metric::Cpu), Err(Missing::Ambiguous));
        assert_eq!(sum(&all, Metric::Memory), Err(Missing::Ambiguous));
        assert_eq!(sum(&read(CADVISOR, &[("name", "shoe")]), Metric::Cpu), Err(Missing::Gone));
    }

    #[test]
    fn a_client_librarys_process_has_cpu_and_memory_and_no_disk() {
        let reading = read(CLIENT_LIBRARY, &[]);
        assert_eq!(sum(&reading, Metric::Cpu), Ok(72.29));
        assert_eq!(sum(&reading, Metric::Memory), Ok(61_435_904.0));
        assert_eq!(sum(&reading, Metric::Read), Err(Missing::NotMeasured));
    }

    #[test]
    fn the_named_interfaces_count_and_no_other() {
        let mut scrape = scrape(&[]);
        scrape.interfaces = vec!["ifb0".into()];
        let reading = parse(NODE.as_bytes(), &scrape, 0.0).unwrap();
        assert_eq!(sum(&reading, Metric::Received), Ok(0.0));
        scrape.interfaces = vec!["eth7".into()];
        let reading = parse(NODE.as_bytes(), &scrape, 0.0).unwrap();
        assert_eq!(sum(&reading, Metric::Received), Err(Missing::NotMeasured));
    }

    #[test]
    fn lies_are_named() {
        let cpu = |value: &str| {
            let reading = read(
                &format!("# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total {value}\n"),
                &[],
            );
            super::super::rates::Rates::default().step(&[Metric::Cpu], &reading)[0].1
        };
        for lie in ["NaN", "-1", "+Inf", "1e999"] {
            assert_eq!(cpu(lie), Err(Missing::Impossible), "{lie}");
        }
        assert_eq!(cpu("twelve"), Err(Missing::Malformed));
        assert_eq!(cpu("12"), Err(Missing::FirstReading));
        assert_eq!(sum(&read("", &[]), Metric::Cpu), Err(Missing::Gone));
        assert_eq!(sum(&read("<html>502</html>", &[]), Metric::Cpu), Err(Missing::Gone));
        let twice = "process_cpu_seconds_total 1\nprocess_cpu_seconds_total 2\n";
        assert_eq!(sum(&read(twice, &[]), Metric::Cpu), Err(Missing::Ambiguous));
        let broken = "process_cpu_seconds_total{a=\"b\n";
        assert_eq!(sum(&read(broken, &[]), Metric::Cpu), Err(Missing::Malformed));
    }

    /// An endpoint on the loopback device that answers once, as it likes.
    async fn answered<F>(deadline: Duration, answer: impl FnOnce(TcpStream) -> F + Send + 'static) -> Reading
    where
        F: Future<Output = ()> + Send,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4_096]).await;
            answer(stream).await;
        });
        let mut scrape = scrape(&[]);
        scrape.url = format!("http://{address}/metrics").parse().unwrap();
        let reading = Endpoint::new(scrape, deadline).unwrap().read(|| 1.0).await;
        served.abort();
        reading
    }

    const PATIENT: Duration = Duration::from_secs(60);

    async fn says(text: String) -> Reading {
        // Who has heard enough hangs up.
        answered(PATIENT, async move |mut stream| drop(stream.write_all(text.as_bytes()).await)).await
    }

    #[tokio::test]
    async fn an_honest_endpoint_is_read() {
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
        assert_eq!(sum(&says(format!("{head}{CLIENT_LIBRARY}")).await, Metric::Cpu), Ok(72.29));
    }

    #[tokio::test]
    async fn an_endpoint_that_lies_or_hangs_gets_its_name() {
        let bad = says("HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".into()).await;
        assert_eq!(bad, Reading::missing(Missing::BadStatus));
        let elsewhere = says("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n".into()).await;
        assert_eq!(elsewhere, Reading::missing(Missing::BadStatus));
        let cut = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nprocess_cpu_seconds_total 7";
        assert_eq!(says(cut.into()).await, Reading::missing(Missing::Malformed));
        assert_eq!(says("SSH-2.0\r\n\r\n".into()).await, Reading::missing(Missing::Malformed));
        let hangs = answered(Duration::from_millis(50), |stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        });
        assert_eq!(hangs.await, Reading::missing(Missing::TooSlow));
        let trickles = answered(Duration::from_millis(50), async |mut stream: TcpStream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nprocess_cpu").await;
            std::future::pending::<()>().await;
        });
        assert_eq!(trickles.await, Reading::missing(Missing::TooSlow));
    }

    #[tokio::test]
    async fn a_hundred_megabytes_are_too_large_and_are_not_read() {
        let line = "process_cpu_seconds_total 1\n".repeat(40_000);
        let large = answered(PATIENT, async move |mut stream: TcpStream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            // Who has heard enough hangs up.
            let mut pieces = 0;
            while pieces < 100 && stream.write_all(line.as_bytes()).await.is_ok() {
                pieces += 1;
            }
        });
        assert_eq!(large.await, Reading::missing(Missing::TooLarge));
    }

    #[tokio::test]
    async fn nobody_who_listens_is_unreachable() {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let mut scrape = scrape(&[]);
        scrape.url = format!("http://127.0.0.1:{port}/metrics").parse().unwrap();
        let reading = Endpoint::new(scrape, PATIENT).unwrap().read(|| 1.0).await;
        assert_eq!(reading, Reading::missing(Missing::Unreachable));
    }
}
