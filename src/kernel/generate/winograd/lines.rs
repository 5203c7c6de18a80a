//! The transforms of one line of a tile, and of a tile: products with small known matrices, with
//! the sums that their lines share done once.

use crate::kernel::build::KernelBuilder;
use crate::kernel::ir::{Op, Val};

/// What becomes of the elements of one line.
pub type Line = fn(&mut KernelBuilder, &[Val]) -> Vec<Val>;

/// `Bᵀ · d` for tiles of so many results.
pub fn input(tile: i64) -> Line {
    if tile == 2 { input_two } else { input_four }
}

/// `Aᵀ · m`.
pub fn output(tile: i64) -> Line {
    if tile == 2 { output_two } else { output_four }
}

/// The kernel of what `G` made of it.
pub fn kernel(tile: i64) -> Line {
    if tile == 2 { kernel_two } else { kernel_four }
}

/// A transform of the columns of a square of side `n`, then of the lines that they become.
pub fn both_axes(
    b: &mut KernelBuilder,
    n: i64,
    line: Line,
    mut at: impl FnMut(&mut KernelBuilder, (i64, i64)) -> Val,
) -> Vec<Vec<Val>> {
    let mut columns: Vec<Vec<Val>> = vec![];
    for x in 0..n {
        let mut column = vec![];
        for y in 0..n {
            column.push(at(b, (y, x)));
        }
        columns.push(line(b, &column));
    }
    let lines = 0..columns.first().map_or(0, Vec::len);
    lines.map(|i| line(b, &columns.iter().map(|c| c[i]).collect::<Vec<_>>())).collect()
}

fn add(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    b.op(Op::Add, &[x, y])
}

fn sub(b: &mut KernelBuilder, x: Val, y: Val) -> Val {
    b.op(Op::Sub, &[x, y])
}

/// `c · x + y`.
fn scaled(b: &mut KernelBuilder, c: f64, x: Val, y: Val) -> Val {
    let ty = b.ty(x);
    let c = b.number(ty.dtype(), ty.lanes(), c);
    b.mul_add(c, x, y)
}

fn times(b: &mut KernelBuilder, c: f64, x: Val) -> Val {
    let ty = b.ty(x);
    let c = b.number(ty.dtype(), ty.lanes(), c);
    b.op(Op::Mul, &[c, x])
}

fn input_two(b: &mut KernelBuilder, d: &[Val]) -> Vec<Val> {
    vec![sub(b, d[0], d[2]), add(b, d[1], d[2]), sub(b, d[2], d[1]), sub(b, d[1], d[3])]
}

fn output_two(b: &mut KernelBuilder, m: &[Val]) -> Vec<Val> {
    let (sum, difference) = (add(b, m[1], m[2]), sub(b, m[1], m[2]));
    vec![add(b, m[0], sum), sub(b, difference, m[3])]
}

fn kernel_two(b: &mut KernelBuilder, u: &[Val]) -> Vec<Val> {
    vec![u[0], sub(b, u[1], u[2]), u[3]]
}

fn kernel_four(b: &mut KernelBuilder, u: &[Val]) -> Vec<Val> {
    let middle = sub(b, u[2], u[1]);
    vec![times(b, 4.0, u[0]), times(b, 3.0, middle), u[5]]
}

fn input_four(b: &mut KernelBuilder, d: &[Val]) -> Vec<Val> {
    let first = scaled(b, -5.0, d[2], d[4]);
    let last = scaled(b, -5.0, d[3], d[5]);
    let (even, odd) = (scaled(b, -4.0, d[2], d[4]), scaled(b, -4.0, d[1], d[3]));
    let (outer, inner) = (sub(b, d[4], d[2]), sub(b, d[3], d[1]));
    vec![
        scaled(b, 4.0, d[0], first),
        add(b, even, odd),
        sub(b, even, odd),
        scaled(b, 2.0, inner, outer),
        scaled(b, -2.0, inner, outer),
        scaled(b, 4.0, d[1], last),
    ]
}

fn output_four(b: &mut KernelBuilder, m: &[Val]) -> Vec<Val> {
    let (one, two) = (add(b, m[1], m[2]), add(b, m[3], m[4]));
    let (minus_one, minus_two) = (sub(b, m[1], m[2]), sub(b, m[3], m[4]));
    let first = add(b, m[0], one);
    let last = scaled(b, 8.0, minus_two, minus_one);
    vec![
        add(b, first, two),
        scaled(b, 2.0, minus_two, minus_one),
        scaled(b, 4.0, two, one),
        add(b, last, m[5]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::DType;
    use crate::base::machine::Numerics;
    use crate::ir::op::winograd::Matrices;
    use crate::kernel::eval;
    use crate::kernel::ir::{Access, Addr};

    /// What a line makes of unit vectors are the columns of its matrix.
    fn matrix(line: Line, n: usize, results: usize) -> Vec<Vec<f32>> {
        let mut b = KernelBuilder::new("line", Numerics::Fused);
        let x = b.param("x", DType::F32, n as u64, Access::Read);
        let y = b.param("y", DType::F32, results as u64, Access::Write);
        let base = b.index(0);
        let at = |buf, plus: usize| Addr { buf, base, plus: plus as i64 };
        let d: Vec<Val> = (0..n).map(|i| b.load(at(x, i), 1)).collect();
        for (i, v) in line(&mut b, &d).into_iter().enumerate() {
            b.store(at(y, i), v);
        }
        let kernel = b.finish();
        let column = |j: usize| {
            let unit: Vec<f32> = (0..n).map(|i| (i == j) as u8 as f32).collect();
            let bytes = bytemuck::cast_slice(&unit).to_vec();
            let mut buffers = [bytes, vec![0; 4 * results]];
            eval::run_all(&kernel, &mut buffers).unwrap();
            buffers[1].chunks(4).map(bytemuck::pod_read_unaligned).collect::<Vec<f32>>()
        };
        let columns: Vec<Vec<f32>> = (0..n).map(column).collect();
        (0..results).map(|i| columns.iter().map(|c| c[i]).collect()).collect()
    }

    #[test]
    fn lines_are_the_matrices() {
        for tile in [2usize, 4] {
            let known = Matrices::of(tile).unwrap();
            let as_f32 = |m: &[&[f64]]| -> Vec<Vec<f32>> {
                m.iter().map(|l| l.iter().map(|v| *v as f32).collect()).collect()
            };
            assert_eq!(matrix(input(tile as i64), tile + 2, tile + 2), as_f32(known.input));
            assert_eq!(matrix(output(tile as i64), tile + 2, tile), as_f32(known.output));
            // The kernel is found back: its matrix times G is the identity.
            let back = matrix(kernel(tile as i64), tile + 2, 3);
            for (i, line) in back.iter().enumerate() {
                for j in 0..3 {
                    let at: f64 =
                        line.iter().zip(known.weight).map(|(v, g)| *v as f64 * g[j]).sum();
                    assert!((at - (i == j) as u8 as f64).abs() < 1e-12, "{tile}: {i}, {j}: {at}");
                }
            }
        }
    }
}
