//! The conformance table: `tests/conformance.rows` names every requirement, code and tests cite its id, and
//! `docs/conformance.md` follows from both. An id that no row has, a row called met that no test names, and a page that
//! says what is not so are errors. A page that does not know of one more file that cites an id is none: who cites a
//! requirement in a new test owes nobody a new page.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

const HEAD: &str = "\
# Conformance

<!-- Generated from tests/conformance.rows and the ids in code and tests by `RINGPOST_REGENERATE=1 cargo test --test conformance`;
do not edit. It may name fewer files than cite an id, never one that does not. -->

What a peer on the wire (client, next hop, DNS server, or a restart) can decide about the relay, one row per requirement. Numbers in
the source are RFCs. Side: srv = we receive, cli = we send, que = queue, retry and store, msg = what we put in messages. Level: M = MUST
or MUST NOT, S = SHOULD, h = hardening learnt from practice. Priority: core, exp (expected of a first-class relay), later. A row is *open*
if it is not built, or not proved in full.
";

/// Look like ids and are none: the checksum and the charset, in capitals.
const OTHER_WORDS: [&str; 2] = ["CRC-32", "UTF-16"];

/// Where a row of the page has the files that cite its id.
const CODE_COLUMN: usize = 4;
const TESTS_COLUMN: usize = 5;

/// One requirement.
struct Row {
    id: String,
    met: bool,
    side: String,
    level: String,
    priority: String,
    source: String,
    requirement: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The rows by section, in order.
fn sections() -> Vec<(String, Vec<Row>)> {
    let mut sections: Vec<(String, Vec<Row>)> = Vec::new();
    for line in fs::read_to_string(root().join("tests/conformance.rows")).unwrap().lines() {
        if let Some(title) = line.strip_prefix("## ") {
            sections.push((title.to_owned(), Vec::new()));
        } else if !line.is_empty() && !line.starts_with('#') {
            let fields: Vec<&str> = line.splitn(7, " | ").collect();
            let [id, state, side, level, priority, source, requirement] = fields[..] else { panic!("{line}") };
            assert!(matches!(state, "met" | "open"), "{line}");
            assert!(matches!(side, "srv" | "cli" | "both" | "que" | "msg"), "{line}");
            assert!(matches!(level, "M" | "S" | "h"), "{line}");
            assert!(matches!(priority, "core" | "exp" | "later"), "{line}");
            let [id, side, level, priority, source, requirement] =
                [id, side, level, priority, source, requirement].map(str::to_owned);
            let row = Row { id, met: state == "met", side, level, priority, source, requirement };
            sections.last_mut().expect("a section before its rows").1.push(row);
        }
    }
    sections
}

/// Every file below `folder`.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            // What a fuzzer found is no citation, whatever it looks like.
            if !path.ends_with("fuzz/corpus") && !path.ends_with("fuzz/target") {
                files(&path, found);
            }
        } else {
            found.push(path);
        }
    }
}

/// The ids that a text cites: `DAT-01`, `DAT-01..DAT-03`, `DAT-01..03`, `DAT-01, -05`, `DAT-01/02`.
fn cited(text: &str) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    let mut rest = text;
    while let Some((prefix, number, behind)) = next_id(rest) {
        rest = behind;
        let mut last = number;
        ids.insert(format!("{prefix}-{last:02}"));
        loop {
            let steps = [("..", true), ("/", false), (", -", false)];
            let Some((tail, range)) = steps.iter().find_map(|(s, range)| Some((rest.strip_prefix(s)?, range))) else {
                break;
            };
            let tail = tail.strip_prefix(prefix).and_then(|tail| tail.strip_prefix('-')).unwrap_or(tail);
            let Some((number, behind)) = two_digits(tail) else { break };
            let from = if *range { last } else { number };
            ids.extend((from..=number).map(|number| format!("{prefix}-{number:02}")));
            (last, rest) = (number, behind);
        }
    }
    ids
}

/// The first id in a text, and what stands behind it.
fn next_id(text: &str) -> Option<(&str, u32, &str)> {
    text.match_indices('-').find_map(|(dash, _)| {
        let prefix = text.get(dash.checked_sub(3)?..dash).filter(|p| p.bytes().all(|b| b.is_ascii_uppercase()))?;
        let stands_alone = !text[..dash - 3].ends_with(|c: char| c.is_alphanumeric() || c == '-');
        let (number, behind) = two_digits(&text[dash + 1..])?;
        stands_alone.then_some((prefix, number, behind))
    })
}

/// A number of just two digits, and what stands behind it.
fn two_digits(text: &str) -> Option<(u32, &str)> {
    let (digits, behind) = text.split_at_checked(2)?;
    let ends = !behind.starts_with(|c: char| c.is_ascii_digit());
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().unwrap()).filter(|_| ends).map(|n| (n, behind))
}

/// Which files cite each id: code, and tests.
#[derive(Default)]
struct Citations {
    code: BTreeMap<String, BTreeSet<String>>,
    tests: BTreeMap<String, BTreeSet<String>>,
}

impl Citations {
    fn gather() -> Citations {
        let mut found = Vec::new();
        files(&root().join("src"), &mut found);
        files(&root().join("tests"), &mut found);
        let mut citations = Citations::default();
        for path in found {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            let Ok(text) = fs::read_to_string(&path) else { continue };
            if name.starts_with("tests/conformance.") || name.ends_with(".md") || name.ends_with("README") {
                continue;
            }
            let all_tests = !name.starts_with("src/") || name.contains("/tests") || name.ends_with("/model.rs");
            let (code, tests) = if all_tests {
                ("", &*text)
            } else {
                text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&text, ""))
            };
            for (text, by_id) in [(code, &mut citations.code), (tests, &mut citations.tests)] {
                for id in cited(text) {
                    by_id.entry(id).or_default().insert(name.clone());
                }
            }
        }
        citations
    }
}

fn page(sections: &[(String, Vec<Row>)], citations: &Citations) -> String {
    let mut page = String::from(HEAD);
    let rows = || sections.iter().flat_map(|(_, rows)| rows);
    writeln!(page, "\n| priority | met | open |\n|---|---|---|").unwrap();
    for priority in ["core", "exp", "later"] {
        let (met, open): (Vec<&Row>, Vec<&Row>) = rows().filter(|r| r.priority == priority).partition(|r| r.met);
        let open: Vec<&str> = open.iter().map(|row| &*row.id).collect();
        writeln!(page, "| {priority} | {} | {}: {} |", met.len(), open.len(), open.join(" ")).unwrap();
    }
    let names = |of: Option<&BTreeSet<String>>| {
        of.map_or(String::new(), |files| files.iter().map(|file| format!("`{file}`")).collect::<Vec<_>>().join(" "))
    };
    for (title, rows) in sections {
        let head = "| id | requirement | source | side, level, priority | code | tests | state |\n|---|---|---|---|---|---|---|";
        writeln!(page, "\n## {title}\n\n{head}").unwrap();
        for row in rows {
            let Row { id, met, side, level, priority, source, requirement } = row;
            let (code, tests) = (names(citations.code.get(id)), names(citations.tests.get(id)));
            let state = if *met { "met" } else { "open" };
            writeln!(
                page,
                "| {id} | {requirement} | {source} | {side} {level} {priority} | {code} | {tests} | {state} |"
            )
            .unwrap();
        }
    }
    page
}

#[test]
fn every_id_has_a_row_and_every_met_row_a_proof() {
    let sections = sections();
    let rows: Vec<&Row> = sections.iter().flat_map(|(_, rows)| rows).collect();
    let ids: BTreeSet<&str> = rows.iter().map(|row| &*row.id).collect();
    assert_eq!(ids.len(), rows.len(), "a row stands twice");
    assert!(rows.len() > 200, "only {} rows", rows.len());
    let citations = Citations::gather();
    for (id, files) in citations.code.iter().chain(&citations.tests) {
        let known = ids.contains(&**id) || OTHER_WORDS.contains(&&**id);
        assert!(known, "{files:?} cites {id}, which tests/conformance.rows does not have");
    }
    for row in rows {
        let named = citations.tests.contains_key(&row.id);
        assert!(named || !row.met, "{} is called met, and no test names it", row.id);
    }
}

/// Whether what a line of the page says is so: as expected, but for files that it does not name. It names one at least of the
/// code and of the tests that cite an id, if there are any.
fn still_holds(line: &str, expected: &str) -> bool {
    let (cells, expected): (Vec<&str>, Vec<&str>) = (line.split(" | ").collect(), expected.split(" | ").collect());
    cells.len() == expected.len()
        && cells.iter().zip(&expected).enumerate().all(|(column, (cell, expected))| {
            let may_lack = matches!(column, CODE_COLUMN | TESTS_COLUMN) && cell.starts_with('`');
            cell == expected || may_lack && cell.split(' ').all(|name| expected.split(' ').any(|known| known == name))
        })
}

#[test]
fn the_page_is_current() {
    let path = root().join("docs/conformance.md");
    let expected = page(&sections(), &Citations::gather());
    if std::env::var_os("RINGPOST_REGENERATE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let page = fs::read_to_string(&path).unwrap_or_default();
    let stale = page.lines().zip(expected.lines()).find(|(line, expected)| !still_holds(line, expected));
    let command = "RINGPOST_REGENERATE=1 cargo test --test conformance";
    if let Some((line, expected)) = stale {
        panic!("docs/conformance.md is not so any more; `{command}` renews it.\nIt says: {line}\nIt is:   {expected}");
    }
    assert_eq!(
        page.lines().count(),
        expected.lines().count(),
        "rows came or went; `{command}` renews docs/conformance.md"
    );
}

#[test]
fn a_page_may_lack_a_file_and_no_more() {
    let line = "| A-1 | text | 1 | srv M core | `a` `b` | `c` | met |";
    assert!(still_holds(line, line));
    assert!(still_holds(line, "| A-1 | text | 1 | srv M core | `a` `b` `d` | `b` `c` | met |"), "files more");
    for otherwise in [
        "| A-1 | text | 1 | srv M core | `a` | `c` | met |",
        "| A-1 | text | 1 | srv M core | `a` `b` |  | met |",
        "| A-1 | text | 1 | srv M core | `a` `b` | `c` | open |",
        "| A-1 | text more | 1 | srv M core | `a` `b` | `c` | met |",
        "| A-2 | text | 1 | srv M core | `a` `b` | `c` | met |",
    ] {
        assert!(!still_holds(line, otherwise), "{otherwise}");
    }
    assert!(!still_holds("| A-1 | text | 1 | srv M core |  | `c` | met |", line), "the first file is not named");
}

#[test]
fn citations_are_read_in_all_their_forms() {
    let ids = |text: &str| cited(text).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(ids("(DAT-01, PIP-02; RFC 5321)"), "DAT-01 PIP-02");
    assert_eq!(ids("DSN-01..03, -11, -13: x"), "DSN-01 DSN-02 DSN-03 DSN-11 DSN-13");
    assert_eq!(ids("TRC-01..TRC-03. EXT-04/06"), "EXT-04 EXT-06 TRC-01 TRC-02 TRC-03");
    assert_eq!(ids("CVE-2011-0411 SHA-256 XDAT-01 DAT-1 DAT-012 dat-01"), "");
}
