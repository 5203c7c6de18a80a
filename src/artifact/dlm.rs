//! `.dlm`: a compiled model in one file.
//!
//! A ZIP whose entries are stored, not compressed, and begin at multiples of 64, so that a memory
//! map serves the weights in place:
//!
//! | entry | content |
//! | --- | --- |
//! | `manifest.json` | versions, name, options, inputs, outputs, dimensions; sizes and SHA-256 of the others |
//! | `graph.dl` | the graph in core form |
//! | `weights.safetensors` | the parameters, by path |
//! | `constants.safetensors` | large constants of the graph, by hash; only where there are any |
//! | `prepared.bin` | values of the program's constants, packed for one machine |
//! | `code.bin` | the program and its code for that machine, behind their seal |
//!
//! The last two are there or missing together; the rest is portable. They are taken only under a
//! [`Seal`] that holds for the code and the manifest, and else the file is read as if it had none.
//!
//! Equal parts give equal bytes: no time, no user, one order; of the code, equal keys and builds of
//! dlc. The reader takes exactly these entries, each once, and believes no size before it has seen
//! the bytes; it allocates for the graph's text, the manifest and the code, all bounded, while
//! tensors share the file's bytes.

use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::map::map_file;
use super::seal::{self, Seal};
use crate::base::machine::Tiles;
use crate::base::tensor::{AlignedBytes, SharedBytes};
use crate::base::{DType, atomic_file};
use crate::import::{FormatError, Weights, safetensors};

/// The version of the layout above. A reader refuses every other one.
pub const FORMAT_VERSION: u32 = 1;
/// Where entries begin.
pub const ALIGN: u16 = 64;

const DLM: &str = "a .dlm file";
const MANIFEST: &str = "manifest.json";
const GRAPH: &str = "graph.dl";
const WEIGHTS: &str = "weights.safetensors";
const CONSTANTS: &str = "constants.safetensors";
const PREPARED: &str = "prepared.bin";
const CODE: &str = "code.bin";
const MANIFEST_LIMIT: u64 = 16 << 20;
const GRAPH_LIMIT: u64 = 1 << 30;
const CODE_LIMIT: usize = 1 << 30;

/// What a compiled model consists of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parts {
    pub manifest: Manifest,
    /// Core form.
    pub graph: String,
    pub weights: Weights,
    pub constants: Weights,
}

/// What a file says of one machine, and the seal that it goes under.
#[derive(Clone, Copy)]
pub struct Sealed<'a> {
    pub code: &'a [u8],
    pub prepared: &'a [u8],
    pub seal: &'a Seal,
}

/// What is known of a model without reading it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub model: String,
    /// As they were given: `target`, `opt`, `strict` …
    pub options: BTreeMap<String, String>,
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub dims: Vec<DimRange>,
    /// Machine choices, and the machine that they were found on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Tuned>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tuned {
    pub machine: String,
    pub tiles: Tiles,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Port {
    pub name: String,
    pub dtype: String,
    /// Integers, or expressions over the model's dimensions.
    pub shape: Vec<String>,
}

/// An open dimension and its bounds, both inclusive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DimRange {
    pub name: String,
    pub low: i64,
    pub high: Option<i64>,
}

/// The manifest as it stands in the file.
#[derive(Serialize, Deserialize)]
struct Envelope {
    format: String,
    format_version: u32,
    dlc_version: String,
    #[serde(flatten)]
    manifest: Manifest,
    entries: Vec<EntryHash>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prepared: Option<Prepared>,
}

/// Prepared weights are read whole at every start, so their checksum is one that is fast: it finds
/// damage. Who may alter a file may alter its weights all the same.
#[derive(Serialize, Deserialize)]
struct Prepared {
    bytes: u64,
    crc32: String,
}

#[derive(Serialize, Deserialize)]
struct EntryHash {
    name: String,
    bytes: u64,
    sha256: String,
}

/// What has to be known of a manifest before the rest of it can be understood.
#[derive(Deserialize)]
struct Versions {
    format: String,
    format_version: u32,
}

/// Writes a file, whole or not at all.
pub fn write_file(path: &Path, parts: &Parts) -> Result<(), FormatError> {
    let refused =
        |source| FormatError::System { action: "write", path: path.to_path_buf(), source };
    let bytes = write(parts, None).map_err(|e| e.within(path.display().to_string()))?;
    atomic_file::write(path, &bytes).map_err(refused)
}

/// Reads a file by memory map.
pub fn read_file(path: &Path) -> Result<Parts, FormatError> {
    open_file(path)?.parts().map_err(|e| e.within(path.display().to_string()))
}

/// Opens a file by memory map.
pub fn open_file(path: &Path) -> Result<File, FormatError> {
    File::open(map_file(path)?).map_err(|e| e.within(path.display().to_string()))
}

/// The bytes of a file.
pub fn write(parts: &Parts, sealed: Option<Sealed>) -> Result<Vec<u8>, FormatError> {
    let mut entries: Vec<(&str, Vec<u8>)> = vec![
        (GRAPH, parts.graph.as_bytes().to_vec()),
        (WEIGHTS, safetensors::write(&parts.weights)),
    ];
    if !parts.constants.is_empty() {
        entries.push((CONSTANTS, safetensors::write(&parts.constants)));
    }
    let hash = |(name, bytes): &(&str, Vec<u8>)| EntryHash {
        name: name.to_string(),
        bytes: bytes.len() as u64,
        sha256: sha256(bytes),
    };
    let envelope = Envelope {
        format: "dlm".into(),
        format_version: FORMAT_VERSION,
        dlc_version: env!("CARGO_PKG_VERSION").into(),
        manifest: parts.manifest.clone(),
        entries: entries.iter().map(hash).collect(),
        prepared: sealed
            .map(|s| Prepared { bytes: s.prepared.len() as u64, crc32: crc32(s.prepared) }),
    };
    let damaged = |e: &dyn std::fmt::Display| FormatError::Malformed {
        format: DLM,
        why: format!("it cannot be written: {e}"),
    };
    let mut manifest = serde_json::to_vec_pretty(&envelope).map_err(|e| damaged(&e))?;
    manifest.push(b'\n');
    let code = sealed.map(|s| [&s.seal.sign(&[&manifest, s.code])[..], s.code].concat());
    entries.insert(0, (MANIFEST, manifest));
    let mut borrowed: Vec<(&str, &[u8])> = entries.iter().map(|(n, b)| (*n, &b[..])).collect();
    if let (Some(code), Some(s)) = (&code, sealed) {
        borrowed.extend([(PREPARED, s.prepared), (CODE, code)]);
    }
    let mut zip = ZipWriter::new(Cursor::new(vec![]));
    for (name, bytes) in borrowed {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .system(zip::System::Unix)
            .unix_permissions(0o644)
            .large_file(bytes.len() as u64 >= u64::from(u32::MAX))
            .with_alignment(ALIGN);
        zip.start_file(name, options).map_err(|e| damaged(&e))?;
        zip.write_all(bytes).map_err(|e| damaged(&e))?;
    }
    Ok(zip.finish().map_err(|e| damaged(&e))?.into_inner())
}

/// Reads the portable parts; their tensors share the bytes.
pub fn read(bytes: SharedBytes) -> Result<Parts, FormatError> {
    File::open(bytes)?.parts()
}

/// A file whose manifest was read. Its entries are looked at when they are asked for.
pub struct File {
    bytes: SharedBytes,
    ranges: BTreeMap<String, Range<usize>>,
    envelope: Envelope,
}

impl File {
    pub fn open(bytes: SharedBytes) -> Result<File, FormatError> {
        let all = (*bytes).as_ref();
        let ranges = entries(all)?;
        let manifest = ranges.get(MANIFEST).cloned().ok_or_else(|| missing(MANIFEST))?;
        let envelope = read_manifest(&all[manifest])?;
        let mut listed: Vec<&str> = envelope.entries.iter().map(|e| e.name.as_str()).collect();
        listed.sort_unstable();
        let vouched = |n: &&str| ![MANIFEST, PREPARED, CODE].contains(n);
        if !ranges.keys().map(String::as_str).filter(vouched).eq(listed.iter().copied()) {
            return Err(bad("its entries are not those that its manifest lists"));
        }
        for name in [GRAPH, WEIGHTS] {
            ranges.get(name).ok_or_else(|| missing(name))?;
        }
        Ok(File { bytes, ranges, envelope })
    }

    pub fn manifest(&self) -> &Manifest {
        &self.envelope.manifest
    }

    /// All that is portable, after comparing checksums.
    pub fn parts(&self) -> Result<Parts, FormatError> {
        self.check(WEIGHTS)?;
        Ok(Parts {
            graph: self.graph()?,
            weights: self.tensors(WEIGHTS)?,
            constants: self.constants()?,
            manifest: self.manifest().clone(),
        })
    }

    pub fn graph(&self) -> Result<String, FormatError> {
        let text = self.check(GRAPH)?;
        if text.len() as u64 > GRAPH_LIMIT {
            let (what, bytes, limit) = ("the graph".into(), text.len() as u64, GRAPH_LIMIT);
            return Err(FormatError::Limit { what, bytes, limit });
        }
        let text = std::str::from_utf8(text).map_err(|_| bad("the graph is not text"))?;
        Ok(text.to_string())
    }

    pub fn constants(&self) -> Result<Weights, FormatError> {
        if !self.ranges.contains_key(CONSTANTS) {
            return Ok(Weights::default());
        }
        self.check(CONSTANTS)?;
        self.tensors(CONSTANTS)
    }

    /// The weights where they lie in the file, their checksum not compared: that takes reading all
    /// of them, and a model that is restored needs none.
    pub fn mapped_weights(&self) -> Result<Weights, FormatError> {
        self.tensors(WEIGHTS)
    }

    /// A copy of the code, where the seal holds: nobody can change what was compared.
    pub fn code(&self, seal: &Seal) -> Option<Vec<u8>> {
        let entry = self.content(CODE).filter(|e| e.len() <= CODE_LIMIT)?.to_vec();
        let (mac, code) = entry.split_at_checked(seal::BYTES)?;
        let vouched = seal.vouches(&[self.content(MANIFEST)?, code], mac);
        vouched.then(|| code.to_vec())
    }

    pub fn has_code(&self) -> bool {
        self.ranges.contains_key(CODE)
    }

    /// The prepared weights, if they are there and undamaged.
    pub fn prepared(&self) -> Option<SharedBytes> {
        let (bytes, expected) = (self.content(PREPARED)?, self.envelope.prepared.as_ref()?);
        let whole = bytes.len() as u64 == expected.bytes && crc32(bytes) == expected.crc32;
        whole.then(|| self.slice(PREPARED)).flatten()
    }

    fn content(&self, name: &str) -> Option<&[u8]> {
        self.ranges.get(name).map(|r| &(*self.bytes).as_ref()[r.clone()])
    }

    /// An entry that the manifest vouches for.
    fn check(&self, name: &str) -> Result<&[u8], FormatError> {
        let bytes = self.content(name).ok_or_else(|| missing(name))?;
        let expected = self.envelope.entries.iter().find(|e| e.name == name);
        match expected {
            Some(e) if e.bytes == bytes.len() as u64 && e.sha256 == sha256(bytes) => Ok(bytes),
            Some(_) | None => Err(FormatError::Altered { name: name.into() }),
        }
    }

    fn slice(&self, name: &str) -> Option<SharedBytes> {
        let range = self.ranges.get(name)?.clone();
        Some(Arc::new(Slice { owner: self.bytes.clone(), range }))
    }

    fn tensors(&self, name: &str) -> Result<Weights, FormatError> {
        let slice = self.slice(name).ok_or_else(|| missing(name))?;
        safetensors::read(slice).map_err(|e| e.within(name))
    }
}

/// For the fuzzer: reads whatever comes; what can be read must survive writing and reading again.
pub fn fuzz(data: &[u8]) {
    if let Ok(parts) = read(Arc::new(AlignedBytes::copy_of(data))) {
        let written = write(&parts, None).expect("what was read can be written");
        let again = read(Arc::new(AlignedBytes::copy_of(&written))).expect("own files are read");
        assert_eq!(parts, again, "writing and reading changes nothing");
    }
}

fn bad(why: impl Into<String>) -> FormatError {
    FormatError::Malformed { format: DLM, why: why.into() }
}

fn missing(name: &str) -> FormatError {
    bad(format!("the entry `{name}` is missing"))
}

/// Where the entries are: known names, each once, stored as they are, apart from each other.
fn entries(all: &[u8]) -> Result<BTreeMap<String, Range<usize>>, FormatError> {
    let foreign =
        |e: zip::result::ZipError| FormatError::Foreign { format: DLM, why: e.to_string() };
    let mut archive = ZipArchive::new(Cursor::new(all)).map_err(foreign)?;
    let damaged = |e: zip::result::ZipError| bad(e.to_string());
    if archive.has_duplicate_names() {
        return Err(FormatError::Duplicate { name: "an entry".into() });
    }
    if archive.offset() != 0 || archive.has_overlapping_entries().map_err(damaged)? {
        return Err(bad("its entries overlap, or do not begin at its start"));
    }
    let mut ranges = BTreeMap::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(damaged)?;
        let name = String::from_utf8_lossy(entry.name_raw()).into_owned();
        if ![MANIFEST, GRAPH, WEIGHTS, CONSTANTS, PREPARED, CODE].contains(&name.as_str()) {
            return Err(bad(format!("it has no business with an entry `{}`", name.escape_debug())));
        }
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(bad(format!("the entry `{name}` is compressed or encrypted")));
        }
        let start = entry.data_start().and_then(|s| usize::try_from(s).ok());
        let length =
            usize::try_from(entry.size()).ok().filter(|_| entry.size() == entry.compressed_size());
        let range = start.zip(length).and_then(|(s, n)| Some(s..s.checked_add(n)?));
        let range = range.filter(|r| r.end <= all.len());
        let range =
            range.ok_or_else(|| bad(format!("the entry `{name}` is not inside the file")))?;
        if !range.start.is_multiple_of(ALIGN.into()) {
            return Err(bad(format!("the entry `{name}` is not aligned")));
        }
        // The manifest vouches for the others; for itself it has the checksum of the container.
        if name == MANIFEST && io::copy(&mut entry, &mut io::sink()).is_err() {
            return Err(FormatError::Altered { name });
        }
        drop(entry);
        ranges.insert(name, range);
    }
    Ok(ranges)
}

fn read_manifest(text: &[u8]) -> Result<Envelope, FormatError> {
    if text.len() as u64 > MANIFEST_LIMIT {
        let (what, bytes, limit) = ("the manifest".into(), text.len() as u64, MANIFEST_LIMIT);
        return Err(FormatError::Limit { what, bytes, limit });
    }
    let json = |e: serde_json::Error| bad(format!("its manifest cannot be read: {e}"));
    let versions: Versions = serde_json::from_slice(text).map_err(json)?;
    if versions.format != "dlm" {
        let why = format!("its manifest says `{}`", versions.format.escape_debug());
        return Err(FormatError::Foreign { format: DLM, why });
    }
    if versions.format_version != FORMAT_VERSION {
        let (found, reads) = (versions.format_version.to_string(), FORMAT_VERSION.to_string());
        return Err(FormatError::Version { format: DLM, found, reads });
    }
    let envelope: Envelope = serde_json::from_slice(text).map_err(json)?;
    let ports = envelope.manifest.inputs.iter().chain(&envelope.manifest.outputs);
    if let Some(port) = ports.into_iter().find(|p| DType::parse(&p.dtype).is_none()) {
        return Err(bad(format!("`{}` has no dtype of dlc", port.name.escape_debug())));
    }
    Ok(envelope)
}

/// A part of shared bytes.
struct Slice {
    owner: SharedBytes,
    range: Range<usize>,
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn crc32(bytes: &[u8]) -> String {
    format!("{:08x}", crc32fast::hash(bytes))
}

#[cfg(test)]
#[path = "dlm_tests.rs"]
mod tests;
