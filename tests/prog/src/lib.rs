//! Packet fixtures through the loaded programs.
