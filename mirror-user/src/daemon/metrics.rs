//! Prometheus' text format, straight from the maps.

use axum::extract::State as Extract;
use prometheus_client::{
    encoding::text::encode, metrics::counter::Counter, metrics::family::Family, registry::Registry,
};

use super::serve::{App, Refused, poisoned};

/// What a scrape gets.
pub(super) async fn text(Extract(shared): Extract<App>) -> Result<String, Refused> {
    let mut registry = Registry::with_prefix("mirror");
    let packets = Family::<Vec<(String, String)>, Counter>::default();
    registry.register("packets", "Packets by what became of them", packets.clone());
    for (verdict, count) in shared.datapath.lock().map_err(poisoned)?.counters()? {
        packets.get_or_create(&vec![("verdict".into(), verdict.name().into())]).inc_by(count);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}
