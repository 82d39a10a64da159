//! The alias table: any text is read or refused, and what an address stands for enters an envelope whole or not at all, within
//! the bounds, each address once (FND-04).

use std::collections::HashMap;

use ringpost::base::limits::{ENVELOPE_PARAMETERS_MAX_BYTES, EXPANDED_RECIPIENTS_MAX, RECIPIENTS_MAX_BYTES};
use ringpost::mail::address::domain_of;
use ringpost::mail::aliases::Aliases;
use ringpost::mail::envelope::Envelope;
use ringpost::mail::parameters::{ParameterBlock, RecipientParameters};

/// Any bytes that are a text are a table; its words are the recipients.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(table) = Aliases::parse(text) else { return };
    let mut rng = super::rng(data);
    let mut envelope = Envelope::new();
    if rng.below(4) > 0 {
        envelope.set_sender(b"sender@source.example");
    }
    // How often each address was given, and not expanded.
    let mut given: HashMap<Vec<u8>, usize> = HashMap::new();
    let words = text.split(|c: char| c == ',' || c.is_ascii_whitespace());
    for word in words.filter(|word| word.contains('@')).take(20) {
        let notify: &[u8] = [&b""[..], b"NEVER", b"SUCCESS", b"SUCCESS,FAILURE,DELAY"][rng.below(4) as usize];
        let said = RecipientParameters { notify, orcpt: if rng.below(2) == 0 { b"" } else { b"rfc822;x@y" } };
        let before = envelope.len();
        match table.find(word.as_bytes()).filter(|entry| entry.expands()) {
            Some(entry) => {
                let taken = table.expand(entry, &said, &mut envelope).is_ok();
                assert!(taken == (envelope.len() > before), "whole or not at all");
            }
            None if rng.below(2) == 0 => {
                envelope.push_recipient(word.as_bytes());
                *given.entry(named(word.as_bytes())).or_default() += 1;
                envelope.set_recipient_parameters(&said);
            }
            None => {}
        }
    }
    check(&envelope, &given);
}

/// An address as it is compared: the domain in lower case.
fn named(address: &[u8]) -> Vec<u8> {
    let mut address = address.to_vec();
    let local = address.len() - domain_of(&address).len();
    address[local..].make_ascii_lowercase();
    address
}

fn check(envelope: &Envelope, given: &HashMap<Vec<u8>, usize>) {
    assert!(envelope.len() <= EXPANDED_RECIPIENTS_MAX && envelope.recipients_bytes() <= RECIPIENTS_MAX_BYTES);
    assert!(envelope.parameters_bytes() <= ENVELOPE_PARAMETERS_MAX_BYTES);
    let (mut order, mut block) = (Vec::new(), Vec::new());
    envelope.sort(&mut order);
    envelope.write_parameters(&order, Default::default(), &mut block);
    assert!(block.len() <= ENVELOPE_PARAMETERS_MAX_BYTES);
    let block = ParameterBlock(&block);
    let mut seen: HashMap<(bool, Vec<u8>), usize> = HashMap::new();
    let mut number = 0;
    while number < order.len() {
        let stretch = block.stretch(number);
        let end = stretch.end.min(order.len());
        assert!(end > number, "a stretch has recipients");
        for &place in &order[number..end] {
            let address = named(envelope.recipient(place.into()));
            *seen.entry((stretch.is_told(), address)).or_default() += 1;
        }
        number = end;
    }
    for ((told, address), count) in &seen {
        // Whom nobody expanded may be there as often as it was given.
        let most = if *told { 1 } else { given.get(address).copied().unwrap_or(0).max(1) };
        assert!(*count <= most, "{count} times {:?}", String::from_utf8_lossy(address));
    }
    let left_out = envelope
        .recipients()
        .map(named)
        .find(|address| ![false, true].iter().any(|told| seen.contains_key(&(*told, address.clone()))));
    assert!(left_out.is_none(), "{:?} is lost", left_out.map(|address| String::from_utf8_lossy(&address).into_owned()));
}
