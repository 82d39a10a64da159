//! `docs/limits.md` follows from `limits.rs`: every bound with its value and its answer.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

const HEAD: &str = "\
# Limits

<!-- Generated from src/base/limits.rs by `RINGPOST_REGENERATE=1 cargo test`; do not edit. -->

Everything in Ringpost has a bound, and a full bound is answered, never grown. A bound with a key in brackets is the
default or the range of that setting ([configuration.md](configuration.md)); the others change only with the code. Words
like SIZ-01 name the requirement that a bound meets.
";

/// The page as the constants, their comments and the section lines of `limits.rs` make it.
fn page(source: &str) -> String {
    let (mut page, mut comment, mut values) = (String::from(HEAD), String::new(), HashMap::new());
    // A long constant may be wrapped by the formatter.
    for line in source.replace("=\n", "=").lines().map(str::trim) {
        if let Some(section) = line.strip_prefix("// ---- ").and_then(|rest| rest.strip_suffix(" ----")) {
            let (first, rest) = section.split_at(1);
            write!(
                page,
                "\n## {}{rest}\n\n| bound | value | meaning and answer |\n|---|---|---|\n",
                first.to_uppercase()
            )
            .unwrap();
        } else if let Some(text) = line.strip_prefix("/// ") {
            comment = if comment.is_empty() { text.to_owned() } else { format!("{comment} {text}") };
        } else if let Some(constant) = line.strip_prefix("pub const ") {
            let (name, rest) = constant.split_once(": ").expect("NAME: type = value;");
            let (_, expression) = rest.split_once('=').expect("NAME: type = value;");
            let expression = expression.trim().strip_suffix(';').expect("a constant on one line");
            let value = evaluate(expression, &values);
            values.insert(name, value);
            assert!(!comment.is_empty(), "{name} has no comment");
            writeln!(page, "| `{name}` | {} | {} |", shown(name, value), std::mem::take(&mut comment)).unwrap();
        }
    }
    page
}

/// Sums of products of shifts of numbers and earlier constants, without brackets: what bounds are written with.
fn evaluate(expression: &str, values: &HashMap<&str, u64>) -> u64 {
    if let Some((left, right)) = expression.split_once("<<") {
        return evaluate(left, values) << evaluate(right, values);
    }
    if let Some((left, right)) = expression.split_once(" + ") {
        return evaluate(left, values) + evaluate(right, values);
    }
    if let Some((left, right)) = expression.split_once(" * ") {
        return evaluate(left, values) * evaluate(right, values);
    }
    let word = expression.trim().split(" as ").next().unwrap();
    let number = word.replace('_', "").parse().ok();
    number.or_else(|| values.get(word).copied()).unwrap_or_else(|| panic!("cannot evaluate {expression:?}"))
}

/// In the largest unit that divides it.
fn shown(name: &str, value: u64) -> String {
    let units: &[(u64, &str)] = match name {
        _ if name.ends_with("_MS") => {
            &[(86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1000, "s"), (1, "ms")]
        }
        _ if name.ends_with("_BYTES") => &[(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes")],
        _ => return value.to_string(),
    };
    let fits = |(unit, _): &&(u64, &str)| value >= *unit && value.is_multiple_of(*unit);
    units.iter().find(fits).map_or(value.to_string(), |(unit, word)| format!("{} {word}", value / unit))
}

#[test]
fn limits_page_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/limits.md");
    let expected = page(include_str!("../limits.rs"));
    if std::env::var_os("RINGPOST_REGENERATE").is_some() {
        std::fs::write(&path, &expected).expect("docs can be written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == expected, "docs/limits.md is not current; RINGPOST_REGENERATE=1 cargo test writes it anew");
}

/// The page's arithmetic is the compiler's.
#[test]
fn expressions_are_evaluated_right() {
    let page = page(include_str!("../limits.rs"));
    for (name, value) in [
        ("PATH_MAX_BYTES", super::PATH_MAX_BYTES as u64),
        ("RETRY_LONGEST_MS", super::RETRY_LONGEST_MS),
        ("SEGMENT_BYTES", super::SEGMENT_BYTES.into()),
        ("EXPIRE_MS", super::EXPIRE_MS),
    ] {
        assert!(page.contains(&format!("| `{name}` | {} |", shown(name, value))), "{name}");
    }
}
