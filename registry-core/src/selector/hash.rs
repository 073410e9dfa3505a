//! Hashes that are the same in every process, on every machine and in every release: clients must agree.

use crate::instance::Instance;

/// FNV-1a, mixed: short keys that differ in one bit differ in half of the bits.
pub(super) fn bytes(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[inline]
pub(super) const fn mix(hash: u64) -> u64 {
    let hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Of who the instance is, never of its address.
pub(super) fn instance(instance: &Instance) -> u64 {
    bytes(instance.id.as_str().as_bytes())
}

/// Two hashes as one.
#[inline]
pub(super) const fn pair(one: u64, other: u64) -> u64 {
    mix(one ^ other.rotate_left(32))
}

/// A position below `len` for the upper half of the hash, each with the same chance, to 1 in 2³² ÷ `len`.
#[inline]
pub(super) const fn below(hash: u64, len: usize) -> usize {
    (((hash >> 32) * len as u64) >> 32) as usize
}

/// A number in (0, 1).
#[inline]
pub(super) fn unit(hash: u64) -> f64 {
    ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_never_changes() {
        assert_eq!(bytes(b"user-42"), 16_324_320_986_541_187_651);
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
    }
}
