//! The table and the JSON: medians over rounds, and ratios to kernel forwarding of the same round.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{
    floor::Call,
    forwarders::{Forwarder, Hook},
    load::{Kind, Measured, Rounds},
    paths::Path,
};

/// Median of what isn't empty; 0 of what is.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn of(rounds: &Rounds, forwarder: Forwarder, kind: Kind, what: fn(&Measured) -> f64) -> Vec<f64> {
    rounds.get(&(forwarder, kind)).map(|all| all.iter().map(what).collect()).unwrap_or_default()
}

/// The median of each round's ratio to another forwarder in that round.
pub(crate) fn ratio(
    rounds: &Rounds,
    (forwarder, to): (Forwarder, Forwarder),
    kind: Kind,
    what: fn(&Measured) -> f64,
) -> f64 {
    let mine = of(rounds, forwarder, kind, what);
    let base = of(rounds, to, kind, what);
    median(mine.iter().zip(&base).map(|(mine, base)| mine / base).collect())
}

fn to_kernel(rounds: &Rounds, forwarder: Forwarder, kind: Kind) -> f64 {
    ratio(rounds, (forwarder, Forwarder::Kernel), kind, |m| m.per_second)
}

fn cpu_to_kernel(rounds: &Rounds, forwarder: Forwarder) -> f64 {
    ratio(rounds, (forwarder, Forwarder::Kernel), Kind::Get, |m| m.cpu_us)
}

fn round2(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// `ratios.{tc,xdp}.{one_leg,lock_step}.{get,post,connect,cpu}`.
fn ratios(rounds: &Rounds) -> Value {
    let mut hooks = Map::new();
    for hook in [Hook::Tc, Hook::Xdp] {
        let four = |forwarder| {
            json!({
                "get": round2(to_kernel(rounds, forwarder, Kind::Get)),
                "post": round2(to_kernel(rounds, forwarder, Kind::Post)),
                "connect": round2(to_kernel(rounds, forwarder, Kind::Connect)),
                "cpu": round2(cpu_to_kernel(rounds, forwarder)),
            })
        };
        let both =
            json!({ "one_leg": four(Forwarder::OneLeg(hook)), "lock_step": four(Forwarder::LockStep(hook)) });
        hooks.insert(hook.name().to_owned(), both);
    }
    Value::Object(hooks)
}

/// Everything as one object.
pub(crate) fn json(
    rounds: &Rounds,
    paths: &[Path],
    floor: &[Call],
    programs: &Value,
    bytes_a_flow: usize,
) -> Value {
    let mut loads = Vec::new();
    for ((forwarder, kind), all) in rounds {
        loads.push(json!({ "forwarder": forwarder.name(), "kind": kind, "rounds": all }));
    }
    json!({
        "ratios": ratios(rounds),
        "loads": loads,
        "paths": paths,
        "floor": floor,
        "programs": programs,
        "bytes_a_flow": bytes_a_flow,
    })
}

/// The loads as a table in Markdown.
pub(crate) fn load_table(rounds: &Rounds) -> String {
    let mut text = String::from(
        "| | GET/s | POST/s | connections/s | GET p50, p99 µs | CPU µs a GET | GET | POST | connections | CPU |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for forwarder in Forwarder::ALL {
        if !rounds.contains_key(&(forwarder, Kind::Get)) {
            continue;
        }
        let rate = |kind| median(of(rounds, forwarder, kind, |m| m.per_second));
        let get = |what| median(of(rounds, forwarder, Kind::Get, what));
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {:.0}, {:.0} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} |",
            forwarder.name(),
            rate(Kind::Get),
            rate(Kind::Post),
            rate(Kind::Connect),
            get(|m| m.p50_us),
            get(|m| m.p99_us),
            get(|m| m.cpu_us),
            to_kernel(rounds, forwarder, Kind::Get),
            to_kernel(rounds, forwarder, Kind::Post),
            to_kernel(rounds, forwarder, Kind::Connect),
            cpu_to_kernel(rounds, forwarder),
        );
    }
    text
}

/// One leg beside the bare forwarder at the same hook.
pub(crate) fn bare_table(rounds: &Rounds) -> String {
    let mut text =
        String::from("| one leg to the bare forwarder | GET | POST | connections |\n|---|--:|--:|--:|\n");
    for (hook, bare) in [(Hook::Tc, Forwarder::BareTc), (Hook::Xdp, Forwarder::BareXdp)] {
        let [get, post, connect] =
            Kind::ALL.map(|kind| ratio(rounds, (Forwarder::OneLeg(hook), bare), kind, |m| m.per_second));
        let _ = writeln!(text, "| at {} | {get:.2} | {post:.2} | {connect:.2} |", hook.name());
    }
    text
}

/// The paths as a table in Markdown.
pub(crate) fn path_table(paths: &[Path]) -> String {
    let mut text = String::from(
        "| path | hook | ns, median | quartiles | before | to before |\n|---|---|--:|--:|--:|--:|\n",
    );
    for path in paths {
        let before = path.before_ns.map_or(String::new(), |ns| ns.to_string());
        let ratio = path.to_before.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {}–{} | {before} | {ratio} |",
            path.name, path.hook, path.median_ns, path.low_ns, path.high_ns
        );
    }
    text
}

/// What the kernel's calls cost, as a table in Markdown.
pub(crate) fn floor_table(floor: &[Call]) -> String {
    let mut text = String::from("| the kernel's part, alone | ns, median | quartiles |\n|---|--:|--:|\n");
    for call in floor {
        let _ = writeln!(text, "| {} | {} | {}–{} |", call.name, call.median_ns, call.low_ns, call.high_ns);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(per_second: f64) -> Measured {
        Measured { per_second, p50_us: 1.0, p99_us: 2.0, max_us: 4.0, cpu_us: 3.0 }
    }

    #[test]
    fn a_ratio_is_the_median_of_each_rounds_own() {
        let mut rounds = Rounds::new();
        let kernel = [100.0, 10.0, 50.0].map(measured).to_vec();
        let ours = [90.0, 9.5, 50.0].map(measured).to_vec();
        rounds.insert((Forwarder::Kernel, Kind::Get), kernel);
        rounds.insert((Forwarder::OneLeg(Hook::Tc), Kind::Get), ours);
        assert!((to_kernel(&rounds, Forwarder::OneLeg(Hook::Tc), Kind::Get) - 0.95).abs() < 1e-9);
        assert_eq!(ratios(&rounds)["tc"]["one_leg"]["get"], 0.95);
    }

    #[test]
    fn a_median_of_an_even_number_lies_between() {
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
