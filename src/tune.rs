//! The search for machine choices on the machine at hand: tiles of sums of products.
//!
//! In: a model whose dimensions are bound, and the seconds that the search may take. Out: the tiles
//! that were faster than those which the generators choose by counting. The whole program is made
//! with one candidate for every product at once and timed launch by launch beside the program as it
//! was, run after run in turns, so that what else the machine does touches both. Choices of tiles
//! never change a bit of a result.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::machine::{Extent, Tile, Tiles};
use crate::import::Weights;
use crate::ir::graph::Graph;
use crate::kernel::generate::contract;
use crate::model::{Diagnostics, Options};
use crate::plan::Plan;
use crate::runtime::cpu;
use crate::runtime::pool::Pool;
use crate::schedule::program::{LaunchId, Program};
#[cfg(feature = "gpu")]
use crate::{runtime::gpu, target::wgsl};

/// Candidates for one product, the generators' choice among them.
const CANDIDATES: usize = 8;
/// Runs of both programs in turns: what a median needs, and no more than that.
const RUNS: std::ops::RangeInclusive<usize> = 5..=41;
/// A tile has to be this much faster, or noise would choose.
const GAIN: f64 = 0.97;

/// Tiles for the products of a bound graph.
pub fn search(
    bound: &Graph,
    weights: &Weights,
    options: &Options,
    limit: Duration,
) -> Result<Tiles, Diagnostics> {
    let end = Instant::now() + limit;
    let mut search = Search { bound, weights, options, base: Timed::new(bound, weights, options)? };
    let products: Vec<Extent> = search.base.products.keys().copied().collect();
    let candidates: Vec<Vec<Tile>> =
        products.iter().map(|p| search.base.candidates(*p, options)).collect();
    let mut best: BTreeMap<Extent, (f64, Tile)> = BTreeMap::new();
    let mut cost = Duration::ZERO;
    for turn in 1..CANDIDATES {
        let start = Instant::now();
        let left = end.saturating_duration_since(start);
        // The last comparison takes as long as a turn.
        if left.is_zero() || 2 * cost > left {
            break;
        }
        let chosen = products.iter().zip(&candidates);
        let tiles: Tiles = chosen.filter_map(|(p, all)| Some((*p, *all.get(turn)?))).collect();
        // What is left is shared by the turns to come and the last comparison.
        let share = left / (CANDIDATES - turn + 1) as u32;
        for (product, ratio) in search.compare(&tiles, start + share)? {
            let Some(tile) = tiles.get(product) else { continue };
            if ratio < best.get(&product).map_or(GAIN, |(r, _)| *r) {
                best.insert(product, (ratio, tile));
            }
        }
        cost = start.elapsed();
    }
    let tiles: Tiles = best.into_iter().map(|(p, (_, tile))| (p, tile)).collect();
    search.confirmed(tiles, end)
}

struct Search<'a> {
    bound: &'a Graph,
    weights: &'a Weights,
    options: &'a Options,
    /// With the generators' own choices.
    base: Timed,
}

/// A program whose launches can be timed.
struct Timed {
    program: Arc<Program>,
    /// The launches of each product.
    products: BTreeMap<Extent, Vec<usize>>,
    on: On,
}

enum On {
    Cpu(Box<cpu::Session>),
    #[cfg(feature = "gpu")]
    Gpu(Box<gpu::session::Session>),
}

impl Timed {
    fn new(bound: &Graph, weights: &Weights, options: &Options) -> Result<Timed, Diagnostics> {
        let plan = Plan::new(bound.clone(), options)?;
        #[cfg(feature = "gpu")]
        if options.target.machine.in_step() {
            let program = plan.ready(weights)?;
            let compiled = crate::session::shaders(&plan, weights, options)?;
            let session =
                gpu::session::Session::new(compiled).map_err(|e| Diagnostics::from(*e))?;
            let product = |launch: usize| {
                let kernel = program.kernel(program.launches[launch].kernel);
                Some(wgsl::product(kernel, features(options)?)?.0)
            };
            let products = products(program.launches.len(), product);
            return Ok(Timed { program, products, on: On::Gpu(Box::new(session)) });
        }
        let executable = plan.executable(weights, options)?;
        let shared = options.threads > 1 && executable.is_shareable();
        let pool = shared.then(|| Arc::new(Pool::new(options.threads)));
        let session = cpu::Session::with_pool(executable, pool).map_err(|e| e.diagnostic())?;
        let program = session.executable().program().clone();
        let product = |launch: usize| program.launches[launch].product;
        let products = products(program.launches.len(), product);
        Ok(Timed { program, products, on: On::Cpu(Box::new(session)) })
    }

    /// Tiles for a product, the generators' choice first.
    fn candidates(&self, product: Extent, options: &Options) -> Vec<Tile> {
        let all = match &self.on {
            On::Cpu(_) => contract::candidates(product, &options.target.machine),
            #[cfg(feature = "gpu")]
            On::Gpu(_) => {
                let launch = &self.program.launches[self.products[&product][0]];
                let kernel = self.program.kernel(launch.kernel);
                let known = features(options).and_then(|of| wgsl::product(kernel, of));
                known.map_or(vec![], |(_, tiles)| tiles)
            }
        };
        all.into_iter().take(CANDIDATES).collect()
    }

    /// Milliseconds of each launch in one run, all its executions together.
    fn run(&mut self) -> Result<Times, Diagnostics> {
        let mut times: Vec<(LaunchId, Duration)> = vec![];
        match &mut self.on {
            On::Cpu(session) => session.run_timed(&mut times),
            #[cfg(feature = "gpu")]
            On::Gpu(session) => session.run_timed(&mut times).map_err(|e| Diagnostics::from(*e))?,
        }
        let mut sums = vec![0.0; self.program.launches.len()];
        for (id, time) in times {
            sums[id.0 as usize] += time.as_secs_f64() * 1e3;
        }
        Ok(sums)
    }
}

/// What the adapter of the options offers.
#[cfg(feature = "gpu")]
fn features(options: &Options) -> Option<wgsl::Features> {
    let device = gpu::device::Device::shared(options.adapter.as_deref()).ok()?;
    Some(wgsl::Features { matmul: options.matmul, ..device.allowed().features })
}

/// The launches of each product, among so many.
fn products(
    launches: usize,
    product: impl Fn(usize) -> Option<Extent>,
) -> BTreeMap<Extent, Vec<usize>> {
    let mut all: BTreeMap<Extent, Vec<usize>> = BTreeMap::new();
    for launch in 0..launches {
        if let Some(product) = product(launch) {
            all.entry(product).or_default().push(launch);
        }
    }
    all
}

/// Milliseconds of each launch: the median over runs.
type Times = Vec<f64>;

impl Search<'_> {
    /// How long the launches of each product take with these tiles, as a share of what they took.
    fn compare(
        &mut self,
        tiles: &Tiles,
        until: Instant,
    ) -> Result<BTreeMap<Extent, f64>, Diagnostics> {
        let Some([before, after]) = self.times(tiles, until)? else { return Ok(BTreeMap::new()) };
        let sum =
            |launches: &[usize], times: &Times| launches.iter().map(|l| times[*l]).sum::<f64>();
        let ratio = |l: &[usize]| sum(l, &after) / sum(l, &before).max(f64::MIN_POSITIVE);
        Ok(self.base.products.iter().map(|(p, launches)| (*p, ratio(launches))).collect())
    }

    /// The tiles, if the whole program is faster with them.
    fn confirmed(mut self, tiles: Tiles, end: Instant) -> Result<Tiles, Diagnostics> {
        if tiles.is_empty() {
            return Ok(tiles);
        }
        let faster = self
            .times(&tiles, end)?
            .is_some_and(|[before, after]| after.iter().sum::<f64>() < before.iter().sum::<f64>());
        Ok(if faster { tiles } else { Tiles::default() })
    }

    /// Times of the launches before and with these tiles; `None` where the programs do not have the
    /// same launches.
    fn times(&mut self, tiles: &Tiles, until: Instant) -> Result<Option<[Times; 2]>, Diagnostics> {
        let mut options = self.options.clone();
        options.target.machine.tiles = tiles.clone();
        let mut other = Timed::new(self.bound, self.weights, &options)?;
        if other.products != self.base.products {
            return Ok(None);
        }
        let mut runs = [vec![], vec![]];
        for run in 0..*RUNS.end() {
            if run >= *RUNS.start() && Instant::now() >= until {
                break;
            }
            for (timed, runs) in [&mut self.base, &mut other].into_iter().zip(&mut runs) {
                runs.push(timed.run()?);
            }
        }
        // The first run brings code and weights into the caches.
        Ok(Some(runs.map(|runs| medians(&runs[1..]))))
    }
}

fn medians(runs: &[Times]) -> Times {
    let median = |launch: usize| {
        let mut times: Vec<f64> = runs.iter().map(|r| r[launch]).collect();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    (0..runs[0].len()).map(median).collect()
}
