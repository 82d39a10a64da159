//! Message ids: what is read is what is written, and nothing else is read.

use ringpost::base::ids::{MessageId, Position, ShardId};

/// Any bytes are a text an operator might give, and ten of them an id.
pub fn run(data: &[u8]) {
    let mut numbers = super::Numbers(data);
    let id = MessageId { shard: ShardId(numbers.u16()), position: Position(numbers.u64()) };
    assert_eq!(id.to_string().parse(), Ok(id));
    let Ok(text) = str::from_utf8(data) else { return };
    let fields: Vec<&str> = text.split('-').collect();
    let is_hex = |field: &str, digits_max| {
        (1..=digits_max).contains(&field.len()) && field.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let good = matches!(fields[..], [a, b, c] if is_hex(a, 4) && is_hex(b, 8) && is_hex(c, 8));
    match text.parse::<MessageId>() {
        Ok(id) => {
            assert!(good, "{text:?} is no id, but was read as {id}");
            let plain = |field: &str| format!("{:x}", u64::from_str_radix(field, 16).expect("hexadecimal"));
            assert_eq!(id.to_string(), fields.into_iter().map(plain).collect::<Vec<_>>().join("-"));
        }
        Err(_) => assert!(!good, "{text:?} is an id"),
    }
}
