//! What a forecast promises, on series made for it.

use std::time::Duration;

use mirror_forecast::{Error, Forecaster, MAX_HORIZON, generate};

const STEP: Duration = Duration::from_secs(900);
const DAY: usize = 96;

/// A generated series of that many days.
fn series(name: &str, days: usize) -> Vec<f64> {
    generate::named(name, 1, days * DAY, DAY).expect("a known name").values
}

/// Mean absolute errors over rolling origins: ours, of the last value and of the value a day ago.
fn errors(values: &[f64], horizon: usize) -> (f64, f64, f64) {
    let first = values.len() / 2;
    let mut forecaster = Forecaster::fit(STEP, &values[..first]).expect("a forecaster");
    let (mut ours, mut last, mut day_ago) = (0.0, 0.0, 0.0);
    for origin in first..values.len() - horizon {
        if (origin - first).is_multiple_of(37) {
            let forecast = forecaster.forecast(horizon).expect("a forecast");
            for step in 0..horizon {
                let value = values[origin + step];
                ours += (value - forecast.mean()[step]).abs();
                last += (value - values[origin - 1]).abs();
                day_ago += (value - values[origin + step - DAY]).abs();
            }
        }
        forecaster.observe(values[origin]);
    }
    (ours, last, day_ago)
}

/// That everything said is finite, ordered and of the horizon asked for.
#[track_caller]
fn is_sane(forecaster: &mut Forecaster, horizon: usize, what: &str) {
    let forecast = forecaster.forecast(horizon).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(forecast.mean().len(), horizon, "{what}");
    for step in 0..horizon {
        let quantile = |level| forecast.quantile(step, level).expect("a step within the horizon");
        let levels = [0.0, 0.05, 0.3, 0.5, 0.8, 0.95, 1.0].map(quantile);
        assert!(forecast.mean()[step].is_finite(), "{what}: mean of step {step}");
        assert!(levels.iter().all(|value| value.is_finite()), "{what}: {levels:?}");
        assert!(levels.is_sorted(), "{what}: {levels:?}");
    }
    assert_eq!(forecast.quantile(horizon, 0.5), None, "{what}: behind the horizon");
}

#[test]
fn a_day_beats_the_last_value_and_a_walk_beats_the_day_ago() {
    let (ours, last, day_ago) = errors(&series("day", 12), 24);
    assert!(ours < 0.5 * last && ours < day_ago, "day: {ours} {last} {day_ago}");
    let (ours, last, day_ago) = errors(&series("walk", 12), 24);
    assert!(ours < 1.15 * last && ours < 0.5 * day_ago, "walk: {ours} {last} {day_ago}");
}

#[test]
fn a_level_shift_is_followed() {
    let mut values = series("day", 10);
    let shifted = values.len() - DAY / 4;
    for value in &mut values[shifted..] {
        *value *= 3.0;
    }
    let mut forecaster = Forecaster::fit(STEP, &values).expect("a forecaster");
    let forecast = forecaster.forecast(4).expect("a forecast");
    let now = values[values.len() - 1];
    assert!((forecast.mean()[0] - now).abs() < 0.3 * now, "{} after {now}", forecast.mean()[0]);
}

#[test]
fn the_interval_covers_what_it_says() {
    for name in ["day", "gaps"] {
        let values = series(name, 16);
        let mut forecaster = Forecaster::fit(STEP, &values[..8 * DAY]).expect("a forecaster");
        let (mut inside, mut known) = (0_u32, 0_u32);
        for origin in 8 * DAY..values.len() - 12 {
            if origin.is_multiple_of(7) {
                let forecast = forecaster.forecast(12).expect("a forecast");
                for step in (0..12).filter(|step| values[origin + step].is_finite()) {
                    let (low, high) = forecast.interval90(step).expect("an interval");
                    inside += u32::from((low..=high).contains(&values[origin + step]));
                    known += 1;
                }
            }
            forecaster.observe(values[origin]);
        }
        let coverage = f64::from(inside) / f64::from(known);
        assert!((0.86..=0.94).contains(&coverage), "{name}: {coverage}");
    }
}

#[test]
fn a_gap_is_borne() {
    let mut values = series("day", 8);
    let end = values.len();
    values[end - 40..end - 10].fill(f64::NAN);
    values[..5].fill(f64::NAN);
    values[end - 1] = f64::NAN;
    let mut forecaster = Forecaster::fit(STEP, &values).expect("a forecaster");
    is_sane(&mut forecaster, DAY, "gaps");
    let expected = series("day", 9);
    let forecast = forecaster.forecast(DAY).expect("a forecast");
    let error: f64 = (0..DAY).map(|step| (forecast.mean()[step] - expected[end + step]).abs()).sum();
    assert!(error / (DAY as f64) < 100.0, "mean error {} of a level of 1,000", error / DAY as f64);
}

#[test]
fn any_input_has_a_sane_forecast() {
    let spike = |at: usize, value: f64| -> Vec<f64> {
        (0..300).map(|index| if index == at { value } else { 5.0 }).collect()
    };
    let wave =
        |scale: f64| -> Vec<f64> { (0..300).map(|index| scale * (f64::from(index) * 0.7).sin()).collect() };
    let inputs: [(&str, Vec<f64>); 14] = [
        ("one", vec![3.0]),
        ("two", vec![3.0, 4.0]),
        ("ten", (0..10).map(f64::from).collect()),
        ("zeroes", vec![0.0; 300]),
        ("constant", vec![7.5; 300]),
        ("constant, negative", vec![-7.5; 300]),
        ("spike", spike(290, 1e12)),
        ("spike at the end", spike(299, 1e300)),
        ("negative", wave(10.0)),
        ("huge", wave(f64::MAX)),
        ("tiny", wave(1e-310)),
        ("infinite", spike(200, f64::INFINITY)),
        ("mostly gaps", (0..300).map(|i| if i % 50 == 3 { f64::from(i) } else { f64::NAN }).collect()),
        ("steps", (0..300).map(|i| f64::from(i / 60 % 2)).collect()),
    ];
    for (what, values) in inputs {
        let mut forecaster = Forecaster::fit(Duration::from_secs(3_600), &values).expect("a forecaster");
        is_sane(&mut forecaster, 24, what);
        forecaster.observe(f64::NEG_INFINITY);
        is_sane(&mut forecaster, 1, what);
    }
}

#[test]
fn what_has_no_forecast_says_why() {
    assert_eq!(Forecaster::new(Duration::ZERO).err(), Some(Error::NoStep));
    let mut forecaster = Forecaster::fit(STEP, &[f64::NAN; 20]).expect("a forecaster");
    assert_eq!(forecaster.forecast(1).err(), Some(Error::NoValue));
    forecaster.observe(1.0);
    assert_eq!(forecaster.forecast(0).err(), Some(Error::Horizon(0)));
    assert_eq!(forecaster.forecast(MAX_HORIZON + 1).err(), Some(Error::Horizon(MAX_HORIZON + 1)));
    assert_eq!(forecaster.forecast(3).expect("a forecast").mean(), [1.0; 3]);
}

#[test]
fn a_load_is_never_negative() {
    let mut forecaster = Forecaster::fit(STEP, &series("on-off", 6)).expect("a forecaster");
    let forecast = forecaster.forecast(DAY).expect("a forecast");
    assert!((0..DAY).all(|step| forecast.quantile(step, 0.001).is_some_and(|value| value >= 0.0)));
}

#[test]
fn the_same_values_give_the_same_forecast() {
    let values = series("bursts", 5);
    let forecast = || Forecaster::fit(STEP, &values).and_then(|mut forecaster| forecaster.forecast(DAY));
    assert_eq!(forecast(), forecast());
}

#[test]
fn a_lead_time_finds_its_step() {
    let mut forecaster = Forecaster::fit(STEP, &[1.0, 2.0, 3.0]).expect("a forecaster");
    let forecast = forecaster.forecast(4).expect("a forecast");
    let steps = [0, 1, 900, 901, 3_600, 90_000].map(|lead| forecast.step_at(Duration::from_secs(lead)));
    assert_eq!(steps, [0, 0, 0, 1, 3, 3]);
}
