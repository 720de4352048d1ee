//! Pure control logic of the gateway: neither the network nor the kernel can be reached from here.
#![forbid(unsafe_code)]
