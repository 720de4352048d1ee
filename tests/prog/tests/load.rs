//! aya loads what the daemon loads: every program of the object, as root.

use aya::programs::Program;

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
