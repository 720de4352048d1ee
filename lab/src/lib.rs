//! Hosts, links, loss and captures in network namespaces.
