//! A cutover that is ordered beforehand, and the times that an operator types for it.

use anyhow::{Result, anyhow, bail, ensure};
use jiff::{Timestamp, Zoned, civil, tz::Disambiguation};
use mirror_control::{appointment::LATE_MS, precondition::Precondition};

use crate::{
    api::{
        Client,
        migration::{CancelRequest, OrderRequest, Ordered},
    },
    output::print,
    policy::parse_duration,
};

/// Begin and end, in milliseconds since 1970, UTC.
type Window = (u64, u64);

/// The window that was typed. `now` has the operator's time zone.
///
/// # Errors
/// When a time is none, or there is none where one is needed.
pub(super) fn window(
    when_ready: bool,
    at: Option<&str>,
    expires: Option<&str>,
    now: &Zoned,
) -> Result<Window> {
    ensure!(when_ready || at.is_some(), "--expires is for --at or --when-ready");
    let begin = at.map_or(Ok(now.timestamp()), |at| time(at, now))?;
    let end = match expires {
        None => begin + std::time::Duration::from_millis(LATE_MS),
        Some(expires) => match parse_duration(expires) {
            Ok(duration) => begin + duration,
            // An end by the clock is the first such time behind the begin.
            Err(_) => time(expires, &begin.to_zoned(now.time_zone().clone()))?,
        },
    };
    let ms = |time: Timestamp| u64::try_from(time.as_millisecond()).map_err(|_| anyhow!("before 1970"));
    Ok((ms(begin)?, ms(end)?))
}

/// RFC 3339, or the next time that the clock says so.
fn time(text: &str, now: &Zoned) -> Result<Timestamp> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let of_day = civil::Time::strptime("%H:%M:%S", text).or_else(|_| civil::Time::strptime("%H:%M", text));
    let Ok(of_day) = of_day else {
        bail!("`{text}` is no time: 2026-11-26T03:00:00+01:00, or 03:00 or 03:00:00 of this host's clock")
    };
    let today = now.date();
    let date = if of_day > now.time() { today } else { today.tomorrow()? };
    let zone = now.time_zone().clone();
    // Where the clocks change a time may be there twice, or not at all.
    let zoned = zone.into_ambiguous_zoned(date.to_datetime(of_day)).disambiguate(Disambiguation::Reject);
    let zoned = zoned.map_err(|_| {
        anyhow!(
            "{text} on {date} is there twice or not at all, since the clocks change: write it with its offset"
        )
    })?;
    Ok(zoned.timestamp())
}

/// Orders it.
///
/// # Errors
/// When the daemon can't be reached, or refuses.
pub(super) async fn give(
    client: &Client,
    app: &str,
    when_ready: bool,
    (at_ms, until_ms): Window,
    despite: &[Precondition],
    json: bool,
) -> Result<()> {
    let body = OrderRequest { app: app.into(), at_ms, until_ms, when_ready, despite: despite.to_vec() };
    print(&client.post::<Ordered>("/cutover/order", &body).await?, json)
}

/// Ends an order.
///
/// # Errors
/// When there is none.
pub(super) async fn cancel(client: &Client, app: &str, json: bool) -> Result<()> {
    print(&client.post::<Ordered>("/cutover/cancel", &CancelRequest { app: app.into() }).await?, json)
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    /// Central Europe, by its rule.
    fn at(text: &str) -> Zoned {
        let zone = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        text.parse::<Timestamp>().unwrap().to_zoned(zone)
    }

    fn shown(when_ready: bool, times: [Option<&str>; 2], now: &Zoned) -> Result<(String, String)> {
        let (begin, end) = window(when_ready, times[0], times[1], now)?;
        let shown = |ms: u64| Timestamp::from_millisecond(ms as i64).unwrap().to_string();
        Ok((shown(begin), shown(end)))
    }

    #[test]
    fn a_time_is_the_next_one_of_the_hosts_clock() {
        let now = at("2026-11-25T19:00:00+01:00");
        let night = ("2026-11-26T02:00:00Z".to_owned(), "2026-11-26T02:01:00Z".to_owned());
        assert_eq!(shown(false, [Some("03:00"), None], &now).unwrap(), night);
        assert_eq!(shown(false, [Some("2026-11-26T03:00:00+01:00"), None], &now).unwrap(), night);
        let soon = shown(false, [Some("19:30:15"), Some("20:00")], &now).unwrap();
        assert_eq!(soon, ("2026-11-25T18:30:15Z".into(), "2026-11-25T19:00:00Z".into()));
        let over_midnight = shown(false, [Some("23:30"), Some("00:15")], &now).unwrap();
        assert_eq!(over_midnight, ("2026-11-25T22:30:00Z".into(), "2026-11-25T23:15:00Z".into()));
    }

    #[test]
    fn an_expiry_is_counted_from_the_begin() {
        let now = at("2026-11-25T19:00:00+01:00");
        let at = shown(false, [Some("20:00"), Some("2h")], &now).unwrap();
        assert_eq!(at, ("2026-11-25T19:00:00Z".into(), "2026-11-25T21:00:00Z".into()));
        let ready = shown(true, [None, Some("2h")], &now).unwrap();
        assert_eq!(ready, ("2026-11-25T18:00:00Z".into(), "2026-11-25T20:00:00Z".into()));
    }

    #[test]
    fn times_that_the_clock_skips_or_has_twice_are_refused() {
        for now in ["2026-03-28T20:00:00+01:00", "2026-10-24T20:00:00+02:00"] {
            let error = shown(false, [Some("02:30"), None], &at(now)).unwrap_err().to_string();
            assert!(error.contains("with its offset"), "{error}");
        }
    }

    #[test]
    fn what_is_no_time_is_told() {
        let now = at("2026-11-25T19:00:00+01:00");
        for text in ["tomorrow", "25:00", "3", "2026-11-26"] {
            let error = shown(false, [Some(text), None], &now).unwrap_err().to_string();
            assert!(error.contains("is no time"), "{text}: {error}");
        }
        let error = shown(false, [None, Some("2h")], &now).unwrap_err().to_string();
        assert!(error.contains("--when-ready"), "{error}");
    }
}
