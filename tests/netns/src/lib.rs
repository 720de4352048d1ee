//! Scenarios in network namespaces, by promise.
