//! No bytes make it panic: the targets of `fuzz/`, over their kept corpus and seeded mutations of it.
//!
//! `FUZZ_SECONDS` (1 for each target where it is not set) and `FUZZ_SEED` by hand; `FUZZ_TARGET` for one alone. An input that
//! fails is written to `target/fuzz/`, to be kept in `fuzz/corpus/` under a name that says what it is.

use std::panic::catch_unwind;
use std::time::Duration;

use fastrand::Rng;
use tributary::clock;

use crate::support::root;

mod corpus;
#[path = "../../fuzz/targets/lib.rs"]
mod targets;

const BYTES_MAX: usize = 16 << 10;
/// Far beyond what any input takes, also in a debug build beside other tests.
const CPU_MAX: Duration = Duration::from_secs(10);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = root().join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("a corpus").map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Pieces that mutations are made of: numbers at borders, and what stands between blanks in texts of the corpus.
fn pieces(corpus: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> = [
        &b"\0"[..],
        b"\x01",
        b"\x02",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\xff\xff\xff\x0f",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\n",
        b"\"",
        b"'",
        b"{",
        b"[",
        b"(",
        b"&a ",
        b"*a",
        b"-1",
        b"9223372036854775807",
        b"1e308",
        b"null",
        b"\xc3\xa9",
        b"\xf0\x9f\x8e\x89",
    ]
    .iter()
    .map(|piece| piece.to_vec())
    .collect();
    let words = corpus.iter().flat_map(|text| text.split(|byte| b" \n\t\",()[]{}".contains(byte)));
    pieces.extend(words.filter(|word| (2..=32).contains(&word.len())).map(<[u8]>::to_vec));
    pieces.sort();
    pieces.dedup();
    pieces
}

fn mutate(corpus: &[Vec<u8>], pieces: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut data = corpus[random.usize(..corpus.len())].clone();
    for _ in 0..1 << random.u32(0..4) {
        let at = random.usize(..=data.len());
        let end = (at + random.usize(..=16)).min(data.len());
        match random.u32(0..8) {
            0 if at < data.len() => data[at] ^= 1 << random.u32(0..8),
            1 if at < data.len() => data[at] = random.u8(..),
            2 if at < data.len() => data[at] = data[at].wrapping_add([1, 255][random.usize(..2)]),
            3 => drop(data.splice(at..end, [])),
            4 => drop(
                data.splice(at..at, std::iter::repeat_with(|| random.u8(..)).take(1 + end - at).collect::<Vec<_>>()),
            ),
            5 => drop(data.splice(at..[at, end][random.usize(..2)], pieces[random.usize(..pieces.len())].clone())),
            6 => {
                let copy = data[at..end].repeat(1 + random.usize(..8));
                drop(data.splice(at..at, copy));
            }
            _ => {
                let other = &corpus[random.usize(..corpus.len())];
                let from = random.usize(..=other.len());
                let to = (from + random.usize(..=64)).min(other.len());
                drop(data.splice(at..end, other[from..to].iter().copied()));
            }
        }
    }
    data.truncate(BYTES_MAX);
    data
}

/// CPU time of this thread, which does not count pauses of the process.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Runs one input, which may take seconds at most; an input that fails is kept in `target/fuzz`.
fn run(name: &str, data: &[u8], what: &str) {
    let ran = catch_unwind(|| {
        let before = cpu_ns();
        targets::run(name, data);
        let took = Duration::from_nanos(cpu_ns().saturating_sub(before));
        assert!(took < CPU_MAX, "took {took:?}");
    });
    if let Err(panic) = ran {
        let folder = root().join("target/fuzz");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}-{:016x}", xxhash_rust::xxh3::xxh3_64(data)));
        std::fs::write(&file, data).unwrap();
        println!("{name}: {what} fails; the input is {}", file.display());
        std::panic::resume_unwind(panic);
    }
}

fn fuzz(name: &str) {
    if std::env::var("FUZZ_TARGET").is_ok_and(|only| only != name) {
        return;
    }
    let corpus = corpus(name);
    for (index, data) in corpus.iter().enumerate() {
        run(name, data, &format!("file {index} of the corpus"));
    }
    let seed = number("FUZZ_SEED", 1);
    let until = clock::instant() + Duration::from_secs(number("FUZZ_SECONDS", 1));
    let pieces = pieces(&corpus);
    let mut random = Rng::with_seed(seed);
    let mut inputs = 0_u64;
    while clock::instant() < until {
        let data = mutate(&corpus, &pieces, &mut random);
        run(name, &data, &format!("input {inputs} of FUZZ_SEED={seed}"));
        inputs += 1;
    }
    println!("{name}: {} files of the corpus, {inputs} mutations, FUZZ_SEED={seed}", corpus.len());
}

#[test]
fn avro() {
    fuzz("avro");
}

#[test]
fn container() {
    fuzz("container");
}

#[test]
fn definitions() {
    fuzz("definitions");
}

#[test]
fn expressions() {
    fuzz("expressions");
}

#[test]
fn framing() {
    fuzz("framing");
}

#[test]
fn json() {
    fuzz("json");
}

#[test]
fn rows() {
    fuzz("rows");
}

#[test]
fn stored() {
    fuzz("stored");
}
