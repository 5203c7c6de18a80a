use super::*;
use crate::base::{Dim, Shape, Symbol};

fn ty(text: &str) -> TensorType {
    let (name, dims) = text.trim_end_matches(']').split_once('[').unwrap();
    let dim = |d: &str| d.parse::<i64>().map_or_else(|_| Dim::symbol(Symbol::new(d)), Dim::Const);
    let dims = dims.split(',').filter(|d| !d.is_empty()).map(dim).collect();
    TensorType::new(DType::parse(name).unwrap(), Shape(dims))
}

fn plain(text: &str, wanted: &str) -> Result<Tensor, FormatError> {
    parse(text, Some(&ty(wanted)))
}

fn shape(text: &str, wanted: &str) -> Vec<usize> {
    plain(text, wanted).unwrap().shape().to_vec()
}

#[test]
fn typed_literals() {
    let t = parse("f32[2,3]:1,2,3,4,5,6", None).unwrap();
    assert_eq!(t, Tensor::from_slice(&[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]));
    assert_eq!(parse(" f32[2, 3] : [[1,2,3],[4,5,6]]", None).unwrap(), t);
    assert_eq!(parse("i64[]:-7", None).unwrap(), Tensor::from_slice(&[], &[-7i64]));
    assert_eq!(parse("f16:0.5", None).unwrap().shape(), [0usize; 0]);
    assert_eq!(parse("bool[2]:true,0", None).unwrap(), Tensor::from_bools(&[2], &[true, false]));
    assert_eq!(parse("f32[0,3]:", None).unwrap().shape(), [0, 3]);
    assert_eq!(parse("f32[2,0]:[[],[]]", None).unwrap().shape(), [2, 0]);
    let bits = parse("f32[3]:0x7fc00001,-inf,nan", None).unwrap();
    let got: Vec<u32> = bits.as_slice::<f32>().iter().map(|v| v.to_bits()).collect();
    assert_eq!(got, [0x7fc00001, 0xff800000, 0x7fc00000]);
    assert_eq!(parse("u64[1]:0xffffffffffffffff", None).unwrap().as_slice::<u64>(), [u64::MAX]);
}

#[test]
fn plain_numbers_take_the_wanted_type() {
    assert_eq!(plain("2", "f32[]").unwrap(), Tensor::from_slice(&[], &[2.0f32]));
    assert_eq!(shape("1,2,3,4", "f32[batch,2]"), [2, 2]);
    assert_eq!(shape("1,2,3,4", "f32[2,2]"), [2, 2]);
    assert_eq!(shape("[[1,2],[3,4]]", "f32[n,m]"), [2, 2]);
    assert_eq!(shape("[]", "f32[n]"), [0]);
    assert_eq!(shape("[[[]], [[]]]", "f32[a,b,c]"), [2, 1, 0]);
    assert_eq!(shape("", "f32[n]"), [0]);
}

#[test]
fn codes_of_what_is_wrong() {
    let typed = |text: &str| parse(text, None).unwrap_err().code();
    for text in [
        "f32[2]:1",
        "f32[2]:1,2,3",
        "f32[2]:[[1,2]]",
        "f33[2]:1,2",
        "f32[2:1,2",
        "f32[-1]:",
        "1,2",
        "f32[2]:1,,2",
        "f32[1]:1..2",
        "f32[1]:0x7f",
        "f32[2]:[1,2",
        "f32[2]:[1,2]]",
        "f32[2]:[1,2]3",
        "f32[2]:[,1,2]",
        "f32[2]:[1,2,]",
        "f32[2]:[1 [2]]",
        "f32[2]:[1,[2]]",
        "f32[2]:[[1],2]",
        "f32[1]:[[]]",
        "i32[1]:1.5",
        "i32[1]:--1",
        "i32[1]:0x-1",
        "f32[1]:infinity",
        "f32[1]:é",
        "bool[1]:2",
        "",
        "]",
        "f32[3]:[[1,2],[3]]",
    ] {
        assert_eq!(typed(text), "E0913", "{text}");
    }
    assert_eq!(typed("u8[1]:256"), "E0914");
    assert_eq!(typed("i8[1]:-129"), "E0914");
    assert_eq!(typed("f32[1]:1e39"), "E0914");
    assert_eq!(typed("f16[1]:65520"), "E0914");
    assert_eq!(typed("i64[1]:99999999999999999999999999999999999999999999"), "E0914");
    assert_eq!(typed("f32[99999999999,99999999999]:"), "E0906");
    assert_eq!(typed(&format!("f32[1]:{}", "[".repeat(100_000))), "E0913");
    assert_eq!(typed("@no/such/file.npy"), "E0901");
    assert_eq!(typed("@tensor.pb"), "E0916");
    let mismatch = |text: &str, wanted: &str| plain(text, wanted).unwrap_err().code();
    assert_eq!(mismatch("1,2,3", "f32[2]"), "E0915");
    assert_eq!(mismatch("1,2,3", "f32[n,2]"), "E0915");
    assert_eq!(mismatch("[1,2,3]", "f32[1,3]"), "E0915");
    assert_eq!(mismatch("f64[2]:1,2", "f32[2]"), "E0915");
    assert_eq!(mismatch("f32[2]:1,2", "f32[n,2]"), "E0915");
    assert_eq!(mismatch("1,2", "f32[n,m]"), "E0913");
}

#[test]
fn files_and_archives() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let t = Tensor::from_slice(&[2], &[1.0f32, 2.0]);
    save(&at("x.npy"), &t).unwrap();
    let mut weights = safetensors::Weights::default();
    weights.insert("a.b", t.clone());
    std::fs::write(at("w.safetensors"), safetensors::write(&weights)).unwrap();
    let read = |name: &str| parse(&format!("@{}", at(name).display()), None);
    assert_eq!(read("x.npy").unwrap(), t);
    assert_eq!(read("w.safetensors").unwrap(), t);
    assert_eq!(read("w.safetensors:a.b").unwrap(), t);
    assert_eq!(read("w.safetensors:a.c").unwrap_err().code(), "E0908");
    assert_eq!(save(&at("x.txt"), &t).unwrap_err().exit_status(), 2);
    let wrong = parse(&format!("@{}", at("x.npy").display()), Some(&ty("f64[2]"))).unwrap_err();
    assert_eq!((wrong.code(), wrong.exit_status()), ("E0915", 1));
    assert!(wrong.diagnostic().help.unwrap().contains("float64"));
}
