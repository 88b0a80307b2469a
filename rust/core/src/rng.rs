//! Counter-based randomness (contract, "Randomness"): a value is a function of seed, stream and index, never of the
//! thread that asks or of what was drawn before.

/// Streams of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Initial weights (R1).
    Init = 1,
    /// Order of windows (R2).
    Order = 2,
    /// First window of an epoch (R3).
    Offset = 3,
    /// Sampling of text (R4).
    Sample = 4,
    /// First factor of adapters (R5).
    Adapter = 5,
}

/// Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub fn philox(key: u64, mut c: [u32; 4]) -> [u32; 4] {
    let (mut k0, mut k1) = (key as u32, (key >> 32) as u32);
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// The block of random bits of a stream at an index.
pub fn draw(seed: u64, stream: Stream, index: u64, sub_index: u32) -> [u32; 4] {
    philox(seed, [index as u32, (index >> 32) as u32, sub_index, stream as u32])
}

/// A uniform f64 in (0, 1) from two words.
pub fn uniform(low: u32, high: u32) -> f64 {
    let bits = (u64::from(high) << 32 | u64::from(low)) >> 12;
    // 52 bits, so that the half is exact and the result never reaches 1.
    (bits as f64 + 0.5) * (1.0 / 4_503_599_627_370_496.0)
}

/// A standard normal value (Box-Muller, contract R1).
pub fn normal(seed: u64, stream: Stream, index: u64, sub_index: u32) -> f64 {
    let [a, b, c, d] = draw(seed, stream, index, sub_index);
    libm::sqrt(-2.0 * libm::log(uniform(a, b))) * libm::cos(2.0 * std::f64::consts::PI * uniform(c, d))
}

/// A pseudo-random permutation of `0..count`, evaluated at any place in O(1) (contract R2).
///
/// A four-round Feistel network over the next even number of bits; values outside the range are sent through again
/// (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
#[derive(Clone, Copy, Debug)]
pub struct Permutation {
    seed: u64,
    epoch: u32,
    count: u64,
    half_bits: u32,
}

impl Permutation {
    /// The permutation of an epoch. `count` is at least 1.
    pub fn new(seed: u64, epoch: u32, count: u64) -> Self {
        assert!(count >= 1, "a permutation of nothing");
        let bits = 64 - (count - 1).leading_zeros();
        Self { seed, epoch, count, half_bits: bits.div_ceil(2).max(1) }
    }

    /// Where place `index < count` goes.
    pub fn at(&self, index: u64) -> u64 {
        debug_assert!(index < self.count);
        let mask = (1_u64 << self.half_bits) - 1;
        let mut x = index;
        loop {
            let (mut left, mut right) = (x >> self.half_bits, x & mask);
            for round in 0..4_u32 {
                let index = u64::from(self.epoch) << 32 | right & 0xFFFF_FFFF;
                let f = draw(self.seed, Stream::Order, index, round);
                (left, right) = (right, left ^ (u64::from(f[0]) & mask));
            }
            x = left << self.half_bits | right;
            if x < self.count {
                return x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Known answers of Random123 (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_answers() {
        assert_eq!(philox(0, [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox(u64::MAX, [u32::MAX; 4]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox(0x299f_31d0_a409_3822, [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    proptest! {
        #[test]
        fn a_permutation_hits_every_place_once(seed: u64, epoch: u32, count in 1_u64..3000) {
            let p = Permutation::new(seed, epoch, count);
            let mut seen = vec![false; count as usize];
            for i in 0..count {
                let x = p.at(i) as usize;
                prop_assert!(!seen[x]);
                seen[x] = true;
            }
        }
    }

    #[test]
    fn normal_values_have_mean_zero_and_variance_one() {
        let n = 100_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for i in 0..n {
            let x = normal(7, Stream::Init, i, 0);
            sum += x;
            squares += x * x;
        }
        assert!((sum / n as f64).abs() < 0.02 && (squares / n as f64 - 1.0).abs() < 0.03);
    }
}
