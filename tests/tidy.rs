//! Taste as a test: what may stand where, what must be said, and that what the pages name exists.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `folder` whose name ends in `ending`, sorted.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_string_lossy().into_owned()
}

/// The code of a file without comments and without what its tests say.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// True if `name` stands in `text` as a path of its own, `name::`.
fn names_crate(text: &str, name: &str) -> bool {
    let path = format!("{name}::");
    text.match_indices(&path)
        .any(|(at, _)| !text[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':'))
}

#[test]
fn crates_are_named_in_one_room() {
    let rooms: &[(&str, &[&str])] = &[
        ("glommio", &["src/runtime/"]),
        ("rustls", &["src/runtime/tls", "src/runtime/signing.rs"]),
        ("rcgen", &["src/runtime/tls", "src/control/auth/tokens.rs"]),
        ("libc", &["src/runtime/"]),
        ("landlock", &["src/runtime/privileges.rs"]),
        ("ppp", &["src/smtp/proxy.rs"]),
        ("socket2", &["src/runtime/"]),
        ("crossbeam", &["src/runtime/"]),
        ("idna", &["src/mail/address.rs"]),
        ("tokio", &["src/control/"]),
        ("hickory_resolver", &["src/control/"]),
        ("argon2", &["src/control/auth/"]),
        ("aws_lc_rs", &["src/control/auth/", "src/runtime/tls", "src/runtime/signing.rs"]),
        ("jsonwebtoken", &["src/control/auth/"]),
        ("md4", &["src/control/auth/ntlm.rs"]),
        ("md5", &["src/control/auth/ntlm.rs"]),
        ("hmac", &["src/control/auth/"]),
        ("libloading", &["src/control/auth/gssapi.rs"]),
        ("reqwest", &["src/control/"]),
        ("flate2", &["src/control/reports/"]),
        ("ratatui", &["src/top.rs"]),
        ("axum", &["src/control/http/"]),
        ("hyper", &["src/control/http/"]),
        ("hyper_util", &["src/control/http/"]),
        ("prometheus_client", &["src/control/http/"]),
        ("minijinja", &["src/control/http/"]),
        ("mail_builder", &["src/control/http/"]),
        ("serde", &["src/config/", "src/main.rs", "src/cli", "src/control/http/"]),
        // A machine is described to `ringpost tune` in TOML, too.
        ("toml", &["src/config/", "src/tune/topology.rs"]),
        ("clap", &["src/main.rs", "src/cli"]),
        // Whoever drives the whole relay as a child process: the demonstration, and the search for the best settings.
        ("loadgen", &["src/demo.rs", "src/tune/search.rs"]),
    ];
    for path in files("src", ".rs") {
        let (name, text) = (relative(&path), code(&path));
        for (krate, allowed) in rooms {
            assert!(
                !names_crate(&text, krate) || allowed.iter().any(|room| name.starts_with(room)),
                "{name} names {krate}, which belongs in {allowed:?}"
            );
        }
    }
}

/// The pure rooms take time, bytes and randomness in; they fetch none themselves.
#[test]
fn pure_rooms_are_pure() {
    let pure = ["base", "smtp", "mail", "queue", "schedule", "route", "shard"];
    let impure = [
        "std::fs",
        "std::thread",
        "std::net::Tcp",
        "std::net::Udp",
        "Instant::now",
        "SystemTime",
        "std::sync::Mutex",
        "async fn",
        ".await;",
        ".await?",
        ".await)",
    ];
    for room in pure {
        for path in files(&format!("src/{room}"), ".rs") {
            let (name, text) = (relative(&path), code(&path));
            // The spool's directory is for start-up and tools; tests may look at pages and clocks.
            if name.starts_with("src/queue/spool") || name.contains("tests") || name.ends_with("model.rs") {
                continue;
            }
            for word in impure {
                assert!(!text.contains(word), "{name} holds `{word}`; it belongs in src/runtime or src/control");
            }
        }
    }
}

#[test]
fn loadgen_shares_no_code_with_what_it_measures() {
    for path in files("loadgen", ".rs") {
        assert!(!names_crate(&code(&path), "ringpost"), "{} names ringpost", relative(&path));
    }
    let rooms: &[(&str, &str)] = &[
        ("rustls", "loadgen/src/tls.rs"),
        ("rcgen", "loadgen/src/tls.rs"),
        ("hickory_proto", "loadgen/src/dns.rs"),
        ("httparse", "loadgen/src/http.rs"),
    ];
    for path in files("loadgen/src", ".rs") {
        let (name, text) = (relative(&path), code(&path));
        for (krate, room) in rooms {
            assert!(!names_crate(&text, krate) || name == *room, "{name} names {krate}, which belongs in {room}");
        }
    }
    let manifest = fs::read_to_string(root().join("loadgen/Cargo.toml")).unwrap();
    assert!(!manifest.contains("\nringpost"), "loadgen depends on ringpost");
}

#[test]
fn every_file_says_what_it_is_for() {
    for path in ["src", "loadgen/src", "tests", "benches"].iter().flat_map(|folder| files(folder, ".rs")) {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} begins without a header", relative(&path));
    }
}

#[test]
fn files_fit_a_reader() {
    for path in files("src", ".rs").into_iter().chain(files("loadgen/src", ".rs")) {
        let name = relative(&path);
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 900, "{name} has {lines} lines; split it by idea");
    }
}

#[test]
fn the_flow_page_names_what_exists() {
    let page = fs::read_to_string(root().join("docs/flow.md")).unwrap();
    let mut named = 0;
    for word in page.split(|c: char| !(c.is_alphanumeric() || "/._".contains(c))) {
        if word.contains('/') && word.ends_with(".rs") {
            assert!(root().join("src").join(word).exists(), "docs/flow.md names src/{word}, which does not exist");
            named += 1;
        }
    }
    assert!(named > 30, "the page names the path's files; {named} found");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = files("docs", ".md");
    pages.extend(files("benches", ".md"));
    pages.push(root().join("README.md"));
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap().split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            let path = page.parent().unwrap().join(target);
            assert!(path.exists(), "{} links to {target}, which does not exist", relative(&page));
        }
    }
}

/// An edit that no longer fits breaks nothing, and so proves nothing.
#[test]
fn mutants_fit_the_code() {
    let edits = files("tests/mutants", ".edit");
    assert!(edits.len() > 20, "{} mutants", edits.len());
    for edit in edits {
        let (name, text) = (relative(&edit), fs::read_to_string(&edit).unwrap());
        let mut file = None;
        for part in text.split("\n>>>>") {
            let Some((head, change)) = part.split_once("<<<<\n") else { continue };
            file = head.lines().rev().find_map(|line| line.strip_prefix("@ ")).or(file);
            let (from, _) = change.split_once("\n====\n").unwrap_or_else(|| panic!("{name} has a part without ===="));
            let path = file.unwrap_or_else(|| panic!("{name} names no file"));
            let count = fs::read_to_string(root().join(path)).unwrap().matches(from).count();
            assert_eq!(count, 1, "{name}: what it replaces in {path} is not there exactly once:\n{from}");
        }
    }
}

#[test]
fn the_top_level_holds_what_it_should() {
    let allowed = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "benches",
        "loadgen",
        "tests",
        "docs",
        "README.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ];
    let not_ours = ["target", "ringpost-queue"];
    for entry in fs::read_dir(root()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let fine = name.starts_with('.') || allowed.contains(&&*name) || not_ours.contains(&&*name);
        assert!(fine, "{name} does not belong at the top level");
    }
}
