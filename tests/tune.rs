//! `--tune`: tiles are a matter of time alone, wherever they come from.

use std::sync::Arc;
use std::time::Duration;

use dlc::artifact::dlm::{self, Tuned};
use dlc::artifact::model_file;
use dlc::base::Tensor;
use dlc::base::machine::{Extent, Tile, Tiles};
use dlc::base::tensor::AlignedBytes;
use dlc::kernel::generate::contract;
use dlc::load::{Files, model};
use dlc::model::{Model, Options, WeightSource};

/// A convolution over blocks, one over plain maps, a matmul with weights in panels and one without.
const NET: &str = "model net(x: f32[2, 3, 12, 12], w: f32[70, 33]) {
    h = x |> conv2d(32, 3, pad = 1) as one |> relu |> conv2d(32, 3, pad = 1) as two |> relu
    p = h |> max_pool(2, 2) |> flatten |> dense(70) as hidden |> tanh
    return matmul(p, w) as y
}";

fn compiled(tiles: Tiles) -> Model {
    let mut options = Options { weights: WeightSource::Random, ..Options::default() };
    options.target.machine.tiles = tiles;
    let text = |_: &str| Err("no imports".to_string());
    let bytes = |_: &str| unreachable!("no weights files");
    model("net", NET, None, options, &Files { text: &text, bytes: &bytes }).unwrap()
}

fn result(model: &Model) -> Tensor {
    let values = |n: usize| (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect();
    let (x, w): (Vec<f32>, Vec<f32>) = (values(864), values(70 * 33));
    let mut session = model.session().unwrap();
    session.set_input(0, &Tensor::from_slice(&[2, 3, 12, 12], &x)).unwrap();
    session.set_input(1, &Tensor::from_slice(&[70, 33], &w)).unwrap();
    session.run().unwrap();
    session.output(0).unwrap()
}

fn products(model: &Model) -> Vec<Extent> {
    let program = model.program(&Default::default()).unwrap();
    let mut all: Vec<Extent> = program.launches.iter().filter_map(|l| l.product).collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn every_tile_gives_the_same_bits() {
    let plain = compiled(Tiles::default());
    let (want, products) = (result(&plain), products(&plain));
    assert!(products.len() >= 3, "{products:?}");
    let machine = &plain.options().target.machine;
    let candidates: Vec<Vec<Tile>> =
        products.iter().map(|p| contract::candidates(*p, machine)).collect();
    let most = candidates.iter().map(Vec::len).max().unwrap();
    let mut programs = std::collections::BTreeSet::new();
    for i in 0..most {
        let of = products.iter().zip(&candidates);
        let tiles: Tiles = of.filter_map(|(p, all)| Some((*p, *all.get(i)?))).collect();
        let tuned = compiled(tiles);
        assert_eq!(result(&tuned), want, "choice {i}");
        let kernels = &tuned.program(&Default::default()).unwrap().kernels;
        programs.insert(kernels.iter().map(dlc::kernel::print::print_kernel).collect::<String>());
    }
    assert!(programs.len() > most / 2, "choices are taken: {} of {most}", programs.len());
}

#[test]
fn tiles_that_do_not_fit_are_not_taken() {
    let plain = compiled(Tiles::default());
    let want = result(&plain);
    for (vectors, rows) in [(0, 1), (1, 0), (-1, 4), (8, 14), (i64::MAX, 1), (1, i64::MAX)] {
        let tiles = products(&plain).into_iter().map(|p| (p, Tile { vectors, rows })).collect();
        assert_eq!(result(&compiled(tiles)), want, "{vectors} × {rows}");
    }
}

#[test]
fn a_search_changes_no_result_and_ends_in_the_file() {
    let mut model = compiled(Tiles::default());
    let want = result(&model);
    model.tune(Duration::from_millis(300)).unwrap();
    assert_eq!(result(&model), want);
    let found = model.options().target.machine.tiles.clone();
    assert_eq!(model_file::parts(&model).manifest.tuned.is_some(), !found.is_empty());
    // Two runs of a search may differ; what a file says of this machine is taken as it is.
    let tiles: Tiles =
        products(&model).into_iter().map(|p| (p, Tile { vectors: 1, rows: 2 })).collect();
    let parts = model_file::parts(&compiled(tiles.clone()));
    let bytes = dlm::write(&parts, None).unwrap();
    let read = dlm::read(Arc::new(AlignedBytes::copy_of(&bytes))).unwrap();
    let mut options = Options::default();
    assert!(model_file::take_tiles(&read.manifest, &mut options));
    assert_eq!(options.target.machine.tiles, tiles);
    let elsewhere = Tuned { machine: "cpu of another machine".into(), tiles };
    let manifest = dlm::Manifest { tuned: Some(elsewhere), ..read.manifest };
    let mut options = Options::default();
    assert!(!model_file::take_tiles(&manifest, &mut options));
    assert!(options.target.machine.tiles.is_empty());
}
