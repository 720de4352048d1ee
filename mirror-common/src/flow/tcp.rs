//! TCP flags as they lie in the header.

/// Sender has finished.
pub const FIN: u8 = 1;
/// First sequence number.
pub const SYN: u8 = 2;
/// Connection refused, or given up.
pub const RST: u8 = 4;
/// Push.
pub const PSH: u8 = 8;
/// The acknowledgement field means something.
pub const ACK: u8 = 16;
/// Urgent pointer.
pub const URG: u8 = 32;
