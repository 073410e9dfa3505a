//! A conformance suite for service registries.
