//! Impaired links on real TCP stacks. Run with `--include-ignored`, as root.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lab::net::{Host, Lab, LinkSpec};
use lab::wait::wait_for;
use lab::wire::{Direction, Fate, Fault, Impairment};

/// The port that the tests use.
const PORT: u16 = 7777;

fn lab(impairment: Impairment) -> Lab {
    Lab::builder().forwarding(true).link(Host::Shadow, LinkSpec::wire(impairment)).up().unwrap()
}

fn shadow() -> SocketAddr {
    (Host::Shadow.address(), PORT).into()
}

/// Sends `length` patterned bytes from the client to the shadow over one connection; whether they arrived whole.
fn upload(lab: &Lab, length: usize) -> bool {
    let listener = lab.host(Host::Shadow).run(|| TcpListener::bind(shadow()).unwrap()).unwrap();
    let bytes: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            received
        });
        let mut stream = lab.host(Host::Client).run(|| TcpStream::connect(shadow()).unwrap()).unwrap();
        stream.write_all(&bytes).unwrap();
        drop(stream);
        receiver.join().unwrap() == bytes
    })
}

#[test]
#[ignore = "needs root"]
fn a_far_host_is_as_far_as_asked_for_and_comes_nearer_while_it_runs() {
    let lab = lab(Impairment::round_trip(40_000));
    let listener = lab.host(Host::Shadow).run(|| TcpListener::bind(shadow()).unwrap()).unwrap();
    let connect = || {
        let began = Instant::now();
        let stream = lab.host(Host::Client).run(|| TcpStream::connect(shadow()).unwrap()).unwrap();
        drop((stream, listener.accept().unwrap()));
        began.elapsed()
    };
    let far = connect();
    assert!((40..1_000).contains(&far.as_millis()), "{far:?} instead of 40 ms");
    lab.wire(Host::Shadow).unwrap().set(Impairment::default());
    // What is under way keeps its time, and a busy machine is slow at times: one near connection is enough.
    wait_for("a near host", Duration::from_secs(10), || connect() < Duration::from_millis(20)).unwrap();
}

#[test]
#[ignore = "needs root"]
fn tcp_repairs_what_a_bad_link_does() {
    let fault = Fault {
        delay_us: 500,
        jitter_us: 200,
        loss: 0.02,
        duplicate: 0.02,
        reorder: 0.02,
        reorder_us: 1_000,
        ..Fault::default()
    };
    let lab = lab(Impairment::both(fault, 42));
    assert!(upload(&lab, 5_000_000));
    let wire = lab.wire(Host::Shadow).unwrap();
    let counts = wire.counts(Direction::ToHost).unwrap();
    assert!(counts.seen > 3_000, "frames of the MTU's size, not super-packets: {counts:?}");
    for share in [counts.lost, counts.duplicated, counts.reordered] {
        let share = share as f64 / counts.seen as f64;
        assert!((0.01..0.03).contains(&share), "{share} instead of 0.02: {counts:?}");
    }
}

#[test]
#[ignore = "needs root"]
fn a_good_wire_is_a_cable() {
    let lab = lab(Impairment::default());
    let began = Instant::now();
    assert!(upload(&lab, 50_000_000));
    println!("50 MB in {:?}", began.elapsed());
    for direction in [Direction::FromHost, Direction::ToHost] {
        let counts = lab.wire(Host::Shadow).unwrap().counts(direction).unwrap();
        assert_eq!(
            (counts.lost, counts.duplicated, counts.reordered, counts.overflowed),
            (0, 0, 0, 0),
            "{counts:?}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_filter_loses_exactly_the_frame_that_it_names() {
    let lab = lab(Impairment::default());
    let seen = Arc::new(AtomicU32::new(0));
    let count = Arc::clone(&seen);
    // The second datagram: by its last byte, which stands at the frame's end.
    lab.wire(Host::Shadow).unwrap().set_filter(move |direction, frame| {
        if direction == Direction::ToHost && frame.ends_with(b"datagram 2") {
            count.fetch_add(1, Ordering::Relaxed);
            return Fate::Drop;
        }
        Fate::Pass
    });
    let receiver = lab.host(Host::Shadow).run(|| UdpSocket::bind(shadow()).unwrap()).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = lab.host(Host::Client).run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    for number in 1..=3 {
        sender.send_to(format!("datagram {number}").as_bytes(), shadow()).unwrap();
    }
    let mut buffer = [0; 64];
    let mut next = || {
        let length = receiver.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    assert_eq!([next(), next()], ["datagram 1", "datagram 3"]);
    assert_eq!(seen.load(Ordering::Relaxed), 1);
}

#[test]
#[ignore = "needs root"]
fn a_link_that_is_cut_loses_everything_and_comes_back() {
    let lab = lab(Impairment::default());
    let receiver = lab.host(Host::Shadow).run(|| UdpSocket::bind(shadow()).unwrap()).unwrap();
    receiver.set_nonblocking(true).unwrap();
    let sender = lab.host(Host::Client).run(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let arrives = |deadline| {
        wait_for("a datagram", deadline, || {
            let _ = sender.send_to(b"x", shadow());
            receiver.recv(&mut [0; 8]).is_ok()
        })
        .is_ok()
    };
    assert!(arrives(Duration::from_secs(5)));
    lab.set_link(Host::Shadow, false).unwrap();
    while receiver.recv(&mut [0; 8]).is_ok() {}
    assert!(!arrives(Duration::from_millis(300)), "the link is down");
    lab.set_link(Host::Shadow, true).unwrap();
    assert!(arrives(Duration::from_secs(10)), "the link is up again");
    lab.wire(Host::Shadow).unwrap().counts(Direction::ToHost).unwrap();
}
