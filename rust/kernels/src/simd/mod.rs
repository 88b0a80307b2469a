//! Sixteen-lane vectors over a proof token.
//!
//! Every kernel is one generic body over a [`Simd`] token. A token is zero-sized and stands for "this CPU has these
//! instructions"; only [`dispatch`] makes one, after run-time detection. A vector always has sixteen lanes: one
//! 512-bit register, two 256-bit or four 128-bit registers or an array of sixteen scalars, so the arithmetic structure of a
//! kernel (docs/contract.md) is the same on every instruction set. The portable token is the specification.
//!
//! A new instruction set is a file beside `avx2.rs` with one `impl Simd`, a variant of [`Isa`] and a table of tiles in
//! `gemm/tables.rs`.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod integers;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
mod portable;

pub use integers::Integers;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use portable::F as Lanes;
pub use portable::{Portable, soft_fma};
use std::sync::OnceLock;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Operations on sixteen f32 lanes. Each is correctly rounded, lane by lane, on every instruction set.
///
/// # Safety
/// The pointer methods read or write exactly the lanes they name; the caller guarantees that these are in bounds.
pub trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen truth values.
    type M: Copy;
    /// Sixteen f64.
    type D: Copy;
    /// Rows of the matrix microkernel: as many accumulators as the registers hold.
    const TILE_ROWS: usize;
    /// Vectors per row of the matrix microkernel (1 or 2).
    const TILE_VECTORS: usize;
    /// Whether the rows of a microkernel are written out: the compiler leaves a loop over them as it is where a vector is
    /// as many registers as here, and keeps their accumulators in memory.
    const WRITTEN_OUT: bool = false;

    /// All lanes equal to `x`.
    fn splat(self, x: f32) -> Self::F;
    /// All lanes equal to the one element at `p`.
    ///
    /// # Safety
    /// `p` is readable.
    #[inline(always)]
    unsafe fn broadcast(self, p: *const f32) -> Self::F {
        // SAFETY: passed on to the caller.
        self.splat(unsafe { *p })
    }
    /// Sixteen lanes from memory, any alignment.
    ///
    /// # Safety
    /// `p..p+16` is readable.
    unsafe fn load(self, p: *const f32) -> Self::F;
    /// Sixteen lanes to memory, any alignment.
    ///
    /// # Safety
    /// `p..p+16` is writable.
    unsafe fn store(self, p: *mut f32, v: Self::F);
    /// The first `n <= 16` lanes from memory, the others +0.
    ///
    /// # Safety
    /// `p..p+n` is readable.
    unsafe fn load_n(self, p: *const f32, n: usize) -> Self::F;
    /// The first `n <= 16` lanes to memory.
    ///
    /// # Safety
    /// `p..p+n` is writable.
    unsafe fn store_n(self, p: *mut f32, v: Self::F, n: usize);
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`, correctly rounded.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// Square root, correctly rounded.
    fn sqrt(self, a: Self::F) -> Self::F;
    /// `a * b + c` with one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `-(a * b) + c` with one rounding.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b - c` with one rounding.
    fn fms(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a > b`, false for NaN.
    fn gt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `!(a > b)`, true for NaN.
    fn not_gt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `mask ? a : b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// Mask of the lanes below `n`.
    fn first_n(self, n: usize) -> Self::M;
    /// Adds the integer held in the low bits of `t = n + 1.5 * 2^23` to the exponent of `p`: `p * 2^n` without a
    /// multiplication, for results that stay normal.
    fn exponent_add(self, p: Self::F, t: Self::F) -> Self::F;
    /// Lanes as an array.
    fn to_array(self, v: Self::F) -> [f32; LANES];
    /// Transposes a 16 x 16 block: lane j of result i is lane i of argument j.
    fn transpose(self, rows: [Self::F; LANES]) -> [Self::F; LANES];
    /// Sixteen f64 zeros.
    fn zero_d(self) -> Self::D;
    /// `d + f64(v)^2`, lane by lane (the product is exact).
    fn add_square_d(self, d: Self::D, v: Self::F) -> Self::D;
    /// Lanes as an array.
    fn to_array_d(self, d: Self::D) -> [f64; LANES];

    // Integers: sixteen i32, held as the bits of sixteen f32.

    /// The nearest integers, ties to even; every lane is below 2^22 in magnitude.
    fn to_ints(self, x: Self::F) -> Self::F;
    /// The nearest f32 to each integer.
    fn ints_to_f32(self, x: Self::F) -> Self::F;
    /// The larger of the bits of `a`, which has no signs, and of `x` without its signs: infinities and NaN are above all.
    fn max_bits(self, a: Self::F, x: Self::F) -> Self::F;
    /// Pairs of 16-bit integers: the low half from `low`, the high half from `high`.
    fn pairs(self, low: Self::F, high: Self::F) -> Self::F;
    /// Sixteen 16-bit integers from memory.
    ///
    /// # Safety
    /// `p..p+16` is readable.
    unsafe fn load_i16(self, p: *const i16) -> Self::F;
    /// Sixteen integers to memory, which fit into 16 bits.
    ///
    /// # Safety
    /// `p..p+16` is writable.
    unsafe fn store_i16(self, p: *mut i16, x: Self::F);

    /// Asks for the cache line of `p` in the second-level cache. A hint: any address will do.
    #[inline(always)]
    fn prefetch(self, _p: *const f32) {}
    /// Asks for the cache line of `p` in the first-level cache. A hint: any address will do.
    #[inline(always)]
    fn prefetch_near(self, _p: *const f32) {}

    /// `a > b ? a : b`.
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.gt(a, b), a, b)
    }
    /// `a < b ? a : b`.
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        self.select(self.gt(b, a), a, b)
    }
    /// All lanes +0.
    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }
    /// `mask ? a : +0`.
    #[inline(always)]
    fn keep(self, mask: Self::M, a: Self::F) -> Self::F {
        self.select(mask, a, self.zero())
    }
}

/// A kernel body that runs under any token. `run` must be `#[inline(always)]`, so that it is compiled with the
/// instructions of the token.
pub trait Kernel {
    /// What the kernel returns.
    type Output;
    /// The body.
    fn run<S: Simd>(self, s: S) -> Self::Output;
}

/// Instruction sets with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isa {
    /// The specification: arrays of scalars. With hardware FMA where the CPU has it, with exact emulation elsewhere.
    Portable,
    /// The specification with emulated FMA even where the CPU has it; for tests.
    PortableSoft,
    /// x86-64 AVX2 and FMA.
    Avx2,
    /// x86-64 AVX-512F.
    Avx512,
    /// aarch64 NEON.
    Neon,
}

impl Isa {
    /// Every instruction set, fastest first.
    pub const ALL: [Isa; 5] = [Isa::Avx512, Isa::Avx2, Isa::Neon, Isa::Portable, Isa::PortableSoft];

    /// The name that `SYMLM_ISA` takes.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::PortableSoft => "portable-soft",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
        }
    }

    /// Whether this CPU (and operating system) can run it.
    pub fn is_available(self) -> bool {
        match self {
            Isa::Portable | Isa::PortableSoft => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => std::arch::is_x86_feature_detected!("avx2") && hardware_fma(),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => std::arch::is_x86_feature_detected!("avx512f") && Isa::Avx2.is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon => false,
        }
    }

    /// The instruction sets this CPU can run, fastest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The instruction set called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Isa> {
        Isa::ALL.into_iter().find(|isa| isa.name() == name)
    }

    /// The fastest available one.
    pub fn detect() -> Isa {
        static DETECTED: OnceLock<Isa> = OnceLock::new();
        *DETECTED.get_or_init(|| Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable))
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) fn hardware_fma() -> bool {
    std::arch::is_x86_feature_detected!("fma") && std::arch::is_x86_feature_detected!("avx")
}

/// Runs `kernel` with the token of `isa`.
///
/// # Panics
/// If the CPU lacks the instruction set.
#[inline]
pub fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    #[cfg(target_arch = "x86_64")]
    match isa {
        Isa::Avx512 => {
            assert!(Isa::Avx512.is_available(), "this CPU has no AVX-512");
            // SAFETY: the features were just detected.
            return unsafe { run_avx512(kernel) };
        }
        Isa::Avx2 => {
            assert!(Isa::Avx2.is_available(), "this CPU has no AVX2 with FMA");
            // SAFETY: the features were just detected.
            return unsafe { run_avx2(kernel) };
        }
        Isa::Portable if hardware_fma() => {
            // SAFETY: the features were just detected.
            return unsafe { run_portable_fma(kernel) };
        }
        _ => {}
    }
    #[cfg(target_arch = "aarch64")]
    match isa {
        Isa::Neon => {
            assert!(Isa::Neon.is_available(), "this CPU has no NEON");
            // SAFETY: the feature was just detected.
            return unsafe { run_neon(kernel) };
        }
        // aarch64 always has fused multiply-add, so mul_add is one instruction.
        Isa::Portable => return kernel.run(Portable::<true>::new()),
        _ => {}
    }
    assert!(isa == Isa::Portable || isa == Isa::PortableSoft, "this CPU cannot run {}", isa.name());
    kernel.run(Portable::<false>::new())
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
unsafe fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller guarantees AVX-512F, AVX2 and FMA.
    kernel.run(unsafe { avx512::Avx512::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller guarantees AVX2 and FMA.
    kernel.run(unsafe { avx2::Avx2::new() })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,fma")]
unsafe fn run_portable_fma<K: Kernel>(kernel: K) -> K::Output {
    kernel.run(Portable::<true>::new())
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
unsafe fn run_neon<K: Kernel>(kernel: K) -> K::Output {
    // SAFETY: the caller guarantees NEON.
    kernel.run(unsafe { neon::Neon::new() })
}
