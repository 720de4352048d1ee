use std::rc::Rc;

use html5ever::{ParseOpts, parse_document, tendril::TendrilSink as _};
use markup5ever_rcdom::{Node, NodeData, RcDom};
use mirror_control::{
    evidence::Finding,
    migration::{Action, Stage, State, Why},
    moves::{Move, Phases},
    weight::Reason,
};

use super::*;
use crate::api::forecast::{ClassForecast, ForecastAnswer, HorizonForecast, Scaling};

const BEGUN: u64 = 1_800_000_000_000;

/// A migration that was begun, found the shadow worse, and was cut over in the end.
fn entries() -> Vec<Entry> {
    let plan = Plan::default();
    let entry = |number: u64, what: What, why: Option<Why>, stage: Stage| Entry {
        number,
        at_ms: BEGUN + number * 60_000,
        app: "shop".into(),
        what,
        words: why.as_ref().map(ToString::to_string).unwrap_or_default(),
        why,
        phases: None,
        state: State { stage, ..State::new(&plan) },
    };
    let finding = Finding {
        metric: mirror_control::evidence::Metric::Errors,
        evidence: 9.25,
        threshold: 7.5,
        primary: 0.0,
        allowed: 0.001,
        shadow: 0.02,
        samples: 4_321,
        gross: false,
    };
    let begun = |who: &str| What::Begun(Box::new(plan.clone()), who.into());
    let mut cutover = entry(4, What::Moved, Some(Why::Made("cutover".into())), Stage::Standby);
    cutover.phases = Some(Phases {
        freeze_us: 1.5,
        drain_us: 77.0,
        slowest_us: [Some(2_500.0), None],
        ..Phases::default()
    });
    vec![
        entry(0, begun("somebody before"), None, Stage::Joining),
        entry(1, begun("<b>ann & bob</b>"), None, Stage::Joining),
        entry(2, What::Decided(vec![Action::Make(Move::Join)]), Some(Why::OutOfSync), Stage::Joining),
        entry(
            3,
            What::Decided(vec![Action::Weigh(0)]),
            Some(Why::Weight(Reason::Worse(finding))),
            Stage::Mirroring,
        ),
        cutover,
    ]
}

fn forecast() -> ForecastAnswer {
    let horizon = HorizonForecast {
        seconds: 600,
        mean: Some(120.5),
        interval90: Some([100.0, 140.0]),
        fell_back_on: None,
        scored: 12,
        mase: Some(0.873),
        pinball: None,
        coverage90: Some(0.917),
    };
    let class = |class: &str, missing_minutes: Option<usize>| ClassForecast {
        class: class.into(),
        missing_minutes,
        history: if missing_minutes.is_some() { Vec::new() } else { vec![Some(99.0), Some(101.0)] },
        expected: Vec::new(),
        path: if missing_minutes.is_some() { Vec::new() } else { vec![[120.5, 100.0, 140.0]; 20] },
        horizons: vec![horizon.clone()],
    };
    ForecastAnswer {
        name: "shop".into(),
        age_seconds: Some(12.0),
        took_seconds: Some(0.2),
        from: Some(BEGUN / 1_000),
        classes: vec![class("reads", None), class("writes", Some(4))],
        demand: Vec::new(),
        scaling: Scaling::default(),
    }
}

fn report() -> Report {
    let mut report = Report {
        app: "shop".into(),
        made_at_ms: BEGUN + 3_600_000,
        version: "0.0.0".into(),
        plan: None,
        entries: Vec::new(),
        status: Some(serde_json::from_str(include_str!("../top/draw/status.json")).unwrap()),
        curves: vec![Curve {
            side: "shadow".into(),
            metric: Metric::Cpu,
            from: BEGUN / 1_000,
            step: 60,
            values: vec![Some(0.5), None, Some(1.25)],
        }],
        forecast: Some(forecast()),
        missing: vec!["x < y".into()],
    };
    report.keep(entries());
    report
}

#[test]
fn a_page_has_all_of_it_escaped_and_needs_nothing_else() {
    let page = page::page(&report()).unwrap().into_string();
    for part in [
        "&lt;b&gt;ann &amp; bob&lt;/b&gt;",
        "Not known: x &lt; y",
        "Stands at</th><td class=\"good\">Standby: cutover done",
        "<td class=\"n\">4321</td>",
        "<td class=\"n\">9.2</td>",
        "77.0 µs",
        "2.5 ms, –",
        "0.31 ms",
        "<li>notice 2</li>",
        "2027-01-15T08:03:00Z",
        "figcaption>cpu",
        "dwell_seconds",
        "120.5 (100.0 to 140.0)</td><td class=\"n\">12</td><td class=\"n\">0.87</td><td class=\"n\">92 %",
        "writes: too little history, 4 more minutes",
        "@media print",
    ] {
        assert!(page.contains(part), "no {part} in\n{page}");
    }
    assert!(!page.contains("<b>ann") && !page.contains("somebody before"), "only the last migration");
    assert_eq!(
        page.matches("<svg").count(),
        3,
        "the weight, the one metric and the one forecast that are known"
    );
    for outside in ["http://", "https://", "src=", "href=", "<script", "@import", "url("] {
        // The name of SVG's own language is no address that is fetched.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(outside), "{outside}");
    }
}

/// Every element of a page by its name, as a browser reads it, with its node.
fn elements(node: &Rc<Node>, all: &mut Vec<(String, Rc<Node>)>) {
    if let NodeData::Element { name, .. } = &node.data {
        all.push((name.local.to_string(), Rc::clone(node)));
    }
    node.children.borrow().iter().for_each(|child| elements(child, all));
}

fn text(node: &Rc<Node>) -> String {
    match &node.data {
        NodeData::Text { contents } => contents.borrow().to_string(),
        _ => node.children.borrow().iter().map(text).collect(),
    }
}

/// By the rules of HTML's own parser: nothing had to be mended, nothing is fetched or run, and who looks at a picture sees of
/// what it is, and by which times and values.
#[test]
fn a_browser_reads_the_page_without_a_fault_and_every_picture_has_its_axes() {
    let page = page::page(&report()).unwrap().into_string();
    let read = parse_document(RcDom::default(), ParseOpts::default()).one(page.clone());
    assert_eq!(*read.errors.borrow(), Vec::<String>::new(), "{page}");
    let mut all = Vec::new();
    elements(&read.document, &mut all);
    let fetching = ["a", "base", "embed", "iframe", "image", "img", "link", "object", "script", "use"];
    assert!(all.iter().all(|(name, _)| !fetching.contains(&name.as_str())), "{page}");
    let pictures: Vec<_> = all.iter().filter(|(name, _)| name == "svg").collect();
    let figures: Vec<_> = all.iter().filter(|(name, _)| name == "figure").map(|(_, node)| node).collect();
    assert_eq!((figures.len(), pictures.len()), (3, 3));
    for figure in figures {
        let mut within = Vec::new();
        elements(figure, &mut within);
        let of = |wanted: &str| -> Vec<String> {
            let wanted = within.iter().filter(|(name, _)| name == wanted);
            wanted.map(|(_, node)| text(node).trim().to_owned()).collect()
        };
        let labels = of("text");
        let times = labels.iter().filter(|label| label.contains(':')).count();
        let values = labels.iter().filter(|label| !label.contains(':') && !label.is_empty()).count();
        let captions = of("figcaption");
        assert!(captions.len() == 1 && !captions[0].is_empty(), "{captions:?}");
        assert!(times >= 2 && values >= 3, "{times} times, {values} values: {labels:?}");
        let lines = ["polyline", "line", "path"].map(|name| of(name).len());
        assert!(lines.iter().sum::<usize>() > 2, "{lines:?}");
    }
}

#[test]
fn nothing_known_is_a_page_too() {
    let empty = Report {
        entries: Vec::new(),
        plan: None,
        status: None,
        curves: Vec::new(),
        forecast: None,
        ..report()
    };
    let page = page::page(&empty).unwrap().into_string();
    assert!(page.contains("there was no migration by itself"), "{page}");
}

#[test]
fn a_long_journal_keeps_both_ends() {
    let mut long = report();
    let last = long.entries.last().unwrap().clone();
    long.entries.extend((5..1_000).map(|number| Entry { number, ..last.clone() }));
    let page = page::page(&long).unwrap().into_string();
    assert!(page.contains("599 lines in the middle are left out"), "{page}");
    for number in [1, 200, 999, 800] {
        assert!(page.contains(&format!("<tr><td class=\"n\">{number}</td>")), "{number}");
    }
    assert!(!page.contains("<tr><td class=\"n\">500</td>"));
}

#[tokio::test]
async fn a_daemon_that_is_down_leaves_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let client = Client::new(&folder.path().join("no.sock")).unwrap();
    let error = gather(&client, folder.path(), Some("shop")).await.unwrap_err().to_string();
    assert!(error.contains("shop.journal") && error.contains("--state DIR"), "{error}");
    let error = format!("{:#}", gather(&client, folder.path(), None).await.unwrap_err());
    assert!(error.contains("--state DIR") && error.contains("there is no application"), "{error}");
    let error = gather(&client, folder.path(), Some("../shop")).await.unwrap_err().to_string();
    assert!(error.contains("is no application"), "{error}");

    let lines: String = entries().iter().map(|entry| entry.line().unwrap()).collect();
    std::fs::write(folder.path().join("shop.journal"), lines).unwrap();
    let report = gather(&client, folder.path(), None).await.unwrap();
    assert_eq!(report.app, "shop", "the only one");
    assert_eq!((report.entries.len(), report.status.is_none()), (4, true));
    assert_eq!(report.missing.len(), 2, "{:?}", report.missing);
    assert!(!folder.path().join("shop.series").exists(), "asking makes no file");

    drop(Series::open(&folder.path().join("shop.series")).unwrap());
    let report = gather(&client, folder.path(), Some("shop")).await.unwrap();
    assert_eq!(report.curves.len(), 2 * Metric::ALL.len());
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["entries"][3]["phases"]["drain_us"], 77.0);

    std::fs::write(folder.path().join("blog.journal"), "").unwrap();
    let error = format!("{:#}", gather(&client, folder.path(), None).await.unwrap_err());
    assert!(error.contains("name one: blog, shop"), "{error}");
}
