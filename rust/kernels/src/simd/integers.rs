//! Which instructions multiply 16-bit integers.

use super::Isa;

/// Instructions for products of 16-bit integers, each with the instruction set that everything else runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integers {
    /// AVX-512 with one instruction for two multiply-adds (AVX512-VNNI).
    Avx512Vnni,
    /// AVX-512 with two instructions (AVX-512BW).
    Avx512Bw,
    /// AVX2 with one instruction (AVX-VNNI).
    AvxVnni,
    /// AVX2 with two instructions.
    Avx2,
    /// NEON.
    Neon,
    /// The specification.
    Portable,
    /// The specification beside emulated FMA; for tests.
    PortableSoft,
}

impl Integers {
    /// All, fastest first.
    pub const ALL: [Integers; 7] = [
        Integers::Avx512Vnni,
        Integers::Avx512Bw,
        Integers::AvxVnni,
        Integers::Avx2,
        Integers::Neon,
        Integers::Portable,
        Integers::PortableSoft,
    ];

    /// The name that is shown, and that `SYMLM_INT16` takes.
    pub fn name(self) -> &'static str {
        match self {
            Integers::Avx512Vnni => "avx512-vnni",
            Integers::Avx512Bw => "avx512-bw",
            Integers::AvxVnni => "avx-vnni",
            Integers::Avx2 => "avx2",
            Integers::Neon => "neon",
            Integers::Portable => "portable",
            Integers::PortableSoft => "portable-soft",
        }
    }

    /// The instruction set whose vectors it works on.
    pub fn isa(self) -> Isa {
        match self {
            Integers::Avx512Vnni | Integers::Avx512Bw => Isa::Avx512,
            Integers::AvxVnni | Integers::Avx2 => Isa::Avx2,
            Integers::Neon => Isa::Neon,
            Integers::Portable => Isa::Portable,
            Integers::PortableSoft => Isa::PortableSoft,
        }
    }

    /// Whether it can be chosen beside an instruction set: it works on the same vectors, or is the fastest there is.
    pub fn goes_with(self, isa: Isa) -> bool {
        self.isa() == isa || self == Integers::of(isa)
    }

    /// Whether this CPU can run it.
    pub fn is_available(self) -> bool {
        let has = match self {
            #[cfg(target_arch = "x86_64")]
            Integers::Avx512Vnni => std::arch::is_x86_feature_detected!("avx512vnni"),
            #[cfg(target_arch = "x86_64")]
            Integers::Avx512Bw => std::arch::is_x86_feature_detected!("avx512bw"),
            #[cfg(target_arch = "x86_64")]
            Integers::AvxVnni => std::arch::is_x86_feature_detected!("avxvnni"),
            _ => true,
        };
        has && self.isa().is_available()
    }

    /// What this CPU can run, fastest first.
    pub fn available() -> Vec<Integers> {
        Integers::ALL.into_iter().filter(|integers| integers.is_available()).collect()
    }

    /// What is called `name`, if anything.
    pub fn from_name(name: &str) -> Option<Integers> {
        Integers::ALL.into_iter().find(|integers| integers.name() == name)
    }

    /// The fastest that goes with an instruction set; an AVX-512 without either uses AVX2's.
    pub fn of(isa: Isa) -> Integers {
        let fits = |integers: &Integers| match isa {
            Isa::Avx512 => integers.isa() != Isa::Neon,
            Isa::Avx2 => !matches!(integers.isa(), Isa::Avx512 | Isa::Neon),
            _ => integers.isa() == isa,
        };
        let fastest = Integers::ALL.into_iter().find(|integers| fits(integers) && integers.is_available());
        fastest.unwrap_or(Integers::Portable)
    }
}
