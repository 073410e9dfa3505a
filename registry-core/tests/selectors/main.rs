//! Selectors and filters: shares, keys, health, and what peers do wrong.

#[path = "../common/mod.rs"]
mod common;
mod filters;
mod fleet;
mod hashing;
mod health;
mod parts;
mod peers;
mod shares;
