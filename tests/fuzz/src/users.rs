//! The file of users: a naive reader finds the same users and senders, what is kept of them is written and reads the same again, and
//! errors say nothing of what stands there (AUT-06, AUT-08).

use ringpost::base::limits::USER_NAME_MAX_BYTES;
use ringpost::control::auth::fuzzed::Known;
use ringpost::smtp::auth::Senders;

const ERRORS: [&str; 3] = [
    "the name is too long",
    "want a name, a verifier as `ringpost user add` makes it, and perhaps senders",
    "the user stands there twice",
];

/// Any bytes that are a text are a file.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let lines: Vec<&str> = text.split('\n').map(str::trim).collect();
    let entries = || lines.iter().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| words(line));
    match Known::read(text) {
        Err(error) => {
            let (line, why) = error.strip_prefix("line ").and_then(|rest| rest.split_once(": ")).expect("a line");
            let line: usize = line.parse().expect("a number");
            assert!((1..=lines.len()).contains(&line) && ERRORS.contains(&why), "{error}");
        }
        Ok(known) => {
            let mut written = String::new();
            for (name, verifier, senders) in entries() {
                let (user, kept) = known.find(name).expect("a user for each line");
                assert!(*user.name == *name && name.len() <= USER_NAME_MAX_BYTES);
                assert_eq!(user.senders, Senders::parse(senders));
                let marks = ["$argon2", "$3$$", "SCRAM-SHA-256$", "kerberos"];
                assert!(marks.iter().any(|mark| verifier.starts_with(mark) && kept.starts_with(mark)));
                written += &format!("{name} {kept} {senders}\n");
            }
            let again = Known::read(&written).expect("it was written");
            for (name, ..) in entries() {
                assert_eq!(again.find(name), known.find(name));
            }
            let mut names: Vec<&str> = entries().map(|(name, ..)| name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|two| two[0] != two[1]), "who stands there twice is not known");
        }
    }
}

/// Name, verifier, and all behind; each ends at one blank.
fn words(line: &str) -> (&str, &str, &str) {
    let cut = |text| {
        let mut parts = str::splitn(text, 2, char::is_whitespace);
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
    };
    let (name, rest) = cut(line);
    let (verifier, senders) = cut(rest);
    (name, verifier, senders)
}
