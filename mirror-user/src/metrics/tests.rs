mod exposition;

use std::time::{Duration, Instant};

use super::*;
use mirror_control::evidence;
use mirror_forecast::tracker::Tracker;

use super::decisions::{Decided, Decisions};
use crate::{
    api::migration::MigrationStatus,
    events::{Counts, Outcome},
    outlook::ClassTold,
    resources::{Metric, Missing, Sample},
};

/// The shadow's CPU is known, and nothing else.
fn known() -> Known {
    let mut values = [Err(Missing::Gone); Metric::ALL.len()];
    values[Metric::Cpu as usize] = Ok(0.5);
    Known {
        now: [None, Some(Sample { at: 7, values })],
        missing: BTreeMap::from([((1, Missing::Gone), 5)]),
        ..Known::default()
    }
}

/// A migration at its second step, a webhook that fails, and a rollback before that.
fn decisions() -> Decisions {
    let finding = evidence::Finding {
        metric: evidence::Metric::Errors,
        evidence: -1.5,
        threshold: 7.6,
        primary: 0.0,
        allowed: 0.001,
        shadow: 0.0,
        samples: 900,
        gross: false,
    };
    let migration = MigrationStatus {
        stage: "Shifting".into(),
        why: "dwelling".into(),
        over: false,
        weight: 5.0,
        steps: vec![1.0, 5.0, 100.0],
        steps_back: 1,
        paused_by: None,
        evidence: Vec::new(),
        standby_seconds: Some(60.0),
    };
    let counts =
        Counts { by: BTreeMap::from([(Outcome::Delivered, 7), (Outcome::Failed, 2)]), retries: 9, queued: 1 };
    Decisions {
        migration: Some(migration),
        decided: Decided {
            verdict: "undecided",
            verdicts: BTreeMap::from([("undecided", 40)]),
            decisions: BTreeMap::from([("no_worse".into(), 2)]),
            rollbacks: BTreeMap::from([("unhealthy".into(), 1)]),
            findings: vec![finding],
        },
        ordered: true,
        events: vec![("webhook-0".into(), counts)],
    }
}

fn server(host: u8, well: bool) -> ServerStatus {
    let address = ([10, 0, 3, host], 80).into();
    ServerStatus {
        service: (host == 3).then(|| "api".into()),
        address,
        well,
        takes: well,
        since: 1.0,
        connections: u32::from(host),
    }
}

fn snapshot() -> Snapshot {
    let mut turns = Turns::default();
    let reads = &mut turns.shown[1][0].latency;
    *reads = vec![0; hist::BUCKETS];
    reads[hist::bucket(300) as usize] = 4;
    reads[hist::bucket(90_000_000) as usize] = 1;
    turns.shown[1][0].statuses = [0, 3, 0, 2, 0];
    turns.compared[1][1].statuses[4] = 6;
    turns.carried.answers[1] = 5_000;
    Snapshot {
        app: "shop".into(),
        word: SwitchWord::initial()
            .with_member(Side::Shadow, true)
            .with_weight(2_500)
            .with_phase(Phase::Shifting),
        packets: vec![(Verdict::Forwarded, 12)],
        turns,
        flows: [200, 199, 4],
        open_writes: 3,
        lagging: 1,
        held: [1, 2, 0],
        legs_lost: [0, 7],
        not_taken: [0, 3],
        breakers: [(false, 0, [0; 2]), (true, 2, [9, 1])],
        backends: [Vec::new(), vec![server(2, true), server(3, false)]],
        sweeps: (20, 0.5),
        moves: vec![("cutover", "aborted", 2)],
        resources: known(),
        series_failures: BTreeMap::from([(Failure::Full, 3)]),
        decisions: decisions(),
        forecast: Some((Arc::new(told()), 42.0)),
    }
}

/// A steady load of reads, forecast and scored for an hour; of writes too little is known.
fn told() -> Told {
    let mut tracker = Tracker::fit(&[100.0; 120]).unwrap();
    for _ in 0..60 {
        tracker.forecast().unwrap();
        tracker.observe(100.0);
    }
    let class = |tracker: &mut Tracker| ClassTold {
        forecast: tracker.forecast(),
        scores: tracker.scores(),
        recent: Vec::new(),
        expected: Vec::new(),
    };
    let classes = [class(&mut tracker), class(&mut Tracker::fit(&[1.0; 3]).unwrap())];
    Told { at: Instant::now(), from: 0, minute: 60, took: Duration::ZERO, classes }
}

#[test]
fn a_scrape_reads_like_this() {
    let text = snapshot().text().unwrap();
    for line in [
        "# TYPE mirror_packets counter",
        "mirror_packets_total{app=\"shop\",verdict=\"Forwarded\"} 12.0",
        "mirror_turn_latency_seconds_bucket{app=\"shop\",le=\"0.00025\",side=\"shadow\",class=\"read\"} 0",
        "mirror_turn_latency_seconds_bucket{app=\"shop\",le=\"0.0005\",side=\"shadow\",class=\"read\"} 4",
        "mirror_turn_latency_seconds_bucket{app=\"shop\",le=\"60.0\",side=\"shadow\",class=\"read\"} 4",
        "mirror_turn_latency_seconds_bucket{app=\"shop\",le=\"+Inf\",side=\"shadow\",class=\"read\"} 5",
        "mirror_turn_latency_seconds_count{app=\"shop\",side=\"shadow\",class=\"read\"} 5",
        "mirror_responses_total{app=\"shop\",side=\"shadow\",class=\"read\",status=\"4xx\"} 2.0",
        "mirror_responses_total{app=\"shop\",side=\"primary\",class=\"write\",status=\"5xx\"} 0.0",
        "mirror_compared_responses_total{app=\"shop\",side=\"shadow\",class=\"write\",status=\"5xx\"} 6.0",
        "mirror_payload_bytes_total{app=\"shop\",side=\"shadow\",direction=\"answers\"} 5000.0",
        "mirror_forecast_age_seconds{app=\"shop\"} 42.0",
        "mirror_forecast_requests_per_second{app=\"shop\",class=\"read\",horizon_seconds=\"60\",quantile=\"0.95\"} 100.0",
        "mirror_forecasts_scored_total{app=\"shop\",class=\"read\",horizon_seconds=\"300\"} 56.0",
        "mirror_forecast_coverage_ratio{app=\"shop\",class=\"read\",horizon_seconds=\"60\"} 1.0",
        "mirror_flows_two_legs{app=\"shop\"} 199.0",
        "mirror_flows_unanswered{app=\"shop\"} 4.0",
        "mirror_weight_ratio{app=\"shop\"} 0.25",
        "mirror_authority{app=\"shop\",side=\"primary\"} 1.0",
        "mirror_authority{app=\"shop\",side=\"shadow\"} 0.0",
        "mirror_in_sync{app=\"shop\",side=\"shadow\"} 1.0",
        "mirror_phase{app=\"shop\",phase=\"Shifting\"} 1.0",
        "mirror_phase{app=\"shop\",phase=\"Idle\"} 0.0",
        "mirror_legs_lost_total{app=\"shop\",side=\"shadow\"} 7.0",
        "mirror_connections_not_taken_total{app=\"shop\",side=\"shadow\"} 3.0",
        "mirror_server_well{app=\"shop\",side=\"shadow\",server=\"10.0.3.2:80\"} 1.0",
        "mirror_server_well{app=\"shop\",side=\"shadow\",server=\"10.0.3.3:80\",service=\"api\"} 0.0",
        "mirror_server_connections{app=\"shop\",side=\"shadow\",server=\"10.0.3.3:80\",service=\"api\"} 3.0",
        "mirror_breaker_open{app=\"shop\",side=\"shadow\"} 1.0",
        "mirror_breaker_open{app=\"shop\",side=\"primary\"} 0.0",
        "mirror_breaker_trips_total{app=\"shop\",side=\"shadow\"} 2.0",
        "mirror_breaker_probes_total{app=\"shop\",side=\"shadow\",result=\"unwell\"} 9.0",
        "mirror_sweep_seconds_total{app=\"shop\"} 0.5",
        "mirror_moves_total{app=\"shop\",move=\"cutover\",result=\"aborted\"} 2.0",
        "mirror_resource_cpu_cores{app=\"shop\",side=\"shadow\"} 0.5",
        "mirror_resource_values_missing_total{app=\"shop\",side=\"shadow\",reason=\"gone\"} 5.0",
        "mirror_series_failures_total{app=\"shop\",reason=\"full\"} 3.0",
        "mirror_migration_stage{app=\"shop\",stage=\"Shifting\"} 1.0",
        "mirror_migration_stage{app=\"shop\",stage=\"Standby\"} 0.0",
        "mirror_migration_step{app=\"shop\"} 2.0",
        "mirror_migration_weight_ratio{app=\"shop\"} 0.05",
        "mirror_verdicts_total{app=\"shop\",verdict=\"undecided\"} 40.0",
        "mirror_verdicts_total{app=\"shop\",verdict=\"worse\"} 0.0",
        "mirror_decisions_total{app=\"shop\",reason=\"no_worse\"} 2.0",
        "mirror_rollbacks_total{app=\"shop\",reason=\"unhealthy\"} 1.0",
        "mirror_evidence_log{app=\"shop\",metric=\"errors\"} -1.5",
        "mirror_evidence_samples{app=\"shop\",metric=\"errors\"} 900.0",
        "mirror_cutover_ordered{app=\"shop\"} 1.0",
        "mirror_events_total{app=\"shop\",receiver=\"webhook-0\",result=\"failed\"} 2.0",
        "mirror_events_total{app=\"shop\",receiver=\"webhook-0\",result=\"queue_full\"} 0.0",
        "mirror_event_retries_total{app=\"shop\",receiver=\"webhook-0\"} 9.0",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("mirror_resource_memory_bytes{"), "what isn't known has no series:\n{text}");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn buckets_are_merged_without_loss() {
    let mut fine = vec![0; hist::BUCKETS];
    for us in [1, 50, 51, 999, 1_000, 1_001, 2_000_000, u32::MAX] {
        fine[hist::bucket(us) as usize] += 1;
    }
    let merged = coarse(&fine);
    assert_eq!(merged.between.iter().map(|(_, count)| count).sum::<u64>(), 8);
    assert_eq!(merged.count, 8);
    assert_eq!(coarse(&[]).count, 0);
}

/// A metric family of a scrape: name, type, help.
struct Exported {
    name: String,
    kind: String,
    help: String,
}

fn exported(text: &str) -> Vec<Exported> {
    let mut families: Vec<Exported> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or((rest, ""));
            families.push(Exported { name: name.into(), kind: String::new(), help: help.into() });
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let last = families.last_mut().expect("HELP comes before TYPE");
            assert_eq!(last.name, name, "HELP and TYPE of one family stand together");
            last.kind = kind.into();
        }
    }
    families
}

/// What the rules of naming say against a family, or nothing (https://prometheus.io/docs/practices/naming).
fn fault(family: &Exported) -> Option<String> {
    const NO_UNITS: [&str; 10] = [
        "ms",
        "us",
        "milliseconds",
        "microseconds",
        "minutes",
        "hours",
        "percent",
        "kib",
        "mib",
        "megabytes",
    ];
    let name = family.name.strip_prefix("mirror_")?;
    let lower = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    let words: Vec<&str> = name.split('_').collect();
    let reserved = ["total", "count", "sum", "bucket", "info"];
    if !lower || words.contains(&"") {
        return Some("isn't made of words in lower case".into());
    }
    if words.iter().any(|word| NO_UNITS.contains(word)) {
        return Some("has a unit that isn't a base unit".into());
    }
    // The text's types have counters without `_total`, their samples with it.
    if words.last().is_some_and(|last| reserved.contains(last)) {
        return Some("ends like a part of another type".into());
    }
    if !["counter", "gauge", "histogram"].contains(&family.kind.as_str()) {
        return Some(format!("is of no type: {}", family.kind));
    }
    family.help.is_empty().then(|| "has no help".into())
}

#[test]
fn names_follow_the_rules() {
    let text = snapshot().text().unwrap();
    let families = exported(&text);
    assert!(families.len() > 45, "{}", families.len());
    for family in &families {
        assert!(family.name.starts_with("mirror_"), "{}", family.name);
        assert_eq!(fault(family), None, "{}", family.name);
    }
    let mut names: Vec<&str> = families.iter().map(|family| family.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), families.len(), "each family is exported once");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let of = |family: &&Exported| match family.kind.as_str() {
            "counter" => name == format!("{}_total", family.name),
            "histogram" => ["_bucket", "_sum", "_count"].iter().any(|end| name == family.name.clone() + end),
            _ => name == family.name,
        };
        assert!(families.iter().any(|family| of(&family)), "a sample without a family: {line}");
    }
}

#[test]
fn names_that_break_the_rules_are_found() {
    let family = |name: &str, kind: &str, help: &str| Exported {
        name: name.into(),
        kind: kind.into(),
        help: help.into(),
    };
    assert_eq!(fault(&family("mirror_flows", "gauge", "Connections")), None);
    for bad in [
        family("mirror_latency_ms", "gauge", "x"),
        family("mirror_weight_percent", "gauge", "x"),
        family("mirror_Flows", "gauge", "x"),
        family("mirror_moves_total", "gauge", "x"),
        family("mirror_moves", "unknown", "x"),
        family("mirror_moves", "counter", ""),
    ] {
        assert!(fault(&bad).is_some(), "{}", bad.name);
    }
}

/// The rules of alerts name series that a scrape has.
#[test]
fn each_metric_of_the_alerts_is_exported() {
    let rules = include_str!("../../../deploy/alerts.yml");
    let text = snapshot().text().unwrap();
    let families = exported(&text);
    let mut seen = 0;
    for word in rules.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
        let Some(name) = Some(word).filter(|word| word.starts_with("mirror_")) else { continue };
        let of = |family: &&Exported| match family.kind.as_str() {
            "counter" => name == format!("{}_total", family.name),
            "histogram" => name
                .strip_prefix(&family.name)
                .is_some_and(|end| ["_bucket", "_sum", "_count"].contains(&end)),
            _ => name == family.name,
        };
        assert!(families.iter().any(|family| of(&family)), "alerts.yml names {name}, which nothing exports");
        seen += 1;
    }
    assert!(seen >= 10, "{seen}");
}
