//! aya loads what the daemon loads: every program of the object, as root.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{maps::Map, programs::Program};
use mirror_common::abi::{self, maps, six};

fn object() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bpf/mirror.o");
    std::fs::read(path).expect("the kernel side is built: cargo xtask build-ebpf")
}

#[test]
fn aya_loads_every_program() {
    let mut programs = aya::Ebpf::load(&object()).expect("aya creates the maps");
    let mut loaded = 0;
    for (name, program) in programs.programs_mut() {
        let result = match program {
            Program::SchedClassifier(program) => program.load(),
            Program::Xdp(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            other => {
                panic!("{name}: a program of a kind that the daemon doesn't load: {:?}", other.prog_type())
            }
        };
        result.unwrap_or_else(|error| panic!("{name}: {error}"));
        loaded += 1;
    }
    assert!(loaded >= 2, "only {loaded} programs in the object");
}

/// What the kernel accounts for these maps, in bytes.
fn charged(loaded: &aya::Ebpf, names: &[&str]) -> usize {
    let one = |name: &&str| {
        let map = loaded.map(name).unwrap_or_else(|| panic!("no map {name}"));
        let (Map::Array(data) | Map::HashMap(data) | Map::Queue(data)) = map else {
            panic!("{name} is {map:?}")
        };
        let path = format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd());
        let info = std::fs::read_to_string(path).expect("what the kernel says of a map");
        let bytes = info.lines().find_map(|line| line.strip_prefix("memlock:")).expect("what it takes");
        bytes.trim().parse::<usize>().expect("bytes")
    };
    names.iter().map(one).sum()
}

/// The doctor weighs it against what is free.
#[test]
fn a_flow_costs_what_is_said() {
    let loaded = aya::Ebpf::load(&object()).expect("aya creates the maps");
    let flows = abi::DEFAULT_FLOWS as usize;
    for (names, said) in [
        (&[maps::FLOWS, maps::SLOTS, maps::TUPLES][..], abi::BYTES_A_FLOW),
        (&[maps::CLIENTS, maps::FREE_CLIENTS, maps::CLIENT_ALIASES], six::BYTES_A_FLOW),
    ] {
        let charged = charged(&loaded, names);
        // Heads of maps, and pages that aren't full.
        let more = charged.checked_sub(flows * said).unwrap_or_else(|| panic!("{names:?}: {charged} bytes"));
        assert!(more < 32_768, "{names:?}: {charged} bytes, {} a flow, not {said}", charged / flows);
    }
}
