//! The alias table: what is read, what is refused, and where mail goes in the end, against a naive walk.

use std::collections::BTreeMap;

use super::*;
use crate::mail::parameters::ParameterBlock;
use proptest::prelude::*;

const TABLE: &str = "\
# A comment, and an empty line.

alias   sales@Example.org   anna@b.example, bert@c.example # both
list    news@example.org    owner=o@example.org by-member
        carl@d.example,anna@B.example
\tdora#1@e.example
forward old@example.org     sales@example.org
moved   former@example.org  now@g.example
gone    nobody@example.org
";

fn targets(table: &Aliases, address: &str) -> Vec<String> {
    let entry = table.find(address.as_bytes()).unwrap_or_else(|| panic!("{address} is there"));
    entry.targets.iter().map(|target| String::from_utf8_lossy(&target.address).into_owned()).collect()
}

#[test]
fn a_table_is_read() {
    // FND-03, FND-04
    let table = Aliases::parse(TABLE).unwrap();
    assert_eq!(targets(&table, "SALES@example.ORG"), ["anna@b.example", "bert@c.example"]);
    assert_eq!(targets(&table, "news@example.org"), ["carl@d.example", "anna@B.example", "dora#1@e.example"]);
    assert_eq!(targets(&table, "old@example.org"), ["anna@b.example", "bert@c.example"]);
    let kind = |address: &str| table.find(address.as_bytes()).map(Entry::kind);
    assert_eq!(kind("news@example.org"), Some(Kind::List(0)));
    assert_eq!((kind("former@example.org"), kind("nobody@example.org")), (Some(Kind::Moved), Some(Kind::Gone)));
    assert_eq!(kind("carl@d.example"), None);
    assert_eq!(table.find(&[b'a'; 1000]), None);
    assert!(!table.is_empty() && Aliases::parse("# nothing\n").unwrap().is_empty());
    // Bounces for a member come to the owner; nobody else has such names.
    let table = Aliases::parse(&(TABLE.to_owned() + "alias o@example.org admin@x.example\n")).unwrap();
    assert_eq!(targets(&table, "O+carl=d.example@example.org"), ["admin@x.example"]);
    assert!(table.find(b"sales+carl=d.example@example.org").is_none() && table.find(b"o@x+y@example.org").is_none());
    let members: Vec<_> = table.find(b"old@example.org").unwrap().members().collect();
    assert_eq!(members, [b"sales@example.org"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let many: String = (0..=EXPANDED_RECIPIENTS_MAX).map(|n| format!(" m{n}@x")).collect();
    let deep: String = (0..=ALIAS_DEPTH_MAX).map(|n| format!("alias a{n}@x a{}@x\n", n + 1)).collect();
    for (text, error) in [
        (" alias a@x b@x", "line 1: begins with a blank"),
        ("alias", "line 1: want a kind and an address"),
        ("other a@x b@x", "line 1: \"other\" is none of"),
        ("\nalias a@x", "line 2: want at least one address"),
        ("alias a b@x", "line 1: \"a\" is no address"),
        ("alias a@x b@@x", "line 1: \"b@@x\" is no address"),
        ("alias a@x j\u{f6}rg@x", "line 1: \"j\u{f6}rg@x\" is no address"),
        ("alias a@x <b@x>", "line 1: \"<b@x>\" is no address"),
        ("alias a@x b@x>c", "line 1: \"b@x>c\" is no address"),
        ("list a@x b@x", "line 1: a list needs owner="),
        ("list a@x owner=o@x", "line 1: want at least one address"),
        ("forward a@x b@x c@x", "line 1: want exactly one new address"),
        ("moved a@x", "line 1: want exactly one new address"),
        ("gone a@x b@x", "line 1: who is gone stands for nobody"),
        ("alias a@x b@x\nlist A@X owner=o@x c@x", "line 2: a@x stands in line 1 already"),
        ("alias a@x b@x\nalias b@x a@x", "line 1: a@x > b@x goes in a circle"),
        ("alias a@x b@x\ngone b@x", "line 1: a@x leads to b@x, who has moved or is gone"),
        (&format!("alias a@x{many}"), "line 1: a@x stands for 10000 addresses"),
        (&deep, "line 1: a0@x > a1@x"),
    ] {
        let found = Aliases::parse(text).expect_err(text);
        assert!(found.starts_with(error), "{found}\n{error}");
    }
}

fn expand(table: &Aliases, sender: &str, recipients: &[(&str, &str)]) -> (Envelope, Vec<Result<(), Full>>) {
    let mut envelope = Envelope::new();
    envelope.set_sender(sender.as_bytes());
    let mut outcomes = Vec::new();
    for (recipient, notify) in recipients {
        let said = RecipientParameters { notify: notify.as_bytes(), orcpt: b"" };
        match table.find(recipient.as_bytes()) {
            Some(entry) => outcomes.push(table.expand(entry, &said, &mut envelope)),
            None => {
                envelope.push_recipient(recipient.as_bytes());
                envelope.set_recipient_parameters(&said);
            }
        }
    }
    (envelope, outcomes)
}

/// The recipients as they are recorded, each with the reverse-path of its group; `!` for those that are only told of.
fn recorded(envelope: &Envelope) -> Vec<String> {
    let (mut order, mut block) = (Vec::new(), Vec::new());
    envelope.sort(&mut order);
    envelope.write_parameters(&order, Default::default(), &mut block);
    let block = ParameterBlock(&block);
    let shown = |(number, &place): (usize, &u16)| {
        let stretch = block.stretch(number);
        let mark = if stretch.is_told() { "!" } else { "" };
        let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("{mark}{} {}", of(stretch.sender(envelope.sender())), of(envelope.recipient(place.into())))
    };
    order.iter().enumerate().map(shown).collect()
}

#[test]
fn whom_rcpt_gave_is_not_added_again() {
    // FND-04: whichever came first; whom RCPT gave twice stays twice, as ever.
    let table = Aliases::parse(TABLE).unwrap();
    let given = [("anna@B.example", ""), ("news@example.org", ""), ("dora#1@e.example", ""), ("x@y", ""), ("x@y", "")];
    let (envelope, _) = expand(&table, "s@t", &given);
    assert_eq!((envelope.len(), envelope.given()), (7, 5));
    let found = recorded(&envelope);
    assert_eq!(
        found,
        ["s@t anna@B.example", "s@t dora#1@e.example", "s@t x@y", "s@t x@y", "o@example.org carl@d.example"]
    );
    // A local part in another case is another one.
    let (envelope, _) = expand(&table, "s@t", &[("Anna@b.example", ""), ("sales@example.org", "")]);
    assert_eq!(recorded(&envelope), ["s@t Anna@b.example", "s@t anna@b.example", "s@t bert@c.example"]);
}

#[test]
fn bounds_hold_over_a_transaction() {
    // FND-04: what does not fit is not added at all.
    let members: String = (0..6000).map(|n| format!(" m{n}@x")).collect();
    let table = Aliases::parse(&format!("alias a@x{members}\nalias b@x{}", members.replace('m', "n"))).unwrap();
    let (envelope, outcomes) = expand(&table, "s@t", &[("a@x", ""), ("b@x", ""), ("c@x", "")]);
    assert_eq!(outcomes, [Ok(()), Err(Full::Recipients)]);
    assert_eq!((envelope.len(), envelope.given()), (6001, 2));
    // One alone always fits, whatever was said of it: then only what is needed goes along to each.
    let all = RecipientParameters { notify: b"SUCCESS,FAILURE,DELAY", orcpt: &[b'o'; 500] };
    let mut envelope = Envelope::new();
    envelope.set_sender(b"s@t");
    let entry = table.find(b"a@x").unwrap();
    assert_eq!(table.expand(entry, &all, &mut envelope), Ok(()));
    assert!(envelope.parameters_bytes() <= ENVELOPE_PARAMETERS_MAX_BYTES);
    assert_eq!(table.expand(entry, &all, &mut envelope), Err(Full::Recipients));
}

proptest! {
    /// Any text is read or refused; what is read leads where a naive walk leads.
    #[test]
    fn targets_are_those_of_a_naive_walk(
        entries in proptest::collection::vec((0usize..6, 0u8..3, proptest::collection::vec(0usize..9, 1..4)), 0..6),
    ) {
        let name = |number: &usize| format!("m{number}@x.example");
        let mut naive: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut text = String::new();
        for (of, kind, members) in &entries {
            if naive.contains_key(&name(of)) {
                continue;
            }
            let members: Vec<String> = members.iter().map(name).collect();
            let head = ["alias", "list", "alias"][usize::from(*kind)];
            let owner = if head == "list" { "owner=o@x.example" } else { "" };
            text += &format!("{head} {} {owner} {}\n", name(of), members.join(","));
            naive.insert(name(of), members);
        }
        fn walk(naive: &BTreeMap<String, Vec<String>>, address: &str, above: &mut Vec<String>, found: &mut Vec<String>) -> bool {
            above.push(address.to_owned());
            for member in &naive[address] {
                if member == address || !naive.contains_key(member) {
                    if !found.contains(member) {
                        found.push(member.clone());
                    }
                } else if above.contains(member) || !walk(naive, member, above, found) {
                    return false;
                }
            }
            above.pop();
            true
        }
        let mut circle = false;
        let mut wanted = Vec::new();
        for address in naive.keys() {
            let mut found = Vec::new();
            circle |= !walk(&naive, address, &mut Vec::new(), &mut found);
            wanted.push((address.clone(), found));
        }
        match Aliases::parse(&text) {
            Err(error) => prop_assert!(circle && error.contains("in a circle"), "{}\n{}", error, text),
            Ok(table) => {
                prop_assert!(!circle, "{}", text);
                for (address, found) in wanted {
                    prop_assert_eq!(targets(&table, &address), found);
                }
            }
        }
    }

    #[test]
    fn any_text_is_read_without_panic(text in "([a-z@ ,#=\n\t]|alias |list |owner=|a@b|forward |moved |gone |by-member){0,60}") {
        if let Ok(table) = Aliases::parse(&text) {
            for entry in table.entries.values() {
                prop_assert_eq!(table.find(entry.address()).map(|found| found.line), Some(entry.line));
                prop_assert_eq!(entry.expands(), !matches!(entry.kind(), Kind::Moved | Kind::Gone));
            }
        }
    }
}
