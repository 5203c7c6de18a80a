use super::*;
use crate::base::Tensor;

fn shared(bytes: &[u8]) -> SharedBytes {
    Arc::new(AlignedBytes::copy_of(bytes))
}

fn sample() -> Parts {
    let port = |name: &str, shape: &[&str]| Port {
        name: name.into(),
        dtype: "f32".into(),
        shape: shape.iter().map(|s| s.to_string()).collect(),
    };
    let mut weights = Weights::default();
    weights.insert("layer.weight", Tensor::from_slice(&[2, 2], &[1.0f32, 2.0, 3.0, 4.0]));
    weights.insert("layer.bias", Tensor::from_slice(&[2], &[0.5f32, -0.5]));
    let mut constants = Weights::default();
    constants.insert("6a09", Tensor::from_slice(&[3], &[1i64, 2, 3]));
    Parts {
        manifest: Manifest {
            model: "tiny".into(),
            options: BTreeMap::from([("target".into(), "cpu".into()), ("opt".into(), "2".into())]),
            inputs: vec![port("x", &["batch", "2"])],
            outputs: vec![port("y", &["batch", "2"])],
            dims: vec![DimRange { name: "batch".into(), low: 1, high: Some(64) }],
            tuned: None,
        },
        graph: "graph tiny(%x: f32[batch, 2]) { yield y = %x }\n".into(),
        weights,
        constants,
    }
}

fn code(bytes: &[u8]) -> &'static str {
    read(shared(bytes)).unwrap_err().code()
}

/// A ZIP of these entries, made as `write` makes it.
fn zip_of(entries: &[(&str, &[u8])], method: CompressionMethod, align: u16) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in entries {
        let options = SimpleFileOptions::default().compression_method(method).with_alignment(align);
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// The entries of a file, by name.
fn unzip(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let ranges = entries(bytes).unwrap();
    let order = [MANIFEST, GRAPH, WEIGHTS, CONSTANTS];
    order.iter().map(|n| (n.to_string(), bytes[ranges[*n].clone()].to_vec())).collect()
}

/// The sample with some of its entries changed.
fn changed(change: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> Vec<u8> {
    let entries = unzip(&write(&sample(), None).unwrap());
    let new: Vec<(String, Vec<u8>)> =
        entries.into_iter().map(|(name, bytes)| (name.clone(), change(&name, bytes))).collect();
    let borrowed: Vec<(&str, &[u8])> =
        new.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    zip_of(&borrowed, CompressionMethod::Stored, ALIGN)
}

fn in_manifest(from: &str, to: &str) -> Vec<u8> {
    changed(|name, bytes| match name {
        MANIFEST => String::from_utf8(bytes).unwrap().replacen(from, to, 1).into_bytes(),
        _ => bytes,
    })
}

#[test]
fn there_and_back() {
    let parts = sample();
    let bytes = write(&parts, None).unwrap();
    assert_eq!(bytes, write(&parts, None).unwrap());
    let shared = shared(&bytes);
    let read_back = read(shared.clone()).unwrap();
    assert_eq!(read_back, parts);
    let weight = read_back.weights.get("layer.weight").unwrap().bytes().as_ptr_range();
    let all = (*shared).as_ref().as_ptr_range();
    assert!(all.start <= weight.start && weight.end <= all.end, "tensors share the file");
    let plain = Parts { constants: Weights::default(), ..parts };
    assert_eq!(read(self::shared(&write(&plain, None).unwrap())).unwrap(), plain);
}

#[test]
fn a_file_by_memory_map() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.dlm");
    write_file(&path, &sample()).unwrap();
    assert_eq!(read_file(&path).unwrap(), sample());
    assert_eq!(read_file(&folder.path().join("none.dlm")).unwrap_err().exit_status(), 2);
}

#[test]
fn every_cut_and_every_flipped_byte() {
    let parts = sample();
    let bytes = write(&parts, None).unwrap();
    for cut in 0..bytes.len() {
        assert!(read(shared(&bytes[..cut])).is_err(), "cut at {cut}");
    }
    // Dates and permissions may change; what is read may not.
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x55;
        if let Ok(read) = read(shared(&flipped)) {
            assert_eq!(read, parts, "flipped {at}");
        }
    }
}

#[test]
fn altered_and_foreign_files() {
    assert_eq!(code(b""), "E0902");
    assert_eq!(code(b"PK\x05\x06"), "E0902");
    assert_eq!(read(shared(&changed(|_, bytes| bytes))).unwrap(), sample());
    assert_eq!(
        code(&changed(|name, mut bytes| {
            if name == WEIGHTS {
                *bytes.last_mut().unwrap() ^= 1;
            }
            bytes
        })),
        "E0910"
    );
    assert_eq!(code(&in_manifest("\"format_version\": 1", "\"format_version\": 2")), "E0911");
    assert_eq!(code(&in_manifest("\"dlm\"", "\"zip\"")), "E0902");
    assert_eq!(code(&in_manifest("f32", "f33")), "E0904");
    assert_eq!(code(&in_manifest(GRAPH, "other.dl")), "E0904");
    assert_eq!(code(&in_manifest(GRAPH, WEIGHTS)), "E0904");
    assert_eq!(code(&in_manifest("{", "[")), "E0904");
    assert_eq!(code(&in_manifest("{", &"[".repeat(100_000))), "E0904");
}

#[test]
fn hostile_containers() {
    let entries = unzip(&write(&sample(), None).unwrap());
    let borrowed: Vec<(&str, &[u8])> =
        entries.iter().map(|(n, b)| (n.as_str(), b.as_slice())).collect();
    let stored = CompressionMethod::Stored;
    // A missing entry, one too many, a path that leads out, a misaligned one, a bomb.
    for k in 0..borrowed.len() {
        let mut fewer = borrowed.clone();
        fewer.remove(k);
        assert_eq!(code(&zip_of(&fewer, stored, ALIGN)), "E0904");
    }
    for name in ["../../etc/passwd", "/etc/passwd", "code.so", "a\\b", "graph.dl/", "GRAPH.DL"] {
        let more = [&borrowed[..], &[(name, &b"x"[..])]].concat();
        assert_eq!(code(&zip_of(&more, stored, ALIGN)), "E0904", "{name}");
    }
    let zeros = vec![0u8; 10 << 20];
    let bomb = zip_of(&[(MANIFEST, &zeros)], CompressionMethod::Deflated, ALIGN);
    assert!(bomb.len() < 1 << 16);
    assert_eq!(code(&bomb), "E0904");
    assert_eq!(code(&zip_of(&[(MANIFEST, &vec![b' '; 17 << 20])], stored, ALIGN)), "E0912");
    // Twice the same name: `graph.dl` under the name of equal length is renamed in both directories.
    let twice = [&borrowed[..], &[("graph.xx", &b"x"[..])]].concat();
    let mut twice = zip_of(&twice, stored, ALIGN);
    while let Some(at) = twice.windows(8).position(|w| w == b"graph.xx") {
        twice[at..at + 8].copy_from_slice(b"graph.dl");
    }
    assert_eq!(code(&twice), "E0909");
    // Sizes beyond the file, in the central directory.
    let good = write(&sample(), None).unwrap();
    let at = good.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    for field in [20, 24, 42] {
        let mut grown = good.clone();
        grown[at + field..at + field + 4].copy_from_slice(&0x7fff_ffc0u32.to_le_bytes());
        assert!(["E0902", "E0904"].contains(&code(&grown)), "field {field}");
    }
    // Something before the archive.
    assert!(read(shared(&[&[0u8; 64][..], &good].concat())).is_err());
}
