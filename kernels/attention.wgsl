// Attention by tiles of ${tile_rows} rows and ${tile_keys} keys; the scores are never stored.
//
// A workgroup computes one tile of rows after the other, a whole number of workgroups apart. Their queries lie
// in workgroup memory, and after each other parts of the keys and of the values do. Blocks of keys are
// gone through once, with the softmax of what was seen so far: where a larger score comes, what was summed up
// is scaled by exp(old top - new top) (Milakov and Gimelshein 2018; FlashAttention: Dao et al. 2022). An
// invocation has 4 × 4 scores of a block, and ${blocks} blocks of 4 × 4 sums of weighted values in registers.
//
// Before this text stand the bindings and functions:
//   query, key, value: an element of an operand, or a few that follow each other in memory;
//   score(key, row, group, sum): the score that a sum of products gives;
//   finish(column, row, group, sum, top, total): makes results of sums and stores them;
//   finish_row(0, row, group, top, total), if there are results of rows.

const ROWS = ${rows};
const KEYS = ${keys};
const DEPTH = ${depth};
const WIDTH = ${width};
const INVOCATIONS = ${invocations};
const TILE_ROWS = ${tile_rows};
const TILE_KEYS = ${tile_keys};
// Steps of the depth, and values, that are in workgroup memory at a time.
const TILE_STEPS = ${tile_steps};
const TILE_VALUES = ${tile_values};
// Invocations side by side (along keys, then along columns), and one below the other.
const ACROSS = ${across};
const DOWN = ${down};
const TILES_DOWN = ${tiles_down};
const TILES = ${tiles};
// Quads of columns, and from one step of the keys to the next.
const COLUMN_QUADS = ${column_quads};
const KEY_PITCH = ${key_pitch};

// Four rows by steps, four keys by steps or four columns by keys, four rows by keys, four rows by invocations.
var<workgroup> query_tile: array<vec4<f32>, ${query_quads}>;
var<workgroup> tile: array<vec4<f32>, ${tile_quads}>;
var<workgroup> weights: array<vec4<f32>, ${weight_quads}>;
var<workgroup> shares: array<vec4<f32>, ${invocations}>;

fn least() -> f32 { return bitcast<f32>(bits | 0xff800000u); }

// e to the power of what is at most 0. Zero and NaN are not left to the driver.
fn power(x: vec4<f32>) -> vec4<f32> {
  let nan = (bitcast<vec4<u32>>(x) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
  return select(select(exp(x), vec4<f32>(), x < vec4<f32>(-104.0)), x, nan);
}

fn score_or_least(key: i32, row: i32, group: i32, sum: f32) -> f32 {
  if (key >= KEYS || row >= ROWS) { return least(); }
  return score(key, row, group, sum);
}
//each operand

// Brings a part of an operand: from a step and a row, key or column on.
fn bring_${name}(me: i32, first_step: i32, first_other: i32, group: i32) {
  for (var i = me; i < ${runs}; i += INVOCATIONS) {
    let to_step = i ${step_of};
    let to_other = i ${other_of};
    let step = first_step + to_step;
    let other = first_other + to_other;
    if (step >= ${last_step} || other >= ${last_other}) { continue; }
    let elements = ${call};
    for (var lane = 0; lane < ${lanes}; lane++) {
      ${tile}[(to_step${step_lane}) * ${pitch} + to_other / 4][to_other % 4${other_lane}] = elements${part};
    }
  }
}
//end

@compute @workgroup_size(${invocations})
fn main(
  @builtin(workgroup_id) workgroup: vec3<u32>,
  @builtin(num_workgroups) workgroups: vec3<u32>,
  @builtin(local_invocation_index) local: u32,
) {
  let me = i32(local);
  let x = me % ACROSS;
  let y = me / ACROSS;
  // The first of the invocations with the same rows.
  let side = y * ACROSS;
  for (var at = i32(workgroup.x); at < TILES; at += i32(workgroups.x)) {
    let group = at / TILES_DOWN;
    let first_row = at % TILES_DOWN * TILE_ROWS;
    let row = first_row + y * 4;
    var top = vec4<f32>(least());
    // Of the keys that this invocation has scores of.
    var total = vec4<f32>();
//each column
    let quad_${column} = min(x + ${column} * ACROSS, COLUMN_QUADS - 1);
//end
//each sum
    var sum_${column}_${part} = vec4<f32>();
//end
    bring_query(me, 0, first_row, group);
    for (var first_key = 0; first_key < KEYS; first_key += TILE_KEYS) {
//each key
      var product_${part} = vec4<f32>();
//end
      for (var first_step = 0; first_step < DEPTH; first_step += TILE_STEPS) {
        workgroupBarrier();
        bring_key(me, first_step, first_key, group);
        workgroupBarrier();
        let steps = min(TILE_STEPS, DEPTH - first_step);
        for (var step = 0; step < steps; step++) {
          let q = query_tile[(first_step + step) * DOWN + y];
          let k = tile[step * KEY_PITCH + x];
//each key
          product_${part} = fma(vec4<f32>(k.${part}), q, product_${part});
//end
        }
      }
      var scores = array<vec4<f32>, 4>(product_x, product_y, product_z, product_w);
      let key = first_key + x * 4;
      for (var i = 0; i < 16; i++) {
        scores[i / 4][i % 4] = score_or_least(key + i / 4, row + i % 4, group, scores[i / 4][i % 4]);
      }
      shares[me] = max(max(scores[0], scores[1]), max(scores[2], scores[3]));
      workgroupBarrier();
      var next = top;
      for (var i = side; i < side + ACROSS; i++) { next = max(next, shares[i]); }
      let shift = select(next, vec4<f32>(), next == vec4<f32>(least()));
      let scale = power(top - shift);
      top = next;
      total *= scale;
//each key
      let weight_${part} = power(scores[${i}] - shift);
      total += weight_${part};
      weights[(${i} * ACROSS + x) * DOWN + y] = weight_${part};
//end
//each sum
      sum_${column}_${part} *= scale.${part};
//end
      let keys = min(TILE_KEYS, KEYS - first_key);
      for (var first = 0; first < keys; first += TILE_VALUES) {
        workgroupBarrier();
        bring_value(me, first_key + first, 0, group);
        workgroupBarrier();
        let last = min(first + TILE_VALUES, keys);
        for (var i = first; i < last; i++) {
          let w = weights[(i % 4 * ACROSS + i / 4) * DOWN + y];
          let line = (i - first) * COLUMN_QUADS;
//each column
          let v_${column} = tile[line + quad_${column}];
//end
//each sum
          sum_${column}_${part} = fma(vec4<f32>(w.${part}), v_${column}, sum_${column}_${part});
//end
        }
      }
    }
    shares[me] = total;
    workgroupBarrier();
    total = vec4<f32>();
    for (var i = side; i < side + ACROSS; i++) { total += shares[i]; }
//each of_rows
    for (var i = 0; i < 4; i++) {
      if (x == 0 && row + i < ROWS) { finish_row(0, row + i, group, top[i], total[i]); }
    }
//end
    var sums = array<vec4<f32>, ${sums}>(${all_sums});
    for (var i = 0; i < ${sums}; i++) {
      let quarter = i % 4;
      let column = (x + i / 4 * ACROSS) * 4;
      for (var lane = 0; lane < 4; lane++) {
        if (row + quarter < ROWS && column + lane < WIDTH) {
          finish(column + lane, row + quarter, group, sums[i][lane], top[quarter], total[quarter]);
        }
      }
    }
  }
}
