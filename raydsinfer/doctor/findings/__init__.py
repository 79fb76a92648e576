"""What probes find: plain values, which pass between processes and which tests write down for other machines."""
