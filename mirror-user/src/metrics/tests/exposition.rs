//! A scrape by the rules of the format, read by a parser that isn't the exporter's:
//! https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md

use std::collections::BTreeSet;

use prometheus_scraper::{
    Format, TextFormat,
    borrowed::{BucketCount, Histogram, Metric, MetricFamily, MetricValue},
    parse_payload,
};

use super::snapshot;

/// What is wrong with a scrape, or how many series it has.
fn read(text: &str) -> Result<usize, String> {
    let lines: Vec<&str> = text.lines().collect();
    let ends = lines.iter().filter(|line| **line == "# EOF").count();
    if ends != 1 || lines.last() != Some(&"# EOF") || !text.ends_with('\n') {
        return Err("it doesn't end with one `# EOF`".into());
    }
    let known = |line: &&str| ["# HELP ", "# TYPE ", "# EOF"].iter().any(|start| line.starts_with(start));
    if let Some(line) = lines.iter().find(|line| line.is_empty() || (line.starts_with('#') && !known(line))) {
        return Err(format!("`{line}` is no line of the format"));
    }
    let (mut names, mut samples) = (BTreeSet::new(), 0);
    let mut series = 0;
    for family in parse_payload(text.as_bytes(), Format::Text(TextFormat::OpenMetrics)) {
        let family = family.map_err(|error| error.to_string())?;
        if !names.insert(family.name.to_string()) {
            return Err(format!("{} stands in two places", family.name));
        }
        samples += of_family(&family).map_err(|what| format!("{}: {what}", family.name))?;
        series += family.metric.len();
    }
    // The parser leaves out what it makes no sense of.
    let written = lines.iter().filter(|line| !line.starts_with('#')).count();
    if samples == written {
        Ok(series)
    } else {
        Err(format!("{written} samples, of which {samples} are read"))
    }
}

/// How many samples a family has.
fn of_family(family: &MetricFamily<'_>) -> Result<usize, String> {
    let mut seen = BTreeSet::new();
    let mut samples = 0;
    for metric in &family.metric {
        let mut labels: Vec<_> = metric.label.iter().map(|pair| (&pair.name, &pair.value)).collect();
        labels.sort();
        for (name, _) in &labels {
            let word = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            if !word || name.starts_with("__") || name.starts_with(|c: char| c.is_ascii_digit()) {
                return Err(format!("`{name}` is no name of a label"));
            }
        }
        if labels.windows(2).any(|two| two[0].0 == two[1].0) {
            return Err(format!("a label twice: {labels:?}"));
        }
        if !seen.insert(labels.clone()) {
            return Err(format!("a series twice: {labels:?}"));
        }
        samples += of_series(metric).map_err(|what| format!("{labels:?}: {what}"))?;
    }
    Ok(samples)
}

fn of_series(metric: &Metric<'_>) -> Result<usize, String> {
    if metric.timestamp.is_some() {
        return Err("a time, where the scraper's holds".into());
    }
    match &metric.value {
        MetricValue::Counter(counter) if counter.value.as_f64() >= 0.0 => Ok(1),
        MetricValue::Gauge(_) => Ok(1),
        MetricValue::Histogram(histogram) => of_histogram(histogram),
        other => Err(format!("{other:?} is nothing that is exported here")),
    }
}

fn of_histogram(histogram: &Histogram<'_>) -> Result<usize, String> {
    let BucketCount::Int { sample_count: Some(count), buckets } = &histogram.counts else {
        return Err("counts that aren't whole".into());
    };
    let sum = histogram.sample_sum.map(|sum| sum.as_f64()).ok_or("no sum")?;
    let rises = |two: &[(f64, u64)]| two[0].0 < two[1].0 && two[0].1 <= two[1].1;
    let all: Vec<(f64, u64)> = buckets.iter().map(|b| (b.upper_bound, b.cumulative_count)).collect();
    if !all.windows(2).all(rises) {
        return Err(format!("bounds and counts don't rise: {all:?}"));
    }
    if all.last() != Some(&(f64::INFINITY, *count)) {
        return Err(format!("no last bucket of all {count}: {all:?}"));
    }
    if sum.is_finite() && sum >= 0.0 { Ok(buckets.len() + 2) } else { Err(format!("a sum of {sum}")) }
}

#[test]
fn a_scrape_keeps_the_rules_of_the_format() {
    let series = read(&snapshot().text().unwrap());
    assert!(series.clone().is_ok_and(|series| series > 100), "{series:?}");
}

#[test]
fn what_a_label_says_comes_back_as_it_was() {
    let app = "a \"shop\"\\with\nlines, {braces} and = signs";
    let mut snapshot = snapshot();
    snapshot.app = app.into();
    let text = snapshot.text().unwrap();
    assert_eq!(read(&text).map(drop), Ok(()));
    for family in parse_payload(text.as_bytes(), Format::Text(TextFormat::OpenMetrics)) {
        for metric in family.unwrap().metric {
            assert!(metric.label.iter().any(|pair| pair.name == "app" && pair.value == app), "{metric:?}");
        }
    }
}

#[test]
fn scrapes_that_break_the_rules_are_found() {
    let good = "# HELP a Help\n# TYPE a counter\na_total{b=\"c\"} 1\n# EOF\n";
    assert_eq!(read(good), Ok(1));
    let histogram = |buckets: &str| format!("# TYPE h histogram\n{buckets}h_sum 1\nh_count 2\n# EOF\n");
    let whole = "h_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\n";
    assert_eq!(read(&histogram(whole)), Ok(1));
    for bad in [
        good.replace("# EOF\n", ""),
        good.replace("# EOF", "\n# EOF"),
        good.replace("a_total{b=\"c\"} 1\n", "a_total{b=\"c\"} 1\na_total{b=\"c\"} 2\n"),
        good.replace("{b=\"c\"}", "{b=\"c\",b=\"d\"}"),
        good.replace("{b=\"c\"}", "{__b=\"c\"}"),
        good.replace("} 1", "} -1"),
        good.replace("} 1", "} one"),
        good.replace("} 1", "} 1 1700000000"),
        histogram("h_bucket{le=\"1.0\"} 1\n"),
        histogram("h_bucket{le=\"1.0\"} 3\nh_bucket{le=\"+Inf\"} 2\n"),
        histogram("h_bucket{le=\"2.0\"} 1\nh_bucket{le=\"1.0\"} 1\nh_bucket{le=\"+Inf\"} 2\n"),
        histogram("h_bucket{le=\"+Inf\"} 1\n"),
    ] {
        assert!(read(&bad).is_err(), "{bad}");
    }
}
