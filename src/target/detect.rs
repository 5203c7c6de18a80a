//! What the processor at hand is: instruction set, features, caches.

use crate::base::machine::Isa;

/// The best instruction set of the table that this processor has.
pub(super) fn isa() -> Isa {
    let best = [Isa::X86_64V4, Isa::X86_64V3, Isa::X86_64, Isa::Aarch64];
    best.into_iter().find(|isa| has(*isa)).unwrap_or(Isa::X86_64)
}

pub(super) fn describe(isa: Isa) -> &'static str {
    match isa {
        Isa::X86_64 => "x86-64 without AVX2 and FMA",
        Isa::X86_64V3 => "x86-64-v3: AVX2 and FMA, without AVX-512",
        Isa::X86_64V4 => "x86-64-v4: AVX-512",
        Isa::Aarch64 => "64-bit ARM",
        Isa::Gpu => "a GPU",
    }
}

/// Whether this processor runs code for the instruction set.
#[cfg(target_arch = "x86_64")]
pub(super) fn has(isa: Isa) -> bool {
    use std::is_x86_feature_detected as detected;
    let v3 = || {
        detected!("avx2")
            && detected!("fma")
            && detected!("bmi1")
            && detected!("bmi2")
            && detected!("lzcnt")
            && detected!("popcnt")
    };
    match isa {
        Isa::X86_64 => true,
        Isa::X86_64V3 => v3(),
        Isa::X86_64V4 => {
            v3() && detected!("avx512f")
                && detected!("avx512bw")
                && detected!("avx512cd")
                && detected!("avx512dq")
                && detected!("avx512vl")
        }
        Isa::Aarch64 | Isa::Gpu => false,
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn has(isa: Isa) -> bool {
    match isa {
        Isa::X86_64 | Isa::X86_64V3 | Isa::X86_64V4 | Isa::Gpu => false,
        Isa::Aarch64 => cfg!(target_arch = "aarch64"),
    }
}

/// Names of the features that matter to dlc.
#[cfg(target_arch = "x86_64")]
pub(super) fn features() -> Vec<&'static str> {
    macro_rules! present {
        ($($name:tt),*) => {
            [$(($name, std::is_x86_feature_detected!($name))),*]
        };
    }
    let all = present!(
        "sse4.1",
        "sse4.2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512dq",
        "avx512vnni",
        "avx512bf16",
        "avxvnni"
    );
    all.into_iter().filter(|(_, here)| *here).map(|(name, _)| name).collect()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn features() -> Vec<&'static str> {
    if cfg!(target_arch = "aarch64") { vec!["neon"] } else { vec![] }
}

/// Bytes of L1 data, L2, and one core's share of L3, as the processor states them.
///
/// CPUID leaf 4 (Intel) and 0x8000001D (AMD) list the caches in one format: Intel SDM volume 2A,
/// "CPUID"; AMD64 APM volume 3, appendix E.
#[cfg(target_arch = "x86_64")]
pub(super) fn caches() -> Option<[u64; 3]> {
    use std::arch::x86_64::__cpuid_count as cpuid;
    let vendor = cpuid(0, 0);
    let amd = vendor.ebx == u32::from_le_bytes(*b"Auth");
    let leaf = if amd { 0x8000_001d } else { 4 };
    let highest = if amd { cpuid(0x8000_0000, 0).eax } else { vendor.eax };
    if highest < leaf {
        return None;
    }
    let mut caches = [0u64; 3];
    for entry in 0..16 {
        let c = cpuid(leaf, entry);
        let (kind, level) = (c.eax & 31, (c.eax >> 5 & 7) as usize);
        if kind == 0 {
            break;
        }
        let data = kind != 2;
        if data && (1..=3).contains(&level) {
            let ways = (c.ebx >> 22) as u64 + 1;
            let partitions = (c.ebx >> 12 & 0x3ff) as u64 + 1;
            let line = (c.ebx & 0xfff) as u64 + 1;
            let bytes = ways * partitions * line * (c.ecx as u64 + 1);
            let sharers = (c.eax >> 14 & 0xfff) as u64 + 1;
            caches[level - 1] = if level == 3 { bytes / sharers } else { bytes };
        }
    }
    (caches[0] > 0 && caches[1] > 0).then(|| {
        // A share of L3 that is smaller than L2 is no help to blocking.
        [caches[0], caches[1], caches[2].max(caches[1])]
    })
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn caches() -> Option<[u64; 3]> {
    None
}
