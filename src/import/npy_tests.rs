use std::io::Write;

use super::*;

fn shared(bytes: &[u8]) -> SharedBytes {
    Arc::new(AlignedBytes::copy_of(bytes))
}

fn file(header: &str, data: &[u8]) -> SharedBytes {
    let length = (header.len() as u16).to_le_bytes();
    shared(&[MAGIC, &[1, 0], &length, header.as_bytes(), data].concat())
}

fn dict(descr: &str, fortran: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}")
}

fn code(header: &str, data: &[u8]) -> &'static str {
    read(file(header, data)).unwrap_err().code()
}

#[test]
fn every_dtype_there_and_back() {
    for dtype in DType::ALL {
        for shape in [&[][..], &[3], &[2, 3], &[0, 4]] {
            let tensor = Tensor::zeros(dtype, shape).unwrap();
            match write(&tensor) {
                Ok(bytes) => {
                    assert_eq!((bytes.len() - tensor.bytes().len()) % 64, 0);
                    assert_eq!(read(shared(&bytes)).unwrap(), tensor);
                }
                Err(e) => assert_eq!((dtype, e.code()), (DType::BF16, "E0905")),
            }
        }
    }
    let bools = Tensor::from_bools(&[2], &[true, false]);
    assert_eq!(read(shared(&write(&bools).unwrap())).unwrap(), bools);
}

#[test]
fn the_same_bytes_as_numpy() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/iris/iris_x.npy");
    let bytes = super::super::read_file(path.as_ref()).unwrap();
    let tensor = read(bytes.clone()).unwrap();
    assert_eq!((tensor.shape(), tensor.as_slice::<f32>()[0]), (&[150, 4][..], 5.1));
    assert_eq!(write(&tensor).unwrap(), (*bytes).as_ref());
}

#[test]
fn column_major_and_big_endian() {
    let want = Tensor::from_slice(&[2, 3], &[1i16, 2, 3, 4, 5, 6]);
    let columns: Vec<u8> = [1i16, 4, 2, 5, 3, 6].iter().flat_map(|v| v.to_be_bytes()).collect();
    assert_eq!(read(file(&dict(">i2", "True", "(2, 3)"), &columns)).unwrap(), want);
    let rows: Vec<u8> = (1..=6i16).flat_map(i16::to_be_bytes).collect();
    assert_eq!(read(file(&dict(">i2", "False", "(2, 3)"), &rows)).unwrap(), want);
    // Strides of [2, 3, 2] in column-major order, checked against the definition.
    let data: Vec<u8> = (0..12).collect();
    let t = read(file(&dict("|u1", "True", "(2, 3, 2)"), &data)).unwrap();
    for (i, v) in t.as_slice::<u8>().iter().enumerate() {
        let (a, b, c) = (i / 6, i / 2 % 3, i % 2);
        assert_eq!(*v as usize, a + 2 * b + 6 * c);
    }
    assert_eq!(read(file(&dict(">f8", "True", "(0, 3)"), &[])).unwrap().shape(), [0, 3]);
}

#[test]
fn hostile_headers() {
    let good = dict("<f4", "False", "(1,)");
    assert!(read(file(&good, &[0; 4])).is_ok());
    assert_eq!(code(&good, &[0; 3]), "E0903");
    assert_eq!(code(&good, &[0; 5]), "E0907");
    assert_eq!(code(&dict("<f4", "False", "(1099511627776, 1099511627776)"), &[]), "E0906");
    assert_eq!(code(&dict("<f4", "False", "(0, 1099511627776, 1099511627776)"), &[]), "E0906");
    assert_eq!(code(&dict("<f4", "False", "(100000000000,)"), &[0; 8]), "E0903");
    assert_eq!(code(&dict("<f4", "False", "(99999999999999999999999,)"), &[]), "E0904");
    assert_eq!(code(&dict("<f4", "False", "(-1,)"), &[]), "E0904");
    assert_eq!(code(&dict("<f4", "False", &format!("({})", "1,".repeat(65))), &[0; 4]), "E0904");
    assert_eq!(code(&dict("<f4", "False", &"(".repeat(60_000)), &[]), "E0904");
    assert_eq!(code(&dict("<f4", "Maybe", "(1,)"), &[0; 4]), "E0904");
    assert_eq!(code("{'descr': '<f4', 'shape': (1,)}", &[0; 4]), "E0904");
    assert_eq!(code("{'descr': '<f4', 'descr': '<f4'}", &[0; 4]), "E0904");
    assert_eq!(code(&good.replace("}", "} x"), &[0; 4]), "E0904");
    assert_eq!(code(&dict("|b1", "False", "(2,)"), &[1, 2]), "E0904");
    for bad in ["<c8", "|O", "<U3", "|S3", "<M8[ns]", "<f16", "|V2", ""] {
        assert_eq!(code(&dict(bad, "False", "(1,)"), &[0; 16]), "E0905", "{bad}");
    }
    assert_eq!(code("{'descr': [('a', '<f4')], 'shape': (1,)}", &[]), "E0905");
    assert_eq!(read(shared(b"PK")).unwrap_err().code(), "E0902");
    assert_eq!(read(shared(b"\x93NUMPY\x09\x00abc")).unwrap_err().code(), "E0911");
    let long = [MAGIC, &[2, 0], &u32::MAX.to_le_bytes(), b"{"].concat();
    assert_eq!(read(shared(&long)).unwrap_err().code(), "E0912");
    let whole = write(&Tensor::from_slice(&[2], &[1.0f32, 2.0])).unwrap();
    for cut in 0..whole.len() {
        assert!(read(shared(&whole[..cut])).is_err(), "cut at {cut}");
    }
}

fn npz(method: CompressionMethod, entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    for (name, bytes) in entries {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn archives_by_key() {
    let tensor = Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]);
    let array = write(&tensor).unwrap();
    for method in [CompressionMethod::Stored, CompressionMethod::Deflated] {
        let bytes = npz(method, &[("weights.npy", &array), ("other.npy", &array)]);
        assert_eq!(keys(&bytes).unwrap(), ["weights", "other"]);
        assert_eq!(read_npz(shared(&bytes), "weights").unwrap(), tensor);
        assert_eq!(read_npz(shared(&bytes), "weights.npy").unwrap(), tensor);
        let missing = read_npz(shared(&bytes), "wieghts").unwrap_err();
        assert_eq!(missing.code(), "E0908");
        assert_eq!(missing.diagnostic().help.unwrap(), "did you mean `weights`?");
        for cut in 0..bytes.len() {
            assert!(read_npz(shared(&bytes[..cut]), "weights").is_err(), "cut at {cut}");
        }
    }
}

#[test]
fn an_archive_that_claims_too_much() {
    let array = write(&Tensor::zeros(DType::U8, &[100_000]).unwrap()).unwrap();
    let mut bytes = npz(CompressionMethod::Deflated, &[("a.npy", &array)]);
    assert!(read_npz(shared(&bytes), "a").is_ok());
    // The uncompressed size in the central directory: 24 bytes after its signature.
    let at = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap() + 24;
    bytes[at..at + 4].copy_from_slice(&0xf000_0000u32.to_le_bytes());
    assert_eq!(read_npz(shared(&bytes), "a").unwrap_err().code(), "E0904");
    assert_eq!(read_npz(shared(b"not a zip"), "a").unwrap_err().code(), "E0902");
}
