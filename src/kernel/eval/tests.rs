use super::*;
use crate::base::machine::Numerics;
use crate::ir::scalar::Combine;
use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::*;
use crate::kernel::parse::parse_kernel;
use crate::kernel::print::print_kernel;
use crate::kernel::simplify::renumber;
use crate::kernel::verify::verify;

fn bytes<T: bytemuck::Pod>(data: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(data).to_vec()
}

fn back<T: bytemuck::Pod>(data: &[u8]) -> Vec<T> {
    data.chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()
}

/// c[m, n] = Σk a[m, k] · b[k, n], a row for each grid point.
fn matmul(m: u64, k: u64, n: u64) -> Kernel {
    let mut b = KernelBuilder::new("mm", Numerics::Fused);
    let pa = b.param("a", DType::F32, m * k, Access::Read);
    let pb = b.param("b", DType::F32, k * n, Access::Read);
    let pc = b.param("c", DType::F32, m * n, Access::Write);
    b.set_grid([m as u32, 1, 1]);
    let row = b.grid(0);
    let (arow, crow) = (b.times(row, k as i64), b.times(row, n as i64));
    let zero = b.number(DType::F32, n as u16, 0.0);
    let range = (b.index(0), b.index(k as i64), 1);
    let sum = b.for_loop(range, &[zero], |b, i, acc| {
        let at = b.add(arow, i);
        let x = b.load_splat(Addr { buf: pa, base: at, plus: 0 }, n as u16);
        let wi = b.times(i, n as i64);
        let w = b.load(Addr { buf: pb, base: wi, plus: 0 }, n as u16);
        vec![b.mul_add(x, w, acc[0])]
    });
    b.store(Addr { buf: pc, base: crow, plus: 0 }, sum[0]);
    b.finish()
}

#[test]
fn matmul_is_a_chain_of_fma() {
    let (m, k, n) = (3, 5, 4);
    let a: Vec<f32> = (0..m * k).map(|i| (i as f32).sin()).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i as f32).cos()).collect();
    let mut buffers = [bytes(&a), bytes(&b), vec![0; m * n * 4]];
    run_all(&matmul(m as u64, k as u64, n as u64), &mut buffers).unwrap();
    let got: Vec<f32> = back(&buffers[2]);
    for i in 0..m {
        for j in 0..n {
            let want = (0..k).fold(0f32, |s, l| a[i * k + l].mul_add(b[l * n + j], s));
            assert_eq!(got[i * n + j].to_bits(), want.to_bits());
        }
    }
}

#[test]
fn only_the_asked_grid_points_run() {
    let kernel = matmul(4, 1, 2);
    let (mut a, mut b, mut c) = (bytes(&[1f32; 4]), bytes(&[1f32; 2]), bytes(&[0f32; 8]));
    let bind = [0, 1, 2].map(|buffer| Slice { buffer, offset: 0 });
    run(&kernel, &mut [&mut a, &mut b, &mut c], &bind, 1..3).unwrap();
    assert_eq!(back::<f32>(&c), [0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
}

#[test]
fn accesses_outside_a_buffer_are_faults() {
    for (base, valid, ok) in [(0, 8, true), (1, 8, false), (1, 7, true), (-1, 1, false)] {
        let mut b = KernelBuilder::new("k", Numerics::Separate);
        let x = b.param("x", DType::I16, 8, Access::Read);
        let y = b.param("y", DType::I16, 8, Access::Write);
        let (at, zero) = (b.index(base), b.index(0));
        let fill = Some(Lit::int(DType::I16, -7));
        let v = b.load_as(Addr { buf: x, base: at, plus: 0 }, 8, LoadMode::Contig, valid, fill);
        b.store(Addr { buf: y, base: zero, plus: 0 }, v);
        let mut buffers = [bytes(&[5i16; 8]), bytes(&[0i16; 8])];
        let got = run_all(&b.finish(), &mut buffers);
        assert_eq!(got.is_ok(), ok, "{got:?}");
        if ok {
            let want: Vec<i16> = (0..8).map(|l| if l < valid { 5 } else { -7 }).collect();
            assert_eq!(back::<i16>(&buffers[1]), want);
        }
    }
}

#[test]
fn folds_are_halving_trees_and_max_keeps_the_second_of_nan() {
    let mut b = KernelBuilder::new("k", Numerics::Separate);
    let x = b.param("x", DType::F32, 4, Access::Read);
    let y = b.param("y", DType::F32, 2, Access::Write);
    let zero = b.index(0);
    let v = b.load(Addr { buf: x, base: zero, plus: 0 }, 4);
    for (i, combine) in [Combine::Sum, Combine::Max].into_iter().enumerate() {
        let s = b.fold(combine, v);
        b.store(Addr { buf: y, base: zero, plus: i as i64 }, s);
    }
    let data = [1e8f32, 1.0, -1e8, f32::NAN];
    let mut buffers = [bytes(&[1e8f32, 1.0, -1e8, 1.0]), bytes(&[0f32; 2])];
    let kernel = b.finish();
    run_all(&kernel, &mut buffers).unwrap();
    assert_eq!(back::<f32>(&buffers[1]), [2.0, 1e8]);
    buffers[0] = bytes(&data);
    run_all(&kernel, &mut buffers).unwrap();
    assert!(back::<f32>(&buffers[1])[1].is_nan(), "max(1e8, max(1, NaN))");
}

#[test]
fn in_place_parameters_share_a_buffer() {
    let mut b = KernelBuilder::new("k", Numerics::Separate);
    let x = b.param("x", DType::I32, 4, Access::Read);
    let y = b.param("y", DType::I32, 4, Access::Write);
    b.inplace(y, x);
    b.set_grid([4, 1, 1]);
    let at = b.grid(0);
    let v = b.load(Addr { buf: x, base: at, plus: 0 }, 1);
    let w = b.mul(v, v);
    b.store(Addr { buf: y, base: at, plus: 0 }, w);
    let mut data = bytes(&[0i32, 1, 2, 3, 4]);
    let bind = [Slice { buffer: 0, offset: 4 }; 2];
    run(&b.finish(), &mut [&mut data], &bind, 0..4).unwrap();
    assert_eq!(back::<i32>(&data), [0, 1, 4, 9, 16]);
}

/// x in reverse by a workgroup of eight, with a barrier or without one.
fn reverse(waits: bool) -> Kernel {
    let mut b = KernelBuilder::new("k", Numerics::Separate);
    let x = b.param("x", DType::F32, 8, Access::ReadWrite);
    b.set_local([8, 1, 1]);
    let s = b.shared(DType::F32, 8);
    let (l, seven) = (b.local(0), b.index(7));
    let v = b.load(Addr { buf: x, base: l, plus: 0 }, 1);
    b.store(Addr { buf: s, base: l, plus: 0 }, v);
    if waits {
        b.barrier();
    }
    let back_at = b.op(Op::Sub, &[seven, l]);
    let w = b.load(Addr { buf: s, base: back_at, plus: 0 }, 1);
    b.store(Addr { buf: x, base: l, plus: 0 }, w);
    b.finish()
}

#[test]
fn a_workgroup_reverses_through_shared_memory() {
    let mut buffers = [bytes(&[0f32, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])];
    verify(&reverse(true)).unwrap();
    run_all(&reverse(true), &mut buffers).unwrap();
    assert_eq!(back::<f32>(&buffers[0]), [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
    let race = verify(&reverse(false)).unwrap_err();
    assert!(race.what.contains("touched by others before a barrier"), "{race}");
}

/// Four invocations read one element, and the first writes over it: the others have to be done.
#[test]
fn a_workgroup_waits_before_it_writes_in_place() {
    let kernel = |waits: bool| {
        let mut b = KernelBuilder::new("k", Numerics::Separate);
        let x = b.param("x", DType::F32, 1, Access::Read);
        let y = b.param("y", DType::F32, 1, Access::Write);
        b.inplace(y, x);
        b.set_local([1, 4, 1]);
        let (turn, zero) = (b.local(1), b.index(0));
        let v = b.load(Addr { buf: x, base: zero, plus: 0 }, 1);
        if waits {
            b.barrier();
        }
        let first = b.op(Op::Eq, &[turn, zero]);
        let store = |b: &mut KernelBuilder| {
            b.store(Addr { buf: y, base: zero, plus: 0 }, v);
            vec![]
        };
        b.if_else(first, store, |_| vec![]);
        b.finish()
    };
    verify(&kernel(true)).unwrap();
    let error = verify(&kernel(false)).unwrap_err();
    assert!(error.what.contains("may be the same buffer"), "{error}");
}

/// y[c] of 2 columns: x[r, c] of 4 rows, folded by invocations that have an element each.
fn folded(combine: Combine, in_branch: bool) -> Kernel {
    let mut b = KernelBuilder::new("k", Numerics::Separate);
    let x = b.param("x", DType::F32, 8, Access::Read);
    let y = b.param("y", DType::F32, 2, Access::Write);
    b.set_local([2, 4, 1]);
    let (column, row, zero) = (b.local(0), b.local(1), b.index(0));
    let line = b.times(row, 2);
    let at = b.add(line, column);
    let v = b.load(Addr { buf: x, base: at, plus: 0 }, 1);
    let first = b.op(Op::Eq, &[row, zero]);
    let fold = |b: &mut KernelBuilder| b.group_fold(combine, v);
    let all = match in_branch {
        false => fold(&mut b),
        true => b.if_else(first, |b| vec![fold(b)], |_| vec![v])[0],
    };
    let store = |b: &mut KernelBuilder| {
        b.store(Addr { buf: y, base: column, plus: 0 }, all);
        vec![]
    };
    b.if_else(first, store, |_| vec![]);
    b.finish()
}

#[test]
fn a_workgroup_folds_its_columns() {
    let run = |combine, x: [f32; 8]| {
        let kernel = folded(combine, false);
        verify(&kernel).unwrap();
        assert_eq!(parse_kernel(&print_kernel(&kernel)).unwrap(), renumber(kernel.clone()));
        let mut buffers = [bytes(&x), bytes(&[0f32; 2])];
        run_all(&kernel, &mut buffers).unwrap();
        back::<f32>(&buffers[1])
    };
    let big = 1e8f32;
    // (a + c) + (b + d), and so on.
    assert_eq!(run(Combine::Sum, [big, 1.0, 1.0, 2.0, -big, 3.0, 1.0, 4.0]), [2.0, 10.0]);
    for at in [0, 2, 4, 6] {
        let mut x = [1.0, 5.0, 2.0, 6.0, 3.0, 7.0, 4.0, 8.0];
        assert_eq!(run(Combine::Max, x), [4.0, 8.0]);
        assert_eq!(run(Combine::Min, x), [1.0, 5.0]);
        x[at] = f32::NAN;
        let y = run(Combine::Max, x);
        assert!(y[0].is_nan() && y[1] == 8.0, "{y:?}");
    }
}

#[test]
fn all_of_a_workgroup_come_by_a_fold() {
    let kernel = folded(Combine::Sum, true);
    let error = verify(&kernel).unwrap_err();
    assert!(error.what.contains("in a loop or branch"), "{error}");
    let mut buffers = [vec![0; 32], vec![0; 8]];
    assert!(matches!(run_all(&kernel, &mut buffers), Err(Fault::Barrier { .. })));
}

#[test]
fn conversions_saturate_wrap_and_round_once() {
    let f = |v: f32| v.to_bits() as u64;
    assert_eq!(convert(f(300.7), DType::F32, DType::U8), 255);
    assert_eq!(convert(f(-300.7), DType::F32, DType::I8), 0x80);
    assert_eq!(convert(f(f32::NAN), DType::F32, DType::I32), 0);
    assert_eq!(convert(0xffff_ffff, DType::I32, DType::I64), u64::MAX);
    assert_eq!(convert(0x1_0080, DType::I64, DType::I8), 0x80);
    // Half way between two bf16 but for the lowest bit: rounds up.
    let (low, high) = ((1u64 << 62) + (1 << 54), 1u64 << 62);
    let bf = |v| half::bf16::from_bits(convert(v, DType::I64, DType::BF16) as u16).to_f64();
    assert_eq!(bf(low), high as f64, "a tie goes to even");
    assert_eq!(bf(low + 1), (high + (1 << 55)) as f64);
}

#[test]
fn integer_division_never_traps() {
    let div = |ty, a, b| element_fn(Op::Div, ty).unwrap()(a, b, 0);
    let (i32_, index) = (Ty::Scalar(DType::I32), Ty::Index);
    assert_eq!(div(i32_, 7, 0), 0);
    assert_eq!(div(i32_, 0x8000_0000, 0xffff_ffff), 0x8000_0000);
    assert_eq!(div(i32_, (-7i32) as u32 as u64, 2), (-3i32) as u32 as u64);
    assert_eq!(div(index, -7i64 as u64, 2) as i64, -4);
}

#[test]
fn erf_by_its_series() {
    // Abramowitz and Stegun, table 7.1.
    for (x, want) in [(0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)] {
        assert!((erf(x) - want).abs() < 1e-10);
        assert!((erf(-x) + want).abs() < 1e-10);
    }
    assert_eq!(erf(f64::INFINITY), 1.0);
}

#[test]
fn ill_formed_kernels_are_refused() {
    let mut kernel = matmul(2, 2, 2);
    kernel.types[0] = Ty::Mask(3);
    assert!(matches!(run_all(&kernel, &mut []), Err(Fault::Invalid(_))));
    let mut kernel = matmul(2, 2, 2);
    let Some(Inst::Store { v, .. }) = kernel.body.insts.last_mut() else { panic!("a store") };
    *v = Val(1 << 20);
    let error = run_all(&kernel, &mut []).unwrap_err().to_string();
    assert!(error.contains("not defined"), "{error}");
}
