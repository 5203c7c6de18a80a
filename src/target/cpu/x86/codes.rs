//! Which opcode an operation is, by level, element and width.

use super::Level;
use super::inst::{Code, View};
use crate::base::DType;

/// How many bits of a vector register an operation uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Width {
    /// One element.
    One,
    X,
    Y,
    Z,
}

impl Width {
    /// That of a vector of so many bytes.
    pub fn of(bytes: usize) -> Option<Width> {
        match bytes {
            16 => Some(Width::X),
            32 => Some(Width::Y),
            64 => Some(Width::Z),
            _ => None,
        }
    }
}

/// A shape of operands: one float or a vector of floats or integers, at a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub level: Level,
    pub dtype: DType,
    pub width: Width,
}

impl Shape {
    /// One float.
    pub fn one(level: Level, dtype: DType) -> Shape {
        Shape { level, dtype, width: Width::One }
    }

    /// A whole register.
    pub fn full(level: Level, dtype: DType) -> Shape {
        let width = if level == Level::V3 { Width::Y } else { Width::Z };
        Shape { level, dtype, width }
    }

    pub fn is_vector(self) -> bool {
        self.width != Width::One
    }

    /// The view of its registers.
    pub fn view(self) -> View {
        match self.width {
            Width::One | Width::X => View::X,
            Width::Y => View::Y,
            Width::Z => View::Z,
        }
    }

    fn wide(self) -> bool {
        self.dtype.bytes() == 8
    }

    /// The opcode for this width, given the one for whole registers: the encoder counts opcodes of
    /// one operation from 128 bits on.
    pub fn fit(self, full: Code) -> Code {
        let steps = match (self.level, self.width) {
            (_, Width::One) | (Level::V3, Width::Y | Width::Z) | (Level::V4, Width::Z) => 0,
            (Level::V3, Width::X) | (Level::V4, Width::Y) => 1,
            (Level::V4, Width::X) => 2,
        };
        let code = match (full, steps) {
            // These have no form of 128 bits.
            (Code::VEX_Vbroadcastsd_ymm_m64 | Code::VEX_Vbroadcastsd_ymm_xmm, 1) => {
                return Code::VEX_Vpbroadcastq_xmm_xmmm64;
            }
            (Code::EVEX_Vbroadcastsd_zmm_k1z_xmmm64, 2) => {
                return Code::EVEX_Vpbroadcastq_xmm_k1z_xmmm64;
            }
            (full, steps) => full as usize - steps,
        };
        Code::try_from(code).unwrap_or(Code::INVALID)
    }
}

macro_rules! by_shape {
    ($(#[$doc:meta])* $name:ident { $($(#[$about:meta])* $op:ident: [$($code:ident),* $(,)?],)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name { $($(#[$about])* $op),* }

        impl $name {
            #[cfg(test)]
            const ALL: &[$name] = &[$($name::$op),*];

            /// Rows: vectors, then scalars, of AVX2; the same of AVX-512. Columns: 4 and 8 bytes.
            fn row(self) -> &'static [Code] {
                match self { $($name::$op => &[$(Code::$code),*]),* }
            }
        }
    };
}

by_shape! {
    /// Float operations: `op dst, a, b` (or `op dst, a` for vectors of unary ones), or with the
    /// first operand tied.
    Fp {
        Add: [VEX_Vaddps_ymm_ymm_ymmm256, VEX_Vaddpd_ymm_ymm_ymmm256,
              VEX_Vaddss_xmm_xmm_xmmm32, VEX_Vaddsd_xmm_xmm_xmmm64,
              EVEX_Vaddps_zmm_k1z_zmm_zmmm512b32_er, EVEX_Vaddpd_zmm_k1z_zmm_zmmm512b64_er,
              EVEX_Vaddss_xmm_k1z_xmm_xmmm32_er, EVEX_Vaddsd_xmm_k1z_xmm_xmmm64_er],
        Sub: [VEX_Vsubps_ymm_ymm_ymmm256, VEX_Vsubpd_ymm_ymm_ymmm256,
              VEX_Vsubss_xmm_xmm_xmmm32, VEX_Vsubsd_xmm_xmm_xmmm64,
              EVEX_Vsubps_zmm_k1z_zmm_zmmm512b32_er, EVEX_Vsubpd_zmm_k1z_zmm_zmmm512b64_er,
              EVEX_Vsubss_xmm_k1z_xmm_xmmm32_er, EVEX_Vsubsd_xmm_k1z_xmm_xmmm64_er],
        Mul: [VEX_Vmulps_ymm_ymm_ymmm256, VEX_Vmulpd_ymm_ymm_ymmm256,
              VEX_Vmulss_xmm_xmm_xmmm32, VEX_Vmulsd_xmm_xmm_xmmm64,
              EVEX_Vmulps_zmm_k1z_zmm_zmmm512b32_er, EVEX_Vmulpd_zmm_k1z_zmm_zmmm512b64_er,
              EVEX_Vmulss_xmm_k1z_xmm_xmmm32_er, EVEX_Vmulsd_xmm_k1z_xmm_xmmm64_er],
        Div: [VEX_Vdivps_ymm_ymm_ymmm256, VEX_Vdivpd_ymm_ymm_ymmm256,
              VEX_Vdivss_xmm_xmm_xmmm32, VEX_Vdivsd_xmm_xmm_xmmm64,
              EVEX_Vdivps_zmm_k1z_zmm_zmmm512b32_er, EVEX_Vdivpd_zmm_k1z_zmm_zmmm512b64_er,
              EVEX_Vdivss_xmm_k1z_xmm_xmmm32_er, EVEX_Vdivsd_xmm_k1z_xmm_xmmm64_er],
        Min: [VEX_Vminps_ymm_ymm_ymmm256, VEX_Vminpd_ymm_ymm_ymmm256,
              VEX_Vminss_xmm_xmm_xmmm32, VEX_Vminsd_xmm_xmm_xmmm64,
              EVEX_Vminps_zmm_k1z_zmm_zmmm512b32_sae, EVEX_Vminpd_zmm_k1z_zmm_zmmm512b64_sae,
              EVEX_Vminss_xmm_k1z_xmm_xmmm32_sae, EVEX_Vminsd_xmm_k1z_xmm_xmmm64_sae],
        Max: [VEX_Vmaxps_ymm_ymm_ymmm256, VEX_Vmaxpd_ymm_ymm_ymmm256,
              VEX_Vmaxss_xmm_xmm_xmmm32, VEX_Vmaxsd_xmm_xmm_xmmm64,
              EVEX_Vmaxps_zmm_k1z_zmm_zmmm512b32_sae, EVEX_Vmaxpd_zmm_k1z_zmm_zmmm512b64_sae,
              EVEX_Vmaxss_xmm_k1z_xmm_xmmm32_sae, EVEX_Vmaxsd_xmm_k1z_xmm_xmmm64_sae],
        Sqrt: [VEX_Vsqrtps_ymm_ymmm256, VEX_Vsqrtpd_ymm_ymmm256,
               VEX_Vsqrtss_xmm_xmm_xmmm32, VEX_Vsqrtsd_xmm_xmm_xmmm64,
               EVEX_Vsqrtps_zmm_k1z_zmmm512b32_er, EVEX_Vsqrtpd_zmm_k1z_zmmm512b64_er,
               EVEX_Vsqrtss_xmm_k1z_xmm_xmmm32_er, EVEX_Vsqrtsd_xmm_k1z_xmm_xmmm64_er],
        Round: [VEX_Vroundps_ymm_ymmm256_imm8, VEX_Vroundpd_ymm_ymmm256_imm8,
                VEX_Vroundss_xmm_xmm_xmmm32_imm8, VEX_Vroundsd_xmm_xmm_xmmm64_imm8,
                EVEX_Vrndscaleps_zmm_k1z_zmmm512b32_imm8_sae,
                EVEX_Vrndscalepd_zmm_k1z_zmmm512b64_imm8_sae,
                EVEX_Vrndscaless_xmm_k1z_xmm_xmmm32_imm8_sae,
                EVEX_Vrndscalesd_xmm_k1z_xmm_xmmm64_imm8_sae],
        Fma132: [VEX_Vfmadd132ps_ymm_ymm_ymmm256, VEX_Vfmadd132pd_ymm_ymm_ymmm256,
                 VEX_Vfmadd132ss_xmm_xmm_xmmm32, VEX_Vfmadd132sd_xmm_xmm_xmmm64,
                 EVEX_Vfmadd132ps_zmm_k1z_zmm_zmmm512b32_er,
                 EVEX_Vfmadd132pd_zmm_k1z_zmm_zmmm512b64_er,
                 EVEX_Vfmadd132ss_xmm_k1z_xmm_xmmm32_er, EVEX_Vfmadd132sd_xmm_k1z_xmm_xmmm64_er],
        Fma213: [VEX_Vfmadd213ps_ymm_ymm_ymmm256, VEX_Vfmadd213pd_ymm_ymm_ymmm256,
                 VEX_Vfmadd213ss_xmm_xmm_xmmm32, VEX_Vfmadd213sd_xmm_xmm_xmmm64,
                 EVEX_Vfmadd213ps_zmm_k1z_zmm_zmmm512b32_er,
                 EVEX_Vfmadd213pd_zmm_k1z_zmm_zmmm512b64_er,
                 EVEX_Vfmadd213ss_xmm_k1z_xmm_xmmm32_er, EVEX_Vfmadd213sd_xmm_k1z_xmm_xmmm64_er],
        Fma231: [VEX_Vfmadd231ps_ymm_ymm_ymmm256, VEX_Vfmadd231pd_ymm_ymm_ymmm256,
                 VEX_Vfmadd231ss_xmm_xmm_xmmm32, VEX_Vfmadd231sd_xmm_xmm_xmmm64,
                 EVEX_Vfmadd231ps_zmm_k1z_zmm_zmmm512b32_er,
                 EVEX_Vfmadd231pd_zmm_k1z_zmm_zmmm512b64_er,
                 EVEX_Vfmadd231ss_xmm_k1z_xmm_xmmm32_er, EVEX_Vfmadd231sd_xmm_k1z_xmm_xmmm64_er],
        /// The first operand times two to the power of the second.
        Scale: [INVALID, INVALID, INVALID, INVALID,
                EVEX_Vscalefps_zmm_k1z_zmm_zmmm512b32_er, EVEX_Vscalefpd_zmm_k1z_zmm_zmmm512b64_er,
                EVEX_Vscalefss_xmm_k1z_xmm_xmmm32_er, EVEX_Vscalefsd_xmm_k1z_xmm_xmmm64_er],
        Compare: [VEX_Vcmpps_ymm_ymm_ymmm256_imm8, VEX_Vcmppd_ymm_ymm_ymmm256_imm8,
                  VEX_Vcmpss_xmm_xmm_xmmm32_imm8, VEX_Vcmpsd_xmm_xmm_xmmm64_imm8,
                  EVEX_Vcmpps_kr_k1_zmm_zmmm512b32_imm8_sae,
                  EVEX_Vcmppd_kr_k1_zmm_zmmm512b64_imm8_sae,
                  EVEX_Vcmpss_kr_k1_xmm_xmmm32_imm8_sae, EVEX_Vcmpsd_kr_k1_xmm_xmmm64_imm8_sae],
        /// Sets the flags.
        Flags: [INVALID, INVALID, VEX_Vucomiss_xmm_xmmm32, VEX_Vucomisd_xmm_xmmm64,
                INVALID, INVALID, EVEX_Vucomiss_xmm_xmmm32_sae, EVEX_Vucomisd_xmm_xmmm64_sae],
        /// With vectors from memory, with scalars zeroing the rest.
        Load: [VEX_Vmovups_ymm_ymmm256, VEX_Vmovupd_ymm_ymmm256,
               VEX_Vmovss_xmm_m32, VEX_Vmovsd_xmm_m64,
               EVEX_Vmovups_zmm_k1z_zmmm512, EVEX_Vmovupd_zmm_k1z_zmmm512,
               EVEX_Vmovss_xmm_k1z_m32, EVEX_Vmovsd_xmm_k1z_m64],
        Store: [VEX_Vmovups_ymmm256_ymm, VEX_Vmovupd_ymmm256_ymm,
                VEX_Vmovss_m32_xmm, VEX_Vmovsd_m64_xmm,
                EVEX_Vmovups_zmmm512_k1z_zmm, EVEX_Vmovupd_zmmm512_k1z_zmm,
                EVEX_Vmovss_m32_k1_xmm, EVEX_Vmovsd_m64_k1_xmm],
        /// One element of memory in all lanes.
        Broadcast: [VEX_Vbroadcastss_ymm_m32, VEX_Vbroadcastsd_ymm_m64, INVALID, INVALID,
                    EVEX_Vbroadcastss_zmm_k1z_xmmm32, EVEX_Vbroadcastsd_zmm_k1z_xmmm64,
                    INVALID, INVALID],
        /// Lane 0 of a register in all lanes.
        Spread: [VEX_Vbroadcastss_ymm_xmm, VEX_Vbroadcastsd_ymm_xmm, INVALID, INVALID,
                 EVEX_Vbroadcastss_zmm_k1z_xmmm32, EVEX_Vbroadcastsd_zmm_k1z_xmmm64,
                 INVALID, INVALID],
        /// By sign bits on AVX2, by a mask register on AVX-512: the last operand where set.
        Blend: [VEX_Vblendvps_ymm_ymm_ymmm256_ymm, VEX_Vblendvpd_ymm_ymm_ymmm256_ymm,
                VEX_Vblendvps_xmm_xmm_xmmm128_xmm, VEX_Vblendvpd_xmm_xmm_xmmm128_xmm,
                EVEX_Vblendmps_zmm_k1z_zmm_zmmm512b32, EVEX_Vblendmpd_zmm_k1z_zmm_zmmm512b64,
                EVEX_Vblendmps_xmm_k1z_xmm_xmmm128b32, EVEX_Vblendmpd_xmm_k1z_xmm_xmmm128b64],
        And: [VEX_Vandps_ymm_ymm_ymmm256, VEX_Vandpd_ymm_ymm_ymmm256,
              VEX_Vandps_xmm_xmm_xmmm128, VEX_Vandpd_xmm_xmm_xmmm128,
              EVEX_Vandps_zmm_k1z_zmm_zmmm512b32, EVEX_Vandpd_zmm_k1z_zmm_zmmm512b64,
              EVEX_Vandps_xmm_k1z_xmm_xmmm128b32, EVEX_Vandpd_xmm_k1z_xmm_xmmm128b64],
        Xor: [VEX_Vxorps_ymm_ymm_ymmm256, VEX_Vxorpd_ymm_ymm_ymmm256,
              VEX_Vxorps_xmm_xmm_xmmm128, VEX_Vxorpd_xmm_xmm_xmmm128,
              EVEX_Vxorps_zmm_k1z_zmm_zmmm512b32, EVEX_Vxorpd_zmm_k1z_zmm_zmmm512b64,
              EVEX_Vxorps_xmm_k1z_xmm_xmmm128b32, EVEX_Vxorpd_xmm_k1z_xmm_xmmm128b64],
        /// Interleaves the low lanes of 128 bits.
        Unpack: [INVALID, INVALID, VEX_Vunpcklps_xmm_xmm_xmmm128, VEX_Vunpcklpd_xmm_xmm_xmmm128,
                 INVALID, INVALID, EVEX_Vunpcklps_xmm_k1z_xmm_xmmm128b32,
                 EVEX_Vunpcklpd_xmm_k1z_xmm_xmmm128b64],
        /// From a signed integer of 32 or 64 bits in a general register.
        FromInt32: [INVALID, INVALID, VEX_Vcvtsi2ss_xmm_xmm_rm32, VEX_Vcvtsi2sd_xmm_xmm_rm32,
                    INVALID, INVALID, EVEX_Vcvtsi2ss_xmm_xmm_rm32_er, EVEX_Vcvtsi2sd_xmm_xmm_rm32_er],
        FromInt64: [INVALID, INVALID, VEX_Vcvtsi2ss_xmm_xmm_rm64, VEX_Vcvtsi2sd_xmm_xmm_rm64,
                    INVALID, INVALID, EVEX_Vcvtsi2ss_xmm_xmm_rm64_er,
                    EVEX_Vcvtsi2sd_xmm_xmm_rm64_er],
        /// Truncated, to 64 bits.
        ToInt64: [INVALID, INVALID, VEX_Vcvttss2si_r64_xmmm32, VEX_Vcvttsd2si_r64_xmmm64,
                  INVALID, INVALID, EVEX_Vcvttss2si_r64_xmmm32_sae,
                  EVEX_Vcvttsd2si_r64_xmmm64_sae],
    }
}

impl Fp {
    pub fn code(self, shape: Shape) -> Code {
        let level = if shape.level == Level::V4 { 4 } else { 0 };
        let kind = if shape.is_vector() { 0 } else { 2 };
        let code = self.row()[level + kind + shape.wide() as usize];
        if code == Code::INVALID { code } else { shape.fit(code) }
    }
}

by_shape! {
    /// Operations on vectors of integers. Columns: 4 and 8 bytes of AVX2, then of AVX-512.
    Int {
        Add: [VEX_Vpaddd_ymm_ymm_ymmm256, VEX_Vpaddq_ymm_ymm_ymmm256,
              EVEX_Vpaddd_zmm_k1z_zmm_zmmm512b32, EVEX_Vpaddq_zmm_k1z_zmm_zmmm512b64],
        Sub: [VEX_Vpsubd_ymm_ymm_ymmm256, VEX_Vpsubq_ymm_ymm_ymmm256,
              EVEX_Vpsubd_zmm_k1z_zmm_zmmm512b32, EVEX_Vpsubq_zmm_k1z_zmm_zmmm512b64],
        Mul: [VEX_Vpmulld_ymm_ymm_ymmm256, INVALID,
              EVEX_Vpmulld_zmm_k1z_zmm_zmmm512b32, EVEX_Vpmullq_zmm_k1z_zmm_zmmm512b64],
        And: [VEX_Vpand_ymm_ymm_ymmm256, VEX_Vpand_ymm_ymm_ymmm256,
              EVEX_Vpandd_zmm_k1z_zmm_zmmm512b32, EVEX_Vpandq_zmm_k1z_zmm_zmmm512b64],
        Or: [VEX_Vpor_ymm_ymm_ymmm256, VEX_Vpor_ymm_ymm_ymmm256,
             EVEX_Vpord_zmm_k1z_zmm_zmmm512b32, EVEX_Vporq_zmm_k1z_zmm_zmmm512b64],
        Xor: [VEX_Vpxor_ymm_ymm_ymmm256, VEX_Vpxor_ymm_ymm_ymmm256,
              EVEX_Vpxord_zmm_k1z_zmm_zmmm512b32, EVEX_Vpxorq_zmm_k1z_zmm_zmmm512b64],
        Abs: [VEX_Vpabsd_ymm_ymmm256, INVALID,
              EVEX_Vpabsd_zmm_k1z_zmmm512b32, EVEX_Vpabsq_zmm_k1z_zmmm512b64],
        MinSigned: [VEX_Vpminsd_ymm_ymm_ymmm256, INVALID,
                    EVEX_Vpminsd_zmm_k1z_zmm_zmmm512b32, EVEX_Vpminsq_zmm_k1z_zmm_zmmm512b64],
        MaxSigned: [VEX_Vpmaxsd_ymm_ymm_ymmm256, INVALID,
                    EVEX_Vpmaxsd_zmm_k1z_zmm_zmmm512b32, EVEX_Vpmaxsq_zmm_k1z_zmm_zmmm512b64],
        MinUnsigned: [VEX_Vpminud_ymm_ymm_ymmm256, INVALID,
                      EVEX_Vpminud_zmm_k1z_zmm_zmmm512b32, EVEX_Vpminuq_zmm_k1z_zmm_zmmm512b64],
        MaxUnsigned: [VEX_Vpmaxud_ymm_ymm_ymmm256, INVALID,
                      EVEX_Vpmaxud_zmm_k1z_zmm_zmmm512b32, EVEX_Vpmaxuq_zmm_k1z_zmm_zmmm512b64],
        Shl: [VEX_Vpslld_ymm_ymm_imm8, VEX_Vpsllq_ymm_ymm_imm8,
              EVEX_Vpslld_zmm_k1z_zmmm512b32_imm8, EVEX_Vpsllq_zmm_k1z_zmmm512b64_imm8],
        Shr: [VEX_Vpsrld_ymm_ymm_imm8, VEX_Vpsrlq_ymm_ymm_imm8,
              EVEX_Vpsrld_zmm_k1z_zmmm512b32_imm8, EVEX_Vpsrlq_zmm_k1z_zmmm512b64_imm8],
        Sar: [VEX_Vpsrad_ymm_ymm_imm8, INVALID,
              EVEX_Vpsrad_zmm_k1z_zmmm512b32_imm8, EVEX_Vpsraq_zmm_k1z_zmmm512b64_imm8],
        Equal: [VEX_Vpcmpeqd_ymm_ymm_ymmm256, VEX_Vpcmpeqq_ymm_ymm_ymmm256,
                EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8, EVEX_Vpcmpq_kr_k1_zmm_zmmm512b64_imm8],
        /// AVX2: signed greater-than; AVX-512: any order of signed integers, by an immediate.
        Compare: [VEX_Vpcmpgtd_ymm_ymm_ymmm256, VEX_Vpcmpgtq_ymm_ymm_ymmm256,
                  EVEX_Vpcmpd_kr_k1_zmm_zmmm512b32_imm8, EVEX_Vpcmpq_kr_k1_zmm_zmmm512b64_imm8],
        CompareUnsigned: [INVALID, INVALID,
                          EVEX_Vpcmpud_kr_k1_zmm_zmmm512b32_imm8,
                          EVEX_Vpcmpuq_kr_k1_zmm_zmmm512b64_imm8],
    }
}

impl Int {
    /// The opcode; `None` where AVX2 has none.
    pub fn code(self, shape: Shape) -> Option<Code> {
        let level = if shape.level == Level::V4 { 2 } else { 0 };
        let code = self.row()[level + shape.wide() as usize];
        (code != Code::INVALID).then(|| shape.fit(code))
    }
}

/// An operation of general registers, `op dst, src` with `dst` tied, or a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Alu {
    Add,
    Sub,
    And,
    Or,
    Xor,
    Cmp,
}

impl Alu {
    /// With a register or memory; with 32 bits of immediate; with 8 bits.
    pub fn codes(self, view: View) -> [Code; 3] {
        use Code::*;
        match (self, view) {
            (Alu::Add, View::R64) => [Add_r64_rm64, Add_rm64_imm32, Add_rm64_imm8],
            (Alu::Sub, View::R64) => [Sub_r64_rm64, Sub_rm64_imm32, Sub_rm64_imm8],
            (Alu::And, View::R64) => [And_r64_rm64, And_rm64_imm32, And_rm64_imm8],
            (Alu::Or, View::R64) => [Or_r64_rm64, Or_rm64_imm32, Or_rm64_imm8],
            (Alu::Xor, View::R64) => [Xor_r64_rm64, Xor_rm64_imm32, Xor_rm64_imm8],
            (Alu::Cmp, View::R64) => [Cmp_r64_rm64, Cmp_rm64_imm32, Cmp_rm64_imm8],
            (Alu::Add, _) => [Add_r32_rm32, Add_rm32_imm32, Add_rm32_imm8],
            (Alu::Sub, _) => [Sub_r32_rm32, Sub_rm32_imm32, Sub_rm32_imm8],
            (Alu::And, _) => [And_r32_rm32, And_rm32_imm32, And_rm32_imm8],
            (Alu::Or, _) => [Or_r32_rm32, Or_rm32_imm32, Or_rm32_imm8],
            (Alu::Xor, _) => [Xor_r32_rm32, Xor_rm32_imm32, Xor_rm32_imm8],
            (Alu::Cmp, _) => [Cmp_r32_rm32, Cmp_rm32_imm32, Cmp_rm32_imm8],
        }
    }
}

/// `cmovcc` and `setcc` by condition.
pub fn cmov(cc: super::inst::Cc, view: View) -> Code {
    use super::inst::Cc;
    use Code::*;
    let [wide, narrow] = match cc {
        Cc::Eq => [Cmove_r64_rm64, Cmove_r32_rm32],
        Cc::Ne => [Cmovne_r64_rm64, Cmovne_r32_rm32],
        Cc::Lt => [Cmovl_r64_rm64, Cmovl_r32_rm32],
        Cc::Le => [Cmovle_r64_rm64, Cmovle_r32_rm32],
        Cc::Gt => [Cmovg_r64_rm64, Cmovg_r32_rm32],
        Cc::Ge => [Cmovge_r64_rm64, Cmovge_r32_rm32],
        Cc::Below => [Cmovb_r64_rm64, Cmovb_r32_rm32],
        Cc::BelowEq => [Cmovbe_r64_rm64, Cmovbe_r32_rm32],
        Cc::Above => [Cmova_r64_rm64, Cmova_r32_rm32],
        Cc::AboveEq => [Cmovae_r64_rm64, Cmovae_r32_rm32],
        Cc::Parity => [Cmovp_r64_rm64, Cmovp_r32_rm32],
    };
    if view == View::R64 { wide } else { narrow }
}

pub fn setcc(cc: super::inst::Cc) -> Code {
    use super::inst::Cc;
    use Code::*;
    match cc {
        Cc::Eq => Sete_rm8,
        Cc::Ne => Setne_rm8,
        Cc::Lt => Setl_rm8,
        Cc::Le => Setle_rm8,
        Cc::Gt => Setg_rm8,
        Cc::Ge => Setge_rm8,
        Cc::Below => Setb_rm8,
        Cc::BelowEq => Setbe_rm8,
        Cc::Above => Seta_rm8,
        Cc::AboveEq => Setae_rm8,
        Cc::Parity => Setp_rm8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of the opcodes say that only the width changes.
    #[test]
    fn narrower_opcodes_are_the_same_operation() {
        let name = |code: Code| format!("{code:?}").replace("_er", "").replace("_sae", "");
        let check = |shape: Shape, full: Code, code: Code| {
            let (f, c) = (name(full), name(code));
            let mnemonic = |n: &str| n.split('_').nth(1).map(str::to_string);
            let moved = c.contains("Vpbroadcastq_xmm");
            assert!(moved || mnemonic(&f) == mnemonic(&c), "{f} to {c}");
            let own = format!("{:?}mm", shape.width).to_lowercase();
            assert!(c.contains(&own), "{f} to {c}: no {own}");
            assert_eq!(f.split('_').count(), c.split('_').count(), "{f} to {c}");
        };
        for level in [Level::V3, Level::V4] {
            for dtype in [DType::F32, DType::F64] {
                for width in [Width::X, Width::Y, Width::Z] {
                    let shape = Shape { level, dtype, width };
                    if width > Shape::full(level, dtype).width {
                        continue;
                    }
                    for op in Fp::ALL {
                        let full = op.code(Shape::full(level, dtype));
                        if full != Code::INVALID {
                            check(shape, full, op.code(shape));
                        }
                    }
                    for op in Int::ALL {
                        if let Some(full) = op.code(Shape::full(level, dtype)) {
                            check(shape, full, op.code(shape).unwrap());
                        }
                    }
                    for full in SHUFFLES
                        .iter()
                        .filter(|c| name(**c).starts_with("EVEX") == (level == Level::V4))
                    {
                        check(shape, *full, shape.fit(*full));
                    }
                }
            }
        }
    }

    /// Opcodes that are named where they are used.
    const SHUFFLES: &[Code] = &[
        Code::VEX_Vcvtdq2ps_ymm_ymmm256,
        Code::EVEX_Vcvtdq2ps_zmm_k1z_zmmm512b32_er,
        Code::VEX_Vcvttps2dq_ymm_ymmm256,
        Code::EVEX_Vcvttps2dq_zmm_k1z_zmmm512b32_sae,
        Code::EVEX_Vpbroadcastd_zmm_k1z_r32,
        Code::EVEX_Vpbroadcastq_zmm_k1z_r64,
        Code::EVEX_Valignd_zmm_k1z_zmm_zmmm512b32_imm8,
        Code::EVEX_Valignq_zmm_k1z_zmm_zmmm512b64_imm8,
        Code::VEX_Vblendps_ymm_ymm_ymmm256_imm8,
        Code::VEX_Vblendpd_ymm_ymm_ymmm256_imm8,
        Code::VEX_Vpshufd_ymm_ymmm256_imm8,
        Code::EVEX_Vpshufd_zmm_k1z_zmmm512b32_imm8,
        Code::EVEX_Vpternlogd_zmm_k1z_zmm_zmmm512b32_imm8,
        Code::VEX_Vpmulld_ymm_ymm_ymmm256,
        Code::VEX_Vpmuludq_ymm_ymm_ymmm256,
        Code::VEX_Vpsrlq_ymm_ymm_imm8,
        Code::VEX_Vpsllq_ymm_ymm_imm8,
        Code::VEX_Vpshufb_ymm_ymm_ymmm256,
        Code::VEX_Vmaskmovps_ymm_ymm_m256,
        Code::VEX_Vmaskmovpd_ymm_ymm_m256,
        Code::VEX_Vmaskmovps_m256_ymm_ymm,
        Code::VEX_Vmaskmovpd_m256_ymm_ymm,
        Code::VEX_Vpmovsxbd_ymm_xmmm64,
        Code::VEX_Vpmovzxbd_ymm_xmmm64,
        Code::VEX_Vpmovsxwd_ymm_xmmm128,
        Code::VEX_Vpmovzxwd_ymm_xmmm128,
        Code::EVEX_Vpmovsxbd_zmm_k1z_xmmm128,
        Code::EVEX_Vpmovzxbd_zmm_k1z_xmmm128,
        Code::EVEX_Vpmovsxwd_zmm_k1z_ymmm256,
        Code::EVEX_Vpmovzxwd_zmm_k1z_ymmm256,
        Code::EVEX_Vpmovdb_xmmm128_k1z_zmm,
        Code::EVEX_Vpmovdw_ymmm256_k1z_zmm,
    ];
}
