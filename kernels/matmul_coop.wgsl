// Products of matrices by tiles of ${tile_rows} × ${tile_columns}, multiplied by cooperative matrices of
// ${size} × ${size}: elements of f16, sums of ${sum}.
//
// A workgroup computes one tile after the other, a whole number of workgroups apart. For ${tile_steps} steps of
// the sums at a time its part of both operands lies in workgroup memory, twice: while one half is
// multiplied, the next steps are on their way to the other. A subgroup has ${sub_rows} × ${sub_columns} matrices of sums. They
// leave through workgroup memory, one at a time, since an invocation does not know which elements of a
// matrix it holds.
//
// Before this text stand the bindings and three functions:
//   left, right: an element of an operand, or a few that follow each other in memory;
//   finish(column, row, group, sum): makes results of a sum and stores them.

const ROWS = ${rows};
const COLUMNS = ${columns};
const STEPS = ${steps};
const INVOCATIONS = ${invocations};
const SUBGROUP = ${subgroup};
const TILE_ROWS = ${tile_rows};
const TILE_COLUMNS = ${tile_columns};
const TILE_STEPS = ${tile_steps};
// Subgroups side by side.
const ACROSS = ${across};
const TILES_ACROSS = ${tiles_across};
const TILES_DOWN = ${tiles_down};
const TILES = ${tiles};
const ROUNDS = ${rounds};
// Elements from one row, or step, to the next: 16 bytes more than there are, so that they begin in
// other banks.
const LEFT_PITCH = ${left_pitch};
const RIGHT_PITCH = ${right_pitch};
const LEFT_HALF = ${left_half};
const RIGHT_HALF = ${right_half};
const MATRIX = ${size} * ${size};

var<workgroup> left_tile: array<f16, ${left_elements}>;
var<workgroup> right_tile: array<f16, ${right_elements}>;
var<workgroup> sums: array<${sum}, ${sums_elements}>;

fn left_or_zero(step: i32, row: i32, group: i32) -> ${left_type} {
  if (${left_outside}) { return ${left_type}(); }
  return ${left_type}(${left_call});
}

fn right_or_zero(column: i32, step: i32, group: i32) -> ${right_type} {
  if (${right_outside}) { return ${right_type}(); }
  return ${right_type}(${right_call});
}

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let me = i32(local);
  let lane = me % SUBGROUP;
  let subgroup = me / SUBGROUP;
  let sub_row = subgroup / ACROSS * ${sub_tile_rows};
  let sub_column = subgroup % ACROSS * ${sub_tile_columns};
  for (var tile = i32(workgroup.x); tile < TILES; tile += i32(workgroups.x)) {
    let group = tile / (TILES_ACROSS * TILES_DOWN);
    let first_row = tile / TILES_ACROSS % TILES_DOWN * TILE_ROWS;
    let first_column = tile % TILES_ACROSS * TILE_COLUMNS;
//each sum
    var sum_${row}_${column} = ${matrix}<${sum}, C>();
//end
//each left
    let left_step_${i} = (me + ${at}) ${left_step_of};
    let left_row_${i} = (me + ${at}) ${left_row_of};
    var left_${i}: ${left_type};
    if (${mine}) { left_${i} = left_or_zero(left_step_${i}, first_row + left_row_${i}, group); }
//end
//each right
    let right_step_${i} = (me + ${at}) ${right_step_of};
    let right_column_${i} = (me + ${at}) ${right_column_of};
    var right_${i}: ${right_type};
    if (${mine}) { right_${i} = right_or_zero(first_column + right_column_${i}, right_step_${i}, group); }
//end
    for (var round = 0; round < ROUNDS; round++) {
      let half = round & 1;
//each left_part
      if (${mine}) { left_tile[half * LEFT_HALF + (left_row_${i} + ${other}) * LEFT_PITCH + left_step_${i} + ${step}] = left_${i}${part}; }
//end
//each right_part
      if (${mine}) { right_tile[half * RIGHT_HALF + (right_step_${i} + ${step}) * RIGHT_PITCH + right_column_${i} + ${other}] = right_${i}${part}; }
//end
      workgroupBarrier();
      if (round + 1 < ROUNDS) {
        let step = (round + 1) * TILE_STEPS;
//each left
        if (${mine}) { left_${i} = left_or_zero(step + left_step_${i}, first_row + left_row_${i}, group); }
//end
//each right
        if (${mine}) { right_${i} = right_or_zero(first_column + right_column_${i}, step + right_step_${i}, group); }
//end
      }
      for (var step = 0; step < TILE_STEPS; step += ${size}) {
        let a = half * LEFT_HALF + sub_row * LEFT_PITCH + step;
        let b = half * RIGHT_HALF + step * RIGHT_PITCH + sub_column;
//each row
        let a_${row} = coopLoadT<${matrix}<f16, A>>(&left_tile[a + ${row} * ${size} * LEFT_PITCH], ${left_pitch}u);
//end
//each column
        let b_${column} = coopLoadT<${matrix}<f16, B>>(&right_tile[b + ${column} * ${size}], ${right_pitch}u);
//end
//each sum
        sum_${row}_${column} = coopMultiplyAdd(a_${row}, b_${column}, sum_${row}_${column});
//end
      }
    }
    let mine = subgroup * MATRIX;
//each sum
    {
      let done = sum_${row}_${column};
      let place = &sums[mine];
      coopStoreT(done, place, ${size}u);
      workgroupBarrier();
      for (var i = lane; i < MATRIX; i += SUBGROUP) {
        let row = first_row + sub_row + ${row} * ${size} + i / ${size};
        let column = first_column + sub_column + ${column} * ${size} + i % ${size};
        if (row < ROWS && column < COLUMNS) { finish(column, row, group, f32(sums[mine + i])); }
      }
      workgroupBarrier();
    }
//end
  }
}
