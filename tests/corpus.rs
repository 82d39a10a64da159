//! Replays what the fuzzer keeps, and what it ever found, through the same targets (`docs/fuzzing.md`). Without the feature `runtime` those
//! of the pure core alone.

use std::fs;
use std::path::Path;

#[path = "fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a crate of its own for the fuzzer")]
mod fuzz;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Inputs of one target, by file name.
fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = root().join("tests/fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
        .collect();
    inputs.sort();
    inputs
}

/// Each input whole, and cut short and doubled, so that the slice without a fuzzer looks a little further.
#[test]
fn every_kept_input_passes() {
    for (name, run) in fuzz::TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for (path, data) in inputs {
            println!("{path}");
            run(&data);
            run(&data[..data.len() / 2]);
            run(&[&data[data.len() / 3..], &data[..]].concat());
        }
        run(b"");
    }
}

#[test]
fn the_corpus_stays_small() {
    let bytes: usize = fuzz::TARGETS.iter().flat_map(|(name, _)| inputs(name)).map(|(_, data)| data.len()).sum();
    assert!(bytes < 200 << 10, "{bytes} bytes");
}

/// A target that is in no list is never run, and one that the page leaves out is not known.
#[cfg(feature = "runtime")]
#[test]
fn every_target_is_built_and_told_of() {
    let [manifest, page] =
        ["tests/fuzz/Cargo.toml", "docs/fuzzing.md"].map(|path| fs::read_to_string(root().join(path)).unwrap());
    for (name, _) in fuzz::TARGETS {
        assert!(manifest.contains(&format!("\nname = \"{name}\"\n")), "{name} is not built");
        assert!(page.contains(&format!("\n| `{name}` |")), "docs/fuzzing.md has no row for {name}");
    }
    let folders = fs::read_dir(root().join("tests/fuzz/corpus")).unwrap().count();
    assert_eq!([manifest.matches("[[bin]]").count(), folders], [fuzz::TARGETS.len(); 2]);
}
