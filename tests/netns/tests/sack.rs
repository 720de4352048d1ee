//! Loss on the way of an upload over two legs, repaired by SACK: kernels' own, at every end.
//!
//! `MIRROR_SOAK` has the shadow's link lossy, too, and makes the uploads large enough to measure by: the rates that are printed
//! are docs/MEASURED.md's.

use std::time::Instant;

use anyhow::{Result, ensure};
use lab::{
    net::{Host, LinkSpec, SERVICE_PORT, VIP},
    wire::{Fault, Impairment},
};
use netns_tests::{Scene, lab_builder, rounds};

/// The client's way to the gateway and back, in microseconds.
const ROUND_TRIP_US: u64 = 14_000;

/// Uploads so many megabytes; returns Mbit/s.
fn upload(scene: &Scene, megabytes: u32) -> Result<f64> {
    let bytes = u64::from(megabytes) * 1_000_000;
    let command = format!(
        "head -c {bytes} /dev/zero | curl -sS --fail --max-time 600 -T - -H 'Content-Length: {bytes}' -H Expect: \
         -H 'Transfer-Encoding:' http://{VIP}:{SERVICE_PORT}/sink"
    );
    let begin = Instant::now();
    let said = scene.lab.host(Host::Client).sh(&command)?;
    ensure!(said.contains(&format!("\"length\":{bytes}")), "{said}");
    Ok(bytes as f64 * 8e-6 / begin.elapsed().as_secs_f64())
}

/// T5: a client on a lossy link sends again what both servers lack, and no more; without SACK, for it can be had without, it is
/// slower, and whole all the same.
#[test]
fn an_upload_over_a_lossy_link_is_repaired_by_what_both_servers_have() -> Result<()> {
    let megabytes = rounds(3, 60);
    let fault = Fault { delay_us: ROUND_TRIP_US / 2, ..Fault::default() };
    for lossy in [Host::Client, Host::Shadow].into_iter().take(rounds(1, 2) as usize) {
        let mut builder = lab_builder()?;
        for host in [Host::Client, Host::Shadow] {
            let loss = if host == lossy { 0.01 } else { 0.0 };
            let delay_us = if host == Host::Client { fault.delay_us } else { 0 };
            builder =
                builder.link(host, LinkSpec::wire(Impairment::both(Fault { loss, delay_us, ..fault }, 7)));
        }
        // Room for retransmissions of retransmissions, each of which waits twice as long: they are the link's fault.
        let scene = Scene::on(builder.up()?, "stall = \"5s\"", "", &[])?.joined()?;
        let client = scene.lab.host(Host::Client);
        for _ in 0..rounds(1, 3) {
            let mut rates = [0.0; 2];
            for sack in [1, 0] {
                client.sysctl("ipv4/tcp_sack", &sack.to_string())?;
                let repairs = || -> Result<[u64; 2]> {
                    Ok([client.tcp_counter("TCPSackRecovery")?, client.tcp_counter("TCPRenoRecovery")?])
                };
                let before = repairs()?;
                rates[sack] = upload(&scene, megabytes)?;
                // The last upload's connection may still be at its end.
                let [by_blocks, by_duplicates] = repairs()?;
                let (by_blocks, by_duplicates) = (by_blocks - before[0], by_duplicates - before[1]);
                ensure!(
                    (by_blocks > by_duplicates) == (sack == 1),
                    "{by_blocks} repairs by SACK, {by_duplicates} without"
                );
            }
            let [without, with] = rates;
            println!("1 % loss at the {lossy}: {with:.1} Mbit/s, {without:.1} without SACK");
        }
        ensure!(client.tcp_counter("TCPSACKReneging")? == 0, "what was shown was taken back");
        scene.wait_status("nothing is under way", |status| status["open_writes"] == 0)?;
        let status = scene.gateway.status()?;
        ensure!(status["shadow"]["in_sync"] == true, "{status}");
    }
    Ok(())
}
