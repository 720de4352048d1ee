//! The three commands of bpf(2) that are needed, each in one place.
#![allow(unsafe_code, reason = "system calls that aya hides behind an interface without the log")]

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Instant,
};

use anyhow::{Context, Result};
use aya_obj::{
    Function,
    generated::{bpf_attr, bpf_cmd, bpf_prog_info},
};

use super::report::{Cost, Outcome, Verdict};

/// `BPF_F_XDP_HAS_FRAGS`.
pub(super) const XDP_HAS_FRAGS: u32 = 1 << 5;
/// `BPF_LOG_STATS`: the summary, whatever else is logged.
const LOG_STATS: u32 = 4;
/// Bytes for a log; since Linux 6.4 a longer one keeps its end. Pages that stay unused cost nothing.
const LOG_BYTES: usize = 256 << 20;
/// Bytes for the summary alone.
const STATS_BYTES: usize = 64 << 10;

/// What a program is loaded as.
#[derive(Clone, Copy)]
pub(super) struct Kind {
    pub(super) program: u32,
    pub(super) attach: u32,
    pub(super) flags: u32,
}

fn bpf(command: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i32> {
    // SAFETY: `attr` is a whole `bpf_attr`, its pointers outlive the call, and the kernel checks the rest.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attr, size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of integers and pointers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// Loads the object's type information.
pub(super) fn load_btf(bytes: &[u8]) -> Result<OwnedFd> {
    let mut attr = zeroed();
    // SAFETY: BPF_BTF_LOAD reads this member of the union.
    let load = unsafe { &mut attr.__bindgen_anon_7 };
    load.btf = bytes.as_ptr() as u64;
    load.btf_size = bytes.len() as u32;
    let fd = bpf(bpf_cmd::BPF_BTF_LOAD, &mut attr).context("the kernel refuses the object's BTF")?;
    // SAFETY: a descriptor that the kernel has just made for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads one program: with the summary alone, and, if it is refused, once more with the whole log.
pub(super) fn load_program(
    name: &str,
    kind: Kind,
    license: &CStr,
    function: &Function,
    btf: BorrowedFd<'_>,
    log_level: u32,
) -> Result<Outcome> {
    let start = Instant::now();
    let load = |level, bytes| try_load(name, kind, license, function, btf, level, bytes);
    let (result, log) = match load(LOG_STATS, STATS_BYTES) {
        (Ok(fd), log) if log_level == 1 => (Ok(fd), log),
        _ => load(log_level | LOG_STATS, LOG_BYTES),
    };
    let verdict = match result {
        Ok(fd) => Verdict::Loaded(cost(&fd, function, &log)?),
        Err(error) => Verdict::Refused(error),
    };
    Ok(Outcome { name: name.to_owned(), verdict, log, elapsed: start.elapsed() })
}

fn try_load(
    name: &str,
    kind: Kind,
    license: &CStr,
    function: &Function,
    btf: BorrowedFd<'_>,
    log_level: u32,
    log_bytes: usize,
) -> (io::Result<OwnedFd>, String) {
    let mut log = vec![0u8; log_bytes];
    let mut attr = zeroed();
    // SAFETY: BPF_PROG_LOAD reads this member of the union.
    let load = unsafe { &mut attr.__bindgen_anon_3 };
    // One byte stays zero.
    let room = load.prog_name.len() - 1;
    for (to, from) in load.prog_name.iter_mut().zip(name.bytes().take(room)) {
        *to = from as libc::c_char;
    }
    load.prog_type = kind.program;
    load.expected_attach_type = kind.attach;
    load.prog_flags = kind.flags;
    load.insns = function.instructions.as_ptr() as u64;
    load.insn_cnt = function.instructions.len() as u32;
    load.license = license.as_ptr() as u64;
    load.prog_btf_fd = btf.as_raw_fd() as u32;
    load.func_info = function.func_info.func_info.as_ptr() as u64;
    load.func_info_cnt = function.func_info.func_info.len() as u32;
    load.func_info_rec_size = function.func_info_rec_size as u32;
    load.line_info = function.line_info.line_info.as_ptr() as u64;
    load.line_info_cnt = function.line_info.line_info.len() as u32;
    load.line_info_rec_size = function.line_info_rec_size as u32;
    load.log_level = log_level;
    load.log_buf = log.as_mut_ptr() as u64;
    load.log_size = log.len() as u32;
    let result = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]).into_owned();
    // SAFETY: a descriptor that the kernel has just made for us.
    (result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }), text)
}

/// What the kernel says of a loaded program.
fn cost(program: &OwnedFd, function: &Function, log: &str) -> Result<Cost> {
    // SAFETY: a struct of integers, for which zero is a value.
    let mut info: bpf_prog_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    // SAFETY: BPF_OBJ_GET_INFO_BY_FD reads this member of the union.
    let get = unsafe { &mut attr.info };
    get.bpf_fd = program.as_raw_fd() as u32;
    get.info_len = size_of::<bpf_prog_info>() as u32;
    get.info = &raw mut info as u64;
    bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr)
        .context("the kernel says nothing about the loaded program")?;
    Ok(Cost::new(&info, function.instructions.len(), log))
}
