// Products of matrices by tiles of ${tile_rows} × ${tile_columns} through workgroup memory.
//
// A workgroup computes one tile after the other, a whole number of workgroups apart. For ${tile_steps} steps
// of the sums at a time its part of both operands lies in workgroup memory, twice: while one half is
// multiplied, the next steps are on their way to the other. An invocation has ${quad_rows} × ${quad_columns} blocks of
// 4 × 4 sums in registers, spread over the tile so that neighbours read neighbours.
//
// Before this text stand the bindings and three functions:
//   left, right: an element of an operand, or a few that follow each other in memory;
//   finish(column, row, group, sum): makes results of a sum and stores them.

const ROWS = ${rows};
const COLUMNS = ${columns};
const STEPS = ${steps};
const INVOCATIONS = ${invocations};
const TILE_ROWS = ${tile_rows};
const TILE_COLUMNS = ${tile_columns};
const TILE_STEPS = ${tile_steps};
// Invocations side by side, and one below the other.
const ACROSS = ${across};
const DOWN = ${down};
const TILES_ACROSS = ${tiles_across};
const TILES_DOWN = ${tiles_down};
const TILES = ${tiles};
const ROUNDS = ${rounds};
// Quads from one step to the next; one more than there are, so that steps begin in other banks.
const LEFT_PITCH = ${left_pitch};
const RIGHT_PITCH = ${right_pitch};
const LEFT_HALF = ${left_half};
const RIGHT_HALF = ${right_half};

var<workgroup> left_tile: array<vec4<f32>, ${left_quads}>;
var<workgroup> right_tile: array<vec4<f32>, ${right_quads}>;

fn left_or_zero(step: i32, row: i32, group: i32) -> ${left_type} {
  if (${left_outside}) { return ${left_type}(); }
  return ${left_call};
}

fn right_or_zero(column: i32, step: i32, group: i32) -> ${right_type} {
  if (${right_outside}) { return ${right_type}(); }
  return ${right_call};
}

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let me = i32(local);
  let x = me % ACROSS;
  let y = me / ACROSS;
  for (var tile = i32(workgroup.x); tile < TILES; tile += i32(workgroups.x)) {
    let group = tile / (TILES_ACROSS * TILES_DOWN);
    let first_row = tile / TILES_ACROSS % TILES_DOWN * TILE_ROWS;
    let first_column = tile % TILES_ACROSS * TILE_COLUMNS;
//each sum
    var sum_${row}_${part}_${column} = vec4<f32>();
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
      if (${mine}) { left_tile[half * LEFT_HALF + (left_step_${i} + ${step}) * LEFT_PITCH + left_row_${i} / 4][left_row_${i} % 4 + ${other}] = left_${i}${part}; }
//end
//each right_part
      if (${mine}) { right_tile[half * RIGHT_HALF + (right_step_${i} + ${step}) * RIGHT_PITCH + right_column_${i} / 4][right_column_${i} % 4 + ${other}] = right_${i}${part}; }
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
      for (var step = 0; step < TILE_STEPS; step++) {
        let a = half * LEFT_HALF + step * LEFT_PITCH + y;
        let b = half * RIGHT_HALF + step * RIGHT_PITCH + x;
//each row
        let a_${row} = left_tile[a + ${row} * DOWN];
//end
//each column
        let b_${column} = right_tile[b + ${column} * ACROSS];
//end
//each sum
        sum_${row}_${part}_${column} = fma(vec4<f32>(a_${row}.${part}), b_${column}, sum_${row}_${part}_${column});
//end
      }
    }
    // The next tile begins in the half that others may still read.
    workgroupBarrier();
    var sums = array<vec4<f32>, ${sums}>(${all_sums});
    for (var i = 0; i < ${sums}; i++) {
      let row = first_row + (y + i / ${sums_of_rows} * DOWN) * 4 + i / ${quad_columns} % 4;
      let column = first_column + (x + i % ${quad_columns} * ACROSS) * 4;
      for (var lane = 0; lane < 4; lane++) {
        if (row < ROWS && column + lane < COLUMNS) { finish(column + lane, row, group, sums[i][lane]); }
      }
    }
  }
}
